"""The diagonal layer in which every state sees all features and reaches all outputs: the base of S5 and LRU."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Shaped

from aire.ssm.base import StateSpaceLayer


class MIMO(StateSpaceLayer):
    """One multi-input, multi-output diagonal system. A subclass defines `gain` and its parameters.

    Parameters of every subclass: B_re, B_im (P, H); C_re, C_im (R, H, P); D (H,). With zero states the layer is
    y = D u.

    The recurrence has a custom VJP: gradients are reverse mode only (no jvp, no jacfwd). Compute Hessian-vector
    products as grad of grad.
    """

    B_re: nnx.Param
    B_im: nnx.Param

    def gain(self) -> tuple[Complex[Array, "P"], Complex[Array, "P"]]:
        """λ̄ and g with B̄ = g B."""
        raise NotImplementedError

    def discrete(self) -> tuple[Complex[Array, "P"], Complex[Array, "P H"]]:
        """λ̄ and B̄."""
        Lambda_bar, gain = self.gain()
        return Lambda_bar, gain[:, None] * jax.lax.complex(self.B_re[...], self.B_im[...])

    def drive(self, u: Float[Array, "B L H"]) -> Float[Array, "B L 2 P"]:
        """Real and imaginary part of B̄ u, by one real matmul with [Re | Im]."""
        B, L, H = u.shape
        _, B_bar = self.discrete()
        W = jnp.concatenate([B_bar.real, B_bar.imag]).astype(u.dtype)
        v = jnp.matmul(u.reshape(-1, H), W.T, preferred_element_type=B_bar.real.dtype)  # on two axes: see `Linear`
        return v.reshape(B, L, 2, -1)

    def __call__(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L H"]:
        """Apply the layer to a sequence, from zero initial states.

        Outputs have the precision of the inputs. With bfloat16 inputs the recurrence still runs in float32. For the
        error over very long sequences see `aire.ssm.scan.diagonal_scan`.

        Raises:
            UserError: `u` is no array (B, L, H) of numbers.
        """
        u = self._inputs(u)
        return self.read(self.state_pairs(u), u) if self.n_states else self.D[...].astype(u.dtype)[None, None] * u

    def read(self, x: Float[Array, "B L R 2 P"], u: Float[Array, "B L H"]) -> Float[Array, "B L H"]:
        rows = u.reshape(-1, u.shape[-1])
        y = self.D[...].astype(u.dtype)[None] * rows
        if self.n_states:
            x = x.astype(u.dtype)
            C = self.output_scale * jnp.stack([self.C_re[...], -self.C_im[...]], axis=1)  # (R, 2, H, P)
            y += x.reshape(rows.shape[0], -1) @ C.swapaxes(2, 3).reshape(-1, rows.shape[-1]).astype(u.dtype)
        return y.reshape(u.shape)

    def step(
        self, u: Float[Array, "B H"], x: Complex[Array, "B P"]
    ) -> tuple[Float[Array, "B H"], Complex[Array, "B P"]]:
        """Advance the recurrence by one step: return the output y and the new states.

        Raises:
            UserError: a wrong shape or dtype, or the layer is bidirectional, so it needs the complete sequence.
        """
        u, x = self._step_inputs(u, x)
        Lambda_bar, gain = self.gain()  # does not form B̄, which would take longer than the step
        x = Lambda_bar[None] * x + gain[None] * jax.lax.complex(u @ self.B_re[...].T, u @ self.B_im[...].T)
        Cx = x.real @ self.C_re[0].T - x.imag @ self.C_im[0].T
        return self.output_scale * Cx + self.D[...][None] * u, x
