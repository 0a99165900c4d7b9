"""Functions whose gradients store few residuals and recompute the rest."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Shaped

PyTree = Any


def checkpoint_second_stage(first: Callable[..., PyTree], second: Callable[..., Array]) -> Callable[..., Array]:
    """Return f(x, w) = second(x, first(x, w)), whose VJP saves only x, w and first(x, w).

    `jax.checkpoint` does not help on a CPU. XLA merges the recomputation with the first computation. With a barrier
    between them it schedules the recomputation early, because it drops barriers before it schedules.

    Args:
        first: function of x and w, trees of float arrays. Its value is expensive to recompute.
        second: function of x and that value, cheap to recompute.
    """

    @jax.custom_vjp
    def function(x: PyTree, w: PyTree) -> Array:
        return second(x, first(x, w))

    def forward(x: PyTree, w: PyTree) -> tuple[Array, tuple[PyTree, ...]]:
        z = first(x, w)
        return second(x, z), (x, w, z)

    def backward(residuals: tuple[PyTree, ...], cotangent: Array) -> tuple[PyTree, PyTree]:
        x, w, z = depend_on(cotangent, residuals)
        x_cotangent, z_cotangent = jax.vjp(second, x, z)[1](cotangent)
        more, w_cotangent = jax.vjp(first, x, w)[1](z_cotangent)
        return jax.tree.map(jnp.add, x_cotangent, more), w_cotangent

    function.defvjp(forward, backward)
    return function


def checkpoint_inputs(call: Callable[[Array, PyTree, PyTree], tuple[Array, PyTree]]) -> Callable[..., Any]:
    """Return `call`, whose VJP saves only its inputs and computes everything else again.

    Args:
        call: maps x, a tree w of float arrays and another tree to a value and a tree. Neither of the other trees has
            gradients.
    """

    @jax.custom_vjp
    def function(x: Array, w: PyTree, other: PyTree) -> tuple[Array, PyTree]:
        return call(x, w, other)

    def forward(x: Array, w: PyTree, other: PyTree) -> tuple[tuple[Array, PyTree], tuple[PyTree, ...]]:
        return call(x, w, other), (x, w, other)

    def backward(residuals: tuple[PyTree, ...], cotangents: tuple[Array, PyTree]) -> tuple[PyTree, ...]:
        x, w, other = residuals
        x, w = depend_on(cotangents[0], (x, w))
        return *jax.vjp(lambda x, w: call(x, w, other)[0], x, w)[1](cotangents[0]), None

    function.defvjp(forward, backward)
    return function


def depend_on(value: Shaped[Array, "..."], tree: PyTree) -> PyTree:
    """Identity on `tree` that adds a data dependency on `value` (a scheduling barrier).

    On a CPU it adds a zero that XLA cannot fold, because XLA drops barriers there before it schedules. On other
    platforms it is an optimization barrier.
    """

    def add_zero(value: Array, tree: PyTree) -> PyTree:
        zero = jnp.fmin(jnp.abs(value[(0,) * value.ndim]), 0)  # zero for NaN and infinity, too
        return jax.tree.map(lambda a: a + zero.astype(a.dtype), tree)

    def barrier(value: Array, tree: PyTree) -> PyTree:
        return jax.lax.optimization_barrier((value, tree))[1]

    return jax.lax.platform_dependent(value, tree, cpu=add_zero, default=barrier)
