"""The papers' models at full size: settings, parameter counts and a training step."""

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
    "smnist": (1, 10, 784, 187_786),
    "psmnist": (1, 10, 784, 266_506),
    "lra_image": (1, 10, 1024, 5_133_706),
    "scifar": (3, 10, 1024, 5_134_730),
}
# Of `S4Model` in the S4 code's example.py, plus C of the second direction: depth x H x 32 complex numbers.
S4D_REFERENCE = {
    "smnist": 664_586 + 4 * 256 * 32 * 2,
    "psmnist": 664_586 + 4 * 256 * 32 * 2,
    "lra_image": 3_563_530 + 6 * 512 * 32 * 2,
    "scifar": 3_564_554 + 6 * 512 * 32 * 2,
}


def full_model(config, name: str) -> ModelConfig:
    d_input, n_classes, *_ = REFERENCE[name]
    return model_config(config.model, Task("", {}, d_input, n_classes))


def count_parameters(config: ModelConfig) -> int:
    shapes = jax.tree.leaves(nnx.to_pure_dict(nnx.state(abstract_model(config), nnx.Param)))
    return sum(math.prod(leaf.shape) for leaf in shapes)


@pytest.mark.parametrize("name", REFERENCE)
def test_as_many_parameters_as_the_references(name):
    assert count_parameters(full_model(configured(name), name)) == REFERENCE[name][-1]
    if name in S4D_REFERENCE:
        assert count_parameters(full_model(configured(name, "s4d"), name)) == S4D_REFERENCE[name]


def test_as_many_parameters_as_compressm():
    """Its model has 993,802. Ours adds a second direction, batch norm's scale and bias, and a bias of the embedding."""
    config = full_model(configured("lra_listops", "lru"), "lra_listops")
    second_C, norms, bias = 6 * 2 * 128 * 256, 6 * 2 * 128, 128
    assert count_parameters(config) == 993_802 + second_C + norms + bias


@pytest.mark.parametrize(
    "name,expected",
    [
        ("smnist", (4, 96, 64, 1, 0.1, 0.008, 0.002, 50, 150, 0.01, "standard", False)),
        ("psmnist", (4, 128, 64, 2, 0.15, 0.004, 0.001, 50, 150, 0.01, "standard", False)),
        ("lra_image", (6, 512, 192, 3, 0.1, 0.0045, 0.001, 50, 250, 0.07, "BfastandCdecay", True)),
        ("scifar", (6, 512, 192, 3, 0.1, 0.0045, 0.001, 50, 250, 0.07, "BfastandCdecay", True)),
    ],
)
def test_settings_of_the_image_tasks(name, expected):
    """From the S5 paper's table and the reference's run_lra_cifar.sh."""
    config = configured(name)
    m, t, o = config.model, config.train, config.train.optimizer
    found = (m.depth, m.d_model, m.states, m.ssm.blocks, m.dropout, o.lr, o.ssm_lr, t.batch_size, t.epochs)
    assert (*found, o.weight_decay, o.groups, m.ssm.clip_eigs) == expected
    assert (config.name, config.init, t.warmup_epochs, m.activation) == (name, "scratch", 1, "half_glu1")


@pytest.mark.slow
@pytest.mark.parametrize("name,layer", [*itertools.product(REFERENCE, ("", "s4d")), ("lra_listops", "lru")])
def test_a_training_step(name, layer):
    """The paper's model and length, on two examples."""
    config = configured(name, layer)
    options = full_model(config, name)
    rng, L = np.random.default_rng(0), REFERENCE[name][2]
    n = (2, 2) if options.retrieval else (2,)
    if options.d_input <= 3:
        x, lengths = rng.normal(size=(*n, L, options.d_input)).astype(np.float32), np.full(n, L, np.int32)
    else:
        x, lengths = rng.integers(0, options.d_input, (*n, L), np.uint8), rng.integers(1, L, n).astype(np.int32)
    train_one_step(options, config, {"x": x, "lengths": lengths, "y": np.array([0, 1], np.int32)})
