"""Fixtures: CPU only, small layers and models."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests and the commands they run compile the same few programs many times over: once is enough.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from collections.abc import Callable

import jax
import numpy as np
import pytest
from flax import nnx

from aire.models import Classifier, ModelConfig
from aire.ssm import S4D, S5, S4DConfig, S5Config, ssm_config


@pytest.fixture
def x64():
    """float64 for oracles that need more digits than float32 has."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def make_layer() -> Callable[..., S5]:
    def make(d_model: int = 3, n_states: int = 6, seed: int = 0, **options) -> S5:
        return S5(d_model, n_states, S5Config(**{"blocks": 2, **options}), rngs=nnx.Rngs(seed))

    return make


@pytest.fixture
def make_bank() -> Callable[..., S4D]:
    """S4D with channels of different sizes, the second of them empty."""

    def make(counts=(3, 0, 1, 4), seed: int = 0, layer: type[S4D] = S4D, **options) -> S4D:
        N = max(*counts, 1)
        full = layer(len(counts), N * len(counts), S4DConfig(**options), rngs=nnx.Rngs(seed))
        return full.cut(np.concatenate([np.arange(N) < count for count in counts]))

    return make


@pytest.fixture
def make_model() -> Callable[..., Classifier]:
    def make(state_sizes=(6, 6, 6), seed: int = 0, d_model: int = 8, ssm: dict | None = None, **options) -> Classifier:
        ssm = {"bidirectional": True, **(ssm or {})}
        if ssm.get("kind", "s5") == "s5":
            ssm = {"blocks": 2, **ssm}
        config = ModelConfig(20, d_model, 10, tuple(state_sizes), ssm_config(ssm), **options)
        model = Classifier(config, rngs=nnx.Rngs(seed))
        model.eval()
        return model

    return make
