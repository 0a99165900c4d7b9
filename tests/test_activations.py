"""The activations' values and gradients against SciPy and automatic differentiation, far into the tails too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from aire.activations import gate, gelu

Y = np.concatenate([np.linspace(-12, 12, 97), [-50, 50, 0]]).astype(np.float32)


def test_exact_gelu_and_its_derivative():
    exact = scipy.stats.norm
    np.testing.assert_allclose(gelu(Y, False), Y * exact.cdf(Y), rtol=1e-6, atol=1e-6)
    derivative = jax.vmap(jax.grad(lambda y: gelu(y, False)))(Y)
    np.testing.assert_allclose(derivative, exact.cdf(Y) + Y * exact.pdf(Y), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("approximate", [True, False])
def test_gelu_is_that_of_jax(approximate):
    cotangent = jnp.linspace(-2, 3, len(Y))
    expected, expected_vjp = jax.vjp(lambda y: jax.nn.gelu(y, approximate), Y)
    value, vjp = jax.vjp(lambda y: gelu(y, approximate), Y)
    np.testing.assert_array_equal(value, expected)
    np.testing.assert_allclose(vjp(cotangent)[0], expected_vjp(cotangent)[0], rtol=3e-6, atol=2e-6)


def test_gate_and_its_derivatives():
    g, z, cotangent = jax.random.normal(jax.random.key(0), (3, len(Y))) * jnp.array([[1.0], [8.0], [1.0]])
    expected, expected_vjp = jax.vjp(lambda g, z: g * jax.nn.sigmoid(z), g, z)
    value, vjp = jax.vjp(gate, g, z)
    np.testing.assert_array_equal(value, expected)
    for found, wanted in zip(vjp(cotangent), expected_vjp(cotangent), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_one_dropout_mask_for_all_steps(make_model):
    block = make_model(dropout=0.5).blocks[0]
    block.train()
    dropped = block._drop(jnp.ones((4, 7, 8)), nnx.Rngs(dropout=3))
    np.testing.assert_array_equal(dropped, jnp.broadcast_to(dropped[:, :1], dropped.shape))
    assert set(np.unique(dropped)) == {0.0, 2.0}
    expected = nnx.Dropout(0.5, broadcast_dims=(1,))(jnp.ones((4, 7, 8)), rngs=nnx.Rngs(dropout=3))
    np.testing.assert_array_equal(dropped, expected)
