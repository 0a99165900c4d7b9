"""What a gradient stores until the backward pass, as XLA compiled it."""

import jax
import jax.numpy as jnp
import numpy as np

from aire.models.recompute import checkpoint_second_stage, depend_on

W = 0.1 * jax.random.normal(jax.random.key(1), (64, 64))


def compiled_gradient(layer, depth=8):
    """Bytes of temporary memory for a stack of layers, in units of one of its arrays; and the gradient."""
    x = jax.random.normal(jax.random.key(0), (4096, 64))

    def loss(x, w):
        for _ in range(depth):
            x = layer(x, w)
        return jnp.sum(x**2)

    run = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(x, W).compile()
    return run.memory_analysis().temp_size_in_bytes / x.nbytes, run(x, W)


def test_only_inputs_and_the_first_stage_are_kept():
    def first(x, w):
        return jnp.tanh(x) @ w

    def second(x, z):
        return jnp.sin(x) * jnp.tanh(z) + x

    plain, expected = compiled_gradient(lambda x, w: second(x, first(x, w)))
    kept, found = compiled_gradient(checkpoint_second_stage(first, second))
    assert plain > 30  # of eight layers: x, tanh x, cos x or sin x, z or tanh z, ...
    assert kept < 24  # x and z of eight layers, and the arrays of one layer's backward pass
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * jnp.abs(b).max())


def test_depend_on_changes_no_value_whatever_it_waits_for():
    tree = {"a": jnp.arange(3.0), "b": jnp.ones((2, 2), jnp.bfloat16)}
    for value in (jnp.ones(3), jnp.full((2, 2), -jnp.inf), jnp.array(1e38), jnp.array(jnp.nan)):
        waited = depend_on(value, tree)
        jax.tree.map(np.testing.assert_array_equal, waited, tree)
        assert waited["b"].dtype == jnp.bfloat16


def test_depend_on_is_a_barrier_on_accelerators():
    traced = jax.jit(depend_on).trace(jnp.ones(3), {"a": jnp.arange(3.0)})
    barriers = {p: "optimization_barrier" in traced.lower(lowering_platforms=(p,)).as_text() for p in ("cpu", "cuda")}
    assert barriers == {"cpu": False, "cuda": True}
