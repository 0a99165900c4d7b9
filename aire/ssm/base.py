"""What all kinds of state space layer share: which arrays belong to states, cutting, masking, modes, states.

Axis legend of the whole package: B batch, L length, H features, P states of a MIMO layer such as S5 (those that are
stored: one of each conjugate pair under conjugate symmetry), N state dimension of an S4D channel, n stored states of
any layer, R scan directions (1 or 2).
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from aire.ssm.modes import Modes
from aire.ssm.scan import diagonal_scan
from aire.utils.errors import UserError


class StateSpaceLayer(nnx.Module):
    """x_k = λ̄ x_{k-1} + B̄ u_k, y_k = s Re(C x_k) + D u_k in one direction or two: (B, L, H) to (B, L, H).

    A kind of layer sets the three class attributes below, holds its output map in `C_re`, `C_im` (whose last axis is
    the states') and `D (H,)`, and defines `discrete`, `drive` and `__call__`. A stable form of `margin` is worth
    having. `aire.ssm.mimo.MIMO` defines all but `discrete` for layers whose states see all features.

    Attributes:
        STATE_AXIS: which axis of which array belongs to the states. Cutting and importing read it here alone.
        ROLES: what each trained array is: "eigenvalue", "step", "input", "output" or "skip". The optimiser groups
            parameters by it.
        RUN_OPTIONS: the fields of `config` that belong to a run, not to what was learned.
        config: the layer's options, a frozen dataclass with a field `kind`, and `bidirectional` if it can be.
    """

    STATE_AXIS: ClassVar[Mapping[str, int]]
    ROLES: ClassVar[Mapping[str, str]]
    RUN_OPTIONS: ClassVar[tuple[str, ...]] = ()

    config: Any

    @property
    def n_states(self) -> int:
        """Stored states n."""
        name, axis = next(iter(self.STATE_AXIS.items()))
        return getattr(self, name).shape[axis]

    @property
    def reverse(self) -> tuple[bool, ...]:
        """Of each scan direction, whether it runs from the last step to the first; one where `config` says nothing."""
        return (False, True) if getattr(self.config, "bidirectional", False) else (False,)

    @property
    def output_scale(self) -> float:
        """The factor s of the output: 2 where one of each conjugate pair is stored."""
        return 1.0

    def discrete(self) -> tuple[Array, Array]:
        """λ̄ complex (n,) and B̄ complex (n, inputs of a channel)."""
        raise NotImplementedError

    def drive(self, u: Array) -> Array:
        """B̄ u as real and imaginary part, (B, L, 2, n), in the parameters' precision."""
        raise NotImplementedError

    def margin(self) -> Array:
        """1 − |λ̄|², real (n,). A kind that knows log |λ̄| keeps more digits near 1."""
        return 1 - jnp.abs(self.discrete()[0]) ** 2

    def channels(self) -> Array:
        """The independent system that each state belongs to, int32 (n,), ascending; one system unless overridden."""
        return jnp.zeros(self.n_states, jnp.int32)

    def readout(self) -> Array:
        """C, complex (R, outputs of a channel, n)."""
        return jax.lax.complex(self.C_re[...], self.C_im[...])

    def modes(self) -> Modes:
        """The layer as a bank of discrete modes: what scores read."""
        return Modes(*self.discrete(), self.readout(), self.margin(), self.channels())

    def state_pairs(self, u: Array) -> Array:
        """All states from zero initial ones, real and imaginary part: (B, L, R, 2, n) for inputs u (B, L, H)."""
        return diagonal_scan(self.discrete()[0], self.drive(u), reverse=self.reverse)

    def states(self, u: ArrayLike) -> Array:
        """All states from zero initial ones, complex (B, L, R, n), for inputs u (B, L, H)."""
        x = self.state_pairs(as_floats(u, self.D.dtype))
        return jax.lax.complex(x[..., 0, :], x[..., 1, :])

    def cut(self, keep: ArrayLike) -> Self:
        """A layer with only the states where `keep`, bool (n,), is true. Its arrays are really smaller."""
        kept = np.flatnonzero(np.asarray(keep))
        return self._replaced(
            {name: jnp.take(getattr(self, name)[...], kept, axis=axis) for name, axis in self.STATE_AXIS.items()}
        )

    def mask(self, keep: ArrayLike) -> Self:
        """A layer of the same size in which the states where `keep`, bool (n,), is false reach no output."""
        return self._replaced({name: jnp.where(keep, getattr(self, name)[...], 0) for name in ("C_re", "C_im")})

    def with_readout(self, C: ArrayLike, D: ArrayLike) -> Self:
        """The layer with another output map: C, complex as `readout` gives it, and D (H,)."""
        C, D = jnp.asarray(C), jnp.asarray(D)
        if C.shape != self.readout().shape or D.shape != self.D.shape:
            expected = f"C {list(self.readout().shape)} and D {list(self.D.shape)}"
            raise UserError(f"readout with C {list(C.shape)} and D {list(D.shape)}: expected {expected}")
        parts = {"C_re": C.real, "C_im": C.imag, "D": D}
        own = {name: getattr(self, name) for name in parts}
        return self._replaced({name: a.reshape(own[name].shape).astype(own[name].dtype) for name, a in parts.items()})

    def initial_state(self, batch: int) -> Array:
        """Zero states, complex (B, n), to begin `step` with."""
        return jnp.zeros((batch, self.n_states), jnp.result_type(self.D[...], jnp.complex64))

    def check_one_direction(self) -> None:
        """Raises UserError if the layer is bidirectional: such a layer needs the whole sequence."""
        if len(self.reverse) > 1:
            raise UserError("step() needs a one-directional layer: a bidirectional one needs the whole sequence")

    def _replaced(self, arrays: Mapping[str, Array]) -> Self:
        """A copy with other arrays in its variables, which keep their metadata."""
        layer = nnx.clone(self)
        for name, array in arrays.items():
            setattr(layer, name, getattr(self, name).replace(array))
        return layer


def as_floats(u: ArrayLike, dtype: jnp.dtype) -> Array:
    """Inputs of a layer as floats: in their own precision, or in `dtype` where they are integers or booleans."""
    u = jnp.asarray(u)
    return u if jnp.issubdtype(u.dtype, jnp.floating) else u.astype(dtype)
