"""`Modes`: the discrete modes of a layer in flat form, the input of scores."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, Int, Num
from numpy.typing import ArrayLike

from aire.utils.arguments import follow, is_traced, numbers
from aire.utils.checks import number
from aire.utils.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Modes:
    """The n modes of one layer: x_k = λ̄ x_{k-1} + B̄ u_k, y_k = s Re(C x_k).

    This form covers a multi-input, multi-output system (S5: all modes in channel 0) and a bank of independent systems
    with different numbers of modes (S4D: one input and one output per channel). In both, each mode is a state of the
    count, which is kept or cut. A state of a selective layer (S6) is one mode in every channel.

    Attributes:
        Lambda_bar: discrete eigenvalues λ̄.
        B_bar: discrete input matrix B̄.
        C: output matrix. Two directions share λ̄ and B̄.
        margin: 1 − |λ̄|², accurate for |λ̄| close to 1; zero or negative for an unstable mode.
        channel: the system that each mode belongs to, ascending.
        unit: the state of the count that each mode belongs to; None if each mode is its own.
        scale: the factor s of the output: 2 if one of each conjugate pair is stored. Scores do not depend on it.
        nominal: whether the modes of a selective layer, which depend on its inputs, are those of its parameters alone.
    """

    Lambda_bar: Complex[Array, "n"]
    B_bar: Complex[Array, "n I"]
    C: Complex[Array, "R O n"]
    margin: Float[Array, "n"]
    channel: Int[Array, "n"]
    scale: float = dataclasses.field(default=1.0, metadata={"static": True})
    unit: Int[Array, "n"] | None = None
    nominal: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def n_states(self) -> int:
        """The number of states of the count. Not inside `jit`, because it reads the units."""
        return self.margin.size if self.unit is None else int(np.max(self.unit, initial=-1)) + 1

    def by_state(self, values: Num[Array, "n"]) -> Num[Array, "states"]:
        """Add values of modes over the modes of each state."""
        return values if self.unit is None else jax.ops.segment_sum(values, self.unit, self.n_states)

    def by_mode(self, values: ArrayLike) -> np.ndarray:
        """Repeat values of states, such as a mask, for the modes of each state."""
        return np.asarray(values) if self.unit is None else np.asarray(values)[np.asarray(self.unit)]

    def state_channels(self) -> Int[Array, "states"]:
        """The channel of each state: the first that has a mode of it."""
        return self.channel if self.unit is None else jax.ops.segment_min(self.channel, self.unit, self.n_states)

    @classmethod
    def discrete(
        cls,
        Lambda_bar: ArrayLike,
        B_bar: ArrayLike,
        C: ArrayLike,
        *,
        channel: ArrayLike | None = None,
        scale: float = 1.0,
        unit: ArrayLike | None = None,
    ) -> Self:
        """Make modes from arrays of any framework that `numpy.asarray` accepts.

        1 − |λ̄|² is computed in float64 as (1 − |λ̄|)(1 + |λ̄|). Its precision is that of λ̄: float32 eigenvalues within
        1e-6 of the unit circle leave one or two digits.

        Args:
            Lambda_bar: discrete eigenvalues λ̄, real or complex (n,).
            B_bar: discrete input matrix B̄, (n, inputs).
            C: output matrix, (outputs, n), or (directions, outputs, n).
            channel: the independent system that each mode belongs to, integers (n,), ascending. None: one system.
            scale: factor of the output, as in `Modes`.
            unit: the state that each mode belongs to, integers (n,) from 0, if states have several modes. Scores then
                are by state.
        Raises:
            UserError: an array has a wrong shape or is not numeric, channels descend, or a unit is negative.
        """
        given = {"Lambda_bar": Lambda_bar, "B_bar": B_bar, "C": C}
        arrays = {name: _numbers(name, a) for name, a in given.items()}
        follow("scale", scale, number(above=0))
        lam, B, C = arrays.values()
        C = C[None] if C.ndim == 2 else C
        n = lam.size
        channel = np.zeros(n, np.int32) if channel is None else np.asarray(numbers("channel", channel))
        if lam.ndim != 1 or B.ndim != 2 or len(B) != n or C.ndim != 3 or C.shape[-1] != n or channel.shape != (n,):
            shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in (arrays | {"channel": channel}).items())
            raise UserError(
                f"modes from {shapes}: expected Lambda_bar (n,), B_bar (n, inputs), "
                "C (outputs, n) or (directions, outputs, n), and channel (n,)"
            )
        if channel.dtype.kind not in "iu" or (np.diff(channel.astype(np.int64)) < 0).any():
            raise UserError("channel: expected integers in ascending order; sort the modes by their channel")
        if unit is not None:
            unit = np.asarray(unit)
            if unit.shape != (n,) or unit.dtype.kind not in "iu" or (unit < 0).any():
                raise UserError(f"unit {unit.dtype}{list(unit.shape)}: expected integers from 0, one for each mode")
            unit = jnp.asarray(unit, np.int32)
        radius = np.abs(lam.astype(np.complex128))
        dtype = jax.dtypes.canonicalize_dtype(np.result_type(*arrays.values(), np.complex64))
        margin = ((1 - radius) * (1 + radius)).astype(np.finfo(dtype).dtype)
        Lambda_bar, B_bar, C = (jnp.asarray(a, dtype) for a in (lam, B, C))
        return cls(Lambda_bar, B_bar, C, jnp.asarray(margin), jnp.asarray(channel, np.int32), scale, unit)


def _numbers(name: str, given: ArrayLike) -> np.ndarray:
    array = numbers(name, given, kinds="fciu", expected="real or complex numbers")
    if is_traced(array) or array.dtype.kind not in "fciu":  # bfloat16 is of another kind in NumPy
        raise UserError(f"{name} has dtype {array.dtype}: expected real or complex numbers, not traced")
    return np.asarray(array)
