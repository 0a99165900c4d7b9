"""`Modes`: a layer's discrete modes in flat form: what scores see of a layer's parameters."""

import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from aire.utils.errors import UserError


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Modes:
    """The n modes of one layer: x_k = λ̄ x_{k-1} + B̄ u_k, y_k = C x_k.

    One form for a multi-input, multi-output system (S5: all modes in channel 0) and for banks of independent systems
    whose channels hold different numbers of modes (S4D: one input and one output each).

    Attributes:
        Lambda_bar: discrete eigenvalues λ̄, complex (n,).
        B_bar: discrete input matrix B̄, complex (n, inputs of a channel).
        C: output matrix, complex (directions, outputs of a channel, n). Two directions share λ̄ and B̄.
        margin: 1 − |λ̄|², real (n,), accurate where |λ̄| is close to 1; not positive where a mode is unstable.
        channel: the system that each mode belongs to, int32 (n,), ascending.
    """

    Lambda_bar: Array
    B_bar: Array
    C: Array
    margin: Array
    channel: Array

    @classmethod
    def discrete(
        cls, Lambda_bar: ArrayLike, B_bar: ArrayLike, C: ArrayLike, *, channel: ArrayLike | None = None
    ) -> Self:
        """Modes from plain arrays of any framework: whatever `numpy.asarray` takes.

        1 − |λ̄|² is formed in float64 as (1 − |λ̄|)(1 + |λ̄|). It has the digits that λ̄ has: float32 eigenvalues within
        1e-6 of the unit circle leave one or two.

        Args:
            Lambda_bar: discrete eigenvalues λ̄, real or complex (n,).
            B_bar: discrete input matrix B̄, (n, inputs).
            C: output matrix, (outputs, n), or (directions, outputs, n).
            channel: the independent system that each mode belongs to, integers (n,), ascending; None: all are one
                system.
        Raises:
            UserError: an array with another shape or without numbers, or channels that descend.
        """
        arrays = {name: _numbers(name, a) for name, a in {"Lambda_bar": Lambda_bar, "B_bar": B_bar, "C": C}.items()}
        lam, B, C = arrays.values()
        C = C[None] if C.ndim == 2 else C
        n = lam.size
        channel = np.zeros(n, np.int32) if channel is None else np.asarray(channel)
        if lam.ndim != 1 or B.ndim != 2 or len(B) != n or C.ndim != 3 or C.shape[-1] != n or channel.shape != (n,):
            shapes = ", ".join(f"{name} {list(a.shape)}" for name, a in (arrays | {"channel": channel}).items())
            raise UserError(
                f"modes from {shapes}: expected Lambda_bar (n,), B_bar (n, inputs), "
                "C (outputs, n) or (directions, outputs, n), and channel (n,)"
            )
        if channel.dtype.kind not in "iu" or (np.diff(channel.astype(np.int64)) < 0).any():
            raise UserError("channel: expected integers in ascending order; sort the modes by their channel")
        radius = np.abs(lam.astype(np.complex128))
        dtype = jax.dtypes.canonicalize_dtype(
            np.result_type(*arrays.values(), np.complex64)
        )  # float64 where JAX has it
        margin = ((1 - radius) * (1 + radius)).astype(np.finfo(dtype).dtype)
        lam, B, C = (jnp.asarray(a, dtype) for a in (lam, B, C))
        return cls(lam, B, C, jnp.asarray(margin), jnp.asarray(channel, np.int32))


def _numbers(name: str, array: ArrayLike) -> np.ndarray:
    try:
        array = np.asarray(array)
    except Exception as error:  # frameworks raise what they like: a tensor on another device, or with a gradient
        raise UserError(f"{name} cannot be read as a NumPy array: {error}") from error
    if array.dtype.kind not in "fciu":
        raise UserError(f"{name} has dtype {array.dtype}: expected real or complex numbers")
    return array
