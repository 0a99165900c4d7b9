"""The activations' values and gradients against SciPy and automatic differentiation, far into the tails too."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from aire.models.activations import ACTIVATIONS, activate

Y = np.concatenate([np.linspace(-12, 12, 97), [-50, 50, 0]]).astype(np.float32)
ONES = np.ones_like(Y)


def dense(kernel, bias) -> nnx.Linear:
    """The dense layer with these weights."""
    layer = nnx.Linear(*kernel.shape, rngs=nnx.Rngs(0))
    layer.kernel[...], layer.bias[...] = kernel, bias
    return layer


def test_exact_gelu():
    """With W = 1 and b = 0 for the values and an open gate, "glu" reduces to GELU."""
    layers = [dense(jnp.ones((1, 1)), jnp.zeros(1)), dense(jnp.zeros((1, 1)), jnp.full(1, 100.0))]
    normal = scipy.stats.norm

    def gelu(y):
        return activate("glu", jnp.asarray(y).reshape(-1, 1), jnp.ones((y.size, 1)), layers).ravel()

    np.testing.assert_allclose(gelu(Y), Y * normal.cdf(Y), rtol=1e-6, atol=1e-6)
    derivative = jax.jit(lambda y: jax.vjp(gelu, y)[1](jnp.asarray(ONES))[0])(Y)
    np.testing.assert_allclose(derivative, normal.cdf(Y) + Y * normal.pdf(Y), rtol=1e-6, atol=1e-6)


def plainly(kind, y, mask, weights):
    """The formulas of the S5 paper's appendix, with nothing done about gradients."""
    g = mask * jax.nn.gelu(y, approximate=kind != "glu")
    z = [g @ kernel + bias[None] for kernel, bias in weights]
    match kind:
        case "gelu":
            return g
        case "half_glu1":
            return g * jax.nn.sigmoid(z[0])
        case "half_glu2":
            return y * jax.nn.sigmoid(z[0])
    return z[0] * jax.nn.sigmoid(z[1])


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_values_and_gradients_are_those_of_the_formulas(kind):
    layers = {"gelu": 0, "half_glu1": 1, "half_glu2": 1}.get(kind, 2)
    keys = jax.random.split(jax.random.key(0), 5)
    y, cotangent = (8 * jax.random.normal(key, (50, 6)) for key in keys[:2])
    mask = 2 * jax.random.bernoulli(keys[2], 0.5, (50, 6)).astype(jnp.float32)
    weights = [(jax.random.normal(key, (6, 6)), jax.random.normal(key, (6,))) for key in keys[3 : 3 + layers]]
    arguments = y, mask, weights
    ours = lambda y, mask, weights: activate(kind, y, mask, [dense(*w) for w in weights])  # noqa: E731

    @jax.jit
    def differentiate(cotangent, *arguments):
        results = (jax.vjp(f, *arguments) for f in (ours, functools.partial(plainly, kind)))
        return [(value, vjp(cotangent)) for value, vjp in results]

    (value, gradients), (expected, wanted) = differentiate(cotangent, *arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), gradients, wanted)


def test_one_dropout_mask_for_all_steps(make_model):
    block = make_model(dropout=0.5).blocks[0]
    block.train()
    mask = block._mask(jnp.float32, (4, 7, 8), nnx.Rngs(dropout=3)).reshape(4, 7, 8)
    np.testing.assert_array_equal(mask, jnp.broadcast_to(mask[:, :1], mask.shape))
    assert set(np.unique(mask)) == {0.0, 2.0}
    expected = nnx.Dropout(0.5, broadcast_dims=(1,))(jnp.ones((4, 7, 8)), rngs=nnx.Rngs(dropout=3))
    np.testing.assert_array_equal(mask, expected)


class Doubled(nnx.Linear):
    """A dense layer that does more than its kernel and bias say."""

    def __call__(self, x):
        return 2 * super().__call__(x)


@pytest.mark.parametrize("activation", ["half_glu1", "full_glu"])
def test_a_block_calls_its_dense_layers(make_model, activation):
    """So LoRA or quantised layers can replace them. Replace one by its double and compare with doubled values."""
    model, x = make_model(activation=activation), np.zeros((2, 5), np.int32)
    replaced, scaled = (nnx.clone(model) for _ in range(2))
    for block in replaced.blocks:
        _, state = nnx.split(block.out2)
        block.out2 = Doubled(8, 8, rngs=nnx.Rngs(0))
        nnx.update(block.out2, state)
    for block in scaled.blocks:
        for array in (block.out2.kernel, block.out2.bias):
            array[...] = 2 * array[...]
    np.testing.assert_allclose(replaced(x), scaled(x), rtol=1e-5, atol=1e-6)
    assert not np.allclose(replaced(x), model(x), atol=1e-3)
