"""Modules with shapes instead of arrays. Building one computes nothing, whatever its sizes are."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Shaped

T = TypeVar("T")

_BUILDING = ContextVar("building", default=False)  # whether `abstract` is running in this thread


class _Rngs:
    """Random keys for shapes: always the same one.

    `nnx.Rngs` counts its calls in an array. While tracing, each addition costs a search through all operations so far,
    so the time would grow with the square of the number of layers.
    """

    def __init__(self) -> None:
        self._key = jax.random.key(0)

    def __getattr__(self, stream: str) -> Callable[[], Array]:
        return lambda: self._key


def abstract(make: Callable[[nnx.Rngs], T]) -> T:
    """Return the module that make(rngs) returns, with shapes instead of arrays.

    JAX's operations compute nothing here. What an initialiser computes with NumPy goes through `host_arrays`.
    """
    token = _BUILDING.set(True)
    try:
        return nnx.eval_shape(lambda: make(cast(nnx.Rngs, _Rngs())))
    finally:
        _BUILDING.reset(token)


def host_arrays(
    compute: Callable[[], tuple[np.ndarray, ...]], *shapes: jax.ShapeDtypeStruct
) -> tuple[Shaped[Array, "..."], ...]:
    """Return the arrays that `compute` returns, converted to the dtypes of `shapes`.

    Inside `abstract`, only the shapes are used. An eigendecomposition of a size read from a file would otherwise take
    minutes and gigabytes before the file can be refused.
    """
    if _BUILDING.get():
        return tuple(jnp.zeros(s.shape, s.dtype) for s in shapes)
    return tuple(jnp.asarray(array, s.dtype) for array, s in zip(compute(), shapes, strict=True))
