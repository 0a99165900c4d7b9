"""What saves memory changes no gradient: recomputed blocks and accumulated gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aire.models import Classifier, ModelConfig
from aire.ssm import ssm_config
from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from aire.training.step import init_state, make_train_step, mean_of_parts, split_model
from aire.utils.errors import UserError

B, L = 8, 64
OPTIONS = {"pooling": "masked_mean", "activation": "full_glu"}


def after_a_step(ssm: dict, n_states: int, *, depth: int = 1, accumulate: int = 1, **options):
    """Parameters, buffers and loss after a step of gradient descent, and bytes of temporary memory."""
    sizes = (n_states,) * depth
    config = ModelConfig(20, 8, 4, sizes, ssm_config({"bidirectional": True, **ssm}), **OPTIONS | options)
    model = Classifier(dataclasses.replace(config, remat=False), rngs=nnx.Rngs(0))
    model._options = dataclasses.replace(model._options, remat=config.remat)
    model.train()
    optimizer, rng = optax.sgd(1.0), np.random.default_rng(0)
    batch = {
        "x": rng.integers(0, 20, (B, L), np.uint8),
        "lengths": rng.integers(5, L, B, np.int32),
        "y": rng.integers(0, 4, B, np.int32),
    }
    step = make_train_step(split_model(model)[0], optimizer, accumulate=accumulate)
    state = init_state(model, optimizer, jax.random.key(0))
    run = step.lower(state, batch).compile()
    state, metrics = run(state, batch)
    return {k: state[k] for k in ("params", "buffers")} | metrics, run.memory_analysis().temp_size_in_bytes


def assert_close(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(1.0, float(jnp.abs(b).max())))


@pytest.mark.parametrize("ssm,n_states", [({"kind": "s5"}, 8), ({"kind": "s4d"}, 16)])
def test_recomputed_blocks_change_nothing_and_store_less(ssm, n_states):
    """Batch statistics and dropout, too."""
    (expected, plain), (found, saved) = (
        after_a_step(ssm, n_states, depth=3, dropout=0.2, remat=remat) for remat in (False, True)
    )
    assert_close(found, expected)
    assert saved < 0.75 * plain


def test_accumulated_gradients_are_those_of_the_batch():
    """With layer norm and without dropout, a batch is the sum of its parts."""
    (expected, plain), (found, saved) = (
        after_a_step({"kind": "s4d"}, 16, batchnorm=False, accumulate=parts) for parts in (1, 4)
    )
    assert_close(found, expected)
    assert saved < 0.75 * plain


def test_parts_are_every_nth_row():
    """So each of several devices, with consecutive rows, has its share of every part. Integers are kept."""
    x = np.arange(12, dtype=np.float32).reshape(6, 2)

    def function(batch, key):
        return batch["x"].prod(axis=0), jnp.int32(7)

    mean, number = jax.jit(lambda x: mean_of_parts(function, {"x": x}, jax.random.key(0), 3))(x)
    np.testing.assert_allclose(mean, np.mean([x[0] * x[3], x[1] * x[4], x[2] * x[5]], axis=0), rtol=1e-6)
    assert number == 7 and number.dtype == jnp.int32


def test_parts_must_divide_the_batch():
    optimizer = OptimizerConfig(0.1, 0.1, 0.1)
    with pytest.raises(UserError, match="accumulate=3: expected a divisor of batch_size=8"):
        TrainConfig(8, 2, optimizer, accumulate=3)
