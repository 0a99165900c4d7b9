"""Functions whose gradients keep little: what they are computed from, and compute the rest again."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

PyTree = Any


def two_stages(first: Callable[..., PyTree], second: Callable[..., Array]) -> Callable[..., Array]:
    """f(x, w) = second(x, first(x, w)), differentiated from x, w and the value of `first` alone.

    What `jax.checkpoint` is for. On a CPU that does not help: XLA merges what is computed again with what was computed
    before, or, kept from that by a barrier, computes it early, for barriers are gone when the order is fixed.

    Args:
        first: of trees of float arrays x and w, whose value costs more to compute again than to keep.
        second: of x and that value.
    """

    @jax.custom_vjp
    def function(x: PyTree, w: PyTree) -> Array:
        return second(x, first(x, w))

    def forward(x: PyTree, w: PyTree) -> tuple[Array, tuple[PyTree, ...]]:
        z = first(x, w)
        return second(x, z), (x, w, z)

    def backward(kept: tuple[PyTree, ...], cotangent: Array) -> tuple[PyTree, PyTree]:
        x, w, z = after(cotangent, kept)
        x_cotangent, z_cotangent = jax.vjp(second, x, z)[1](cotangent)
        more, w_cotangent = jax.vjp(first, x, w)[1](z_cotangent)
        return jax.tree.map(jnp.add, x_cotangent, more), w_cotangent

    function.defvjp(forward, backward)
    return function


def after(value: Array, tree: PyTree) -> PyTree:
    """Identity on `tree` that adds a data dependency on `value` (a scheduling barrier).

    On a CPU it adds a zero that XLA cannot fold, because XLA drops barriers there before it schedules; on other
    platforms it is a barrier.
    """

    def add_zero(value: Array, tree: PyTree) -> PyTree:
        zero = jnp.fmin(jnp.abs(value[(0,) * value.ndim]), 0)  # also of NaN and infinity
        return jax.tree.map(lambda a: a + zero.astype(a.dtype), tree)

    def barrier(value: Array, tree: PyTree) -> PyTree:
        return jax.lax.optimization_barrier((value, tree))[1]

    return jax.lax.platform_dependent(value, tree, cpu=add_zero, default=barrier)
