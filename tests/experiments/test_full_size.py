"""The paper's models at full size: parameter counts and a training step. (For images see test_picture_tasks.py.)"""

import itertools
import math

import jax
import numpy as np
import pytest
from flax import nnx

from aire.data.tasks import Task
from aire.io.weights import abstract_model
from aire.models import ModelConfig
from experiments.model_source import model_config
from tests.helpers import configured, train_one_step

# Inputs, classes, steps, and the parameter counts of the S5 reference: jax.eval_shape of its `init` with its scripts'
# options.
REFERENCE = {
    "lra_listops": (20, 10, 2048, 188_490),
    "lra_text": (135, 2, 4096, 1_321_154),
    "lra_retrieval": (98, 2, 4000, 772_098),
    "lra_pathfinder": (1, 2, 1024, 1_113_602),
    "lra_pathx": (1, 2, 16_384, 694_018),
    "speech_commands": (1, 35, 16_000, 283_523),
}


def full_model(config, name: str) -> ModelConfig:
    d_input, n_classes, *_ = REFERENCE[name]
    return model_config(config.model, Task("", {}, d_input, n_classes))


@pytest.mark.parametrize("name", REFERENCE)
def test_the_reference_has_as_many_parameters(name):
    shapes = jax.tree.leaves(nnx.to_pure_dict(nnx.state(abstract_model(full_model(configured(name), name)), nnx.Param)))
    assert sum(math.prod(leaf.shape) for leaf in shapes) == REFERENCE[name][-1]


def test_as_many_parameters_as_compressm():
    """Its model has 993,802. Ours adds a second direction, batch norm's scale and bias, and a bias of the embedding."""
    config = full_model(configured("lra_listops", "lru"), "lra_listops")
    shapes = jax.tree.leaves(nnx.to_pure_dict(nnx.state(abstract_model(config), nnx.Param)))
    second_C, norms, bias = 6 * 2 * 128 * 256, 6 * 2 * 128, 128
    assert sum(math.prod(leaf.shape) for leaf in shapes) == 993_802 + second_C + norms + bias


@pytest.mark.slow
@pytest.mark.parametrize("name,layer", [*itertools.product(REFERENCE, ("", "s4d")), ("lra_listops", "lru")])
def test_a_training_step(name, layer):
    """The paper's model and length, on two examples."""
    config = configured(name, layer)
    options = full_model(config, name)
    rng, L = np.random.default_rng(0), REFERENCE[name][2]
    n = (2, 2) if options.retrieval else (2,)
    if options.d_input == 1:
        x, lengths = rng.normal(size=(*n, L, 1)).astype(np.float32), np.full(n, L, np.int32)
    else:
        x, lengths = rng.integers(0, options.d_input, (*n, L), np.uint8), rng.integers(1, L, n).astype(np.int32)
    train_one_step(options, config, {"x": x, "lengths": lengths, "y": np.array([0, 1], np.int32)})
