"""Batch norm against Flax's: values, running statistics, gradients, both precisions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.models.normalization import BatchNorm


def made(kind, dtype):
    norm = kind(5, momentum=0.9, dtype=dtype, rngs=nnx.Rngs(0))
    norm.scale[...], norm.bias[...] = jax.random.normal(jax.random.key(1), (2, 5))
    return norm


def differentiated(norm, x):
    """The normalised x, and the function from its cotangent to those of x and the parameters."""
    graphdef, params, rest = nnx.split(norm, nnx.Param, ...)

    def call(x, params):
        return nnx.merge(graphdef, params, rest, copy=True)(x)

    return jax.vjp(jax.jit(call), x, nnx.to_pure_dict(params))


@pytest.mark.parametrize("shape", [(40, 5), (4, 10, 5)])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("bfloat16", 2e-2)])
def test_flax_is_the_oracle(shape, dtype, tolerance):
    x = (3 + 2 * jax.random.normal(jax.random.key(0), shape)).astype(dtype)
    cotangent = jax.random.normal(jax.random.key(2), shape).astype(dtype)
    results = []
    for kind in (BatchNorm, nnx.BatchNorm):
        y, vjp = differentiated(made(kind, dtype), x)
        x_gradient, gradients = vjp(cotangent)
        assert y.dtype == x.dtype == x_gradient.dtype and gradients["scale"].dtype == jnp.float32
        results.append((y, x_gradient, gradients["scale"], gradients["bias"]))
    for found, expected in zip(*results, strict=True):
        np.testing.assert_allclose(
            np.float32(found), np.float32(expected), rtol=tolerance, atol=tolerance * np.abs(np.float32(expected)).max()
        )


def test_running_statistics_and_their_use():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 10, 5))
    ours, flax = made(BatchNorm, "float32"), made(nnx.BatchNorm, "float32")
    for norm in (ours, flax):
        norm(x)
        norm(x + 1)
    for name in ("mean", "var"):
        np.testing.assert_allclose(getattr(ours, name)[...], getattr(flax, name)[...], rtol=1e-6)
    ours.eval(), flax.eval()
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [{"use_scale": False}, {"use_bias": False}, {"axis_name": "batch"}, {"axis": 0}, {"use_running_average": True}],
)
def test_options_that_it_does_not_support_are_refused(options):
    with pytest.raises(TypeError, match=next(iter(options))):
        BatchNorm(5, rngs=nnx.Rngs(0), **options)


def test_a_mask_is_refused():
    with pytest.raises(TypeError, match="mask"):
        made(BatchNorm, "float32")(jnp.ones((8, 5)), mask=jnp.ones((8, 1), bool))


def test_its_defaults_are_flaxs():
    ours, flax = (kind(5, rngs=nnx.Rngs(0)) for kind in (BatchNorm, nnx.BatchNorm))
    assert (ours.momentum, ours.epsilon, ours.dtype) == (flax.momentum, flax.epsilon, flax.dtype)


def test_a_constant_feature_has_no_gradient():
    x = jnp.ones((8, 5))
    norm = made(BatchNorm, "float32")
    y, vjp = differentiated(norm, x)
    np.testing.assert_array_equal(y, jnp.broadcast_to(norm.bias[...], y.shape))
    np.testing.assert_allclose(vjp(jnp.ones_like(y))[0], 0, atol=1e-4)
