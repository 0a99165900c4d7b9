"""Mamba's block against its formula in NumPy, its precision, its initial values, and the configs that build it."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.models import ModelConfig
from aire.models.mamba_block import MambaBlock
from aire.ssm import S6Config
from aire.utils.errors import UserError
from experiments.settings import check_names, check_sections
from tests.helpers import configured, forward

H, N = 16, 3


def block(depth: int = 1, **options) -> MambaBlock:
    config = ModelConfig(1, H, 2, (N,) * depth, S6Config(), **{"activation": "gelu", "batchnorm": False, **options})
    made = MambaBlock(config, N, rngs=nnx.Rngs(0))
    made.eval()
    return made


def test_is_the_sum_of_its_input_and_the_layer_of_the_norm():
    made, rng = block(), np.random.default_rng(0)
    made.norm.scale[...] = jnp.asarray(rng.uniform(0.5, 2, H), jnp.float32)
    x = rng.normal(size=(2, 5, H)).astype(np.float32)
    root = np.sqrt(np.mean(np.square(x, dtype=np.float64), axis=-1, keepdims=True) + 1e-5)
    normed = (x / root * np.asarray(made.norm.scale[...])).astype(np.float32)
    np.testing.assert_allclose(forward(made, x), x + np.asarray(forward(made.ssm, normed)), atol=1e-5)


def test_sums_in_float32_behind_a_layer_in_bfloat16():
    made = block(dtype="bfloat16")
    x = 256 + np.random.default_rng(0).normal(size=(1, 4, H)).astype(np.float32)  # steps of bfloat16 are 2 here
    y = forward(made, x)
    layer = np.asarray(forward(made.ssm, forward(made.norm, x).astype(jnp.bfloat16)), np.float32)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, x + layer, rtol=1e-6)


def test_deeper_models_start_with_smaller_outputs():
    one, four = (np.asarray(block(depth).ssm.out_proj[...]) for depth in (1, 4))
    np.testing.assert_allclose(four, one / 2, rtol=1e-6)


@pytest.mark.parametrize("options", [{"batchnorm": True}, {"prenorm": False}, {"activation": "full_glu"}])
def test_refuses_what_it_has_not(options):
    with pytest.raises(UserError, match="Mamba's block has an RMS norm before its layer"):
        block(**options)


@pytest.mark.parametrize("name", ["fashion_mnist", "lra_image", "lra_listops", "lra_retrieval", "lra_text"])
@pytest.mark.parametrize("size", ["", "small", "smoke"])
def test_configs_have_a_variant_with_methods_for_selective_layers(name, size):
    config = configured(name, f"mamba,{size}".strip(","))
    check_sections(config)
    methods = check_names(config)
    assert {"random", "magnitude_global", "ghost", "aire", "measured", "surgeon"} <= set(methods)
    assert config.name == "_".join(filter(None, (name, "mamba", size)))
