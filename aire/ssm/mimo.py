"""The diagonal layer whose states all see all features and all reach all outputs: what S5 and LRU have in common."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from aire.ssm.base import StateSpaceLayer, as_floats


class MIMO(StateSpaceLayer):
    """One multi-input, multi-output diagonal system. A kind defines `gain`, its parameters and their initialisation.

    Parameters of every kind: B_re, B_im (P, H); C_re, C_im (R, H, P); D (H,). A layer may hold zero states: it is then
    y = D u.

    The recurrence has a custom VJP: gradients are reverse mode only (no jvp, no jacfwd). Compute Hessian-vector
    products as grad of grad.
    """

    def gain(self) -> tuple[Array, Array]:
        """λ̄ and g with B̄ = g B, both complex (P,)."""
        raise NotImplementedError

    def discrete(self) -> tuple[Array, Array]:
        """λ̄ complex (P,) and B̄ complex (P, H)."""
        Lambda_bar, gain = self.gain()
        return Lambda_bar, gain[:, None] * jax.lax.complex(self.B_re[...], self.B_im[...])

    def drive(self, u: Array) -> Array:
        """B̄ u as real and imaginary part, (B, L, 2, P), by one real matmul with [Re | Im]."""
        B, L, H = u.shape
        _, B_bar = self.discrete()
        W = jnp.concatenate([B_bar.real, B_bar.imag]).astype(u.dtype)
        v = jnp.matmul(u.reshape(-1, H), W.T, preferred_element_type=B_bar.real.dtype)  # on two axes: see `Linear`
        return v.reshape(B, L, 2, -1)

    def __call__(self, u: ArrayLike) -> Array:
        """Outputs (B, L, H) for inputs u (B, L, H), from zero initial states.

        Inputs may be bfloat16: the outputs then are too, and the recurrence still runs in the parameters' float32.
        """
        u = as_floats(u, self.D.dtype)
        rows = u.reshape(-1, u.shape[-1])
        y = self.D[...].astype(u.dtype) * rows
        if self.n_states:
            x = self.state_pairs(u).astype(u.dtype)
            C = self.output_scale * jnp.stack([self.C_re[...], -self.C_im[...]], axis=1)  # (R, 2, H, P)
            y += x.reshape(len(rows), -1) @ C.swapaxes(2, 3).reshape(-1, rows.shape[-1]).astype(u.dtype)
        return y.reshape(u.shape)

    def step(self, u: Array, x: Array) -> tuple[Array, Array]:
        """One step of the recurrence: y (B, H) and the new states (B, P) from u (B, H) and the states x (B, P).

        Raises:
            UserError: if the layer is bidirectional, because it then needs the whole sequence.
        """
        self.check_one_direction()
        Lambda_bar, gain = self.gain()  # B̄ itself is not formed: that would take longer than the step
        x = Lambda_bar * x + gain * jax.lax.complex(u @ self.B_re[...].T, u @ self.B_im[...].T)
        Cx = x.real @ self.C_re[0].T - x.imag @ self.C_im[0].T
        return self.output_scale * Cx + self.D[...] * u, x
