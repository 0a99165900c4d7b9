"""Training after a cut makes the same updates as training the masked model, whose cut states get no gradient."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

import aire
from aire.ssm import layers
from aire.training.optimizer import OptimizerConfig, make_optimizer
from aire.training.step import init_state, make_train_step, split_model
from aire.utils.errors import UserError
from tests.helpers import MAMBA

OPTIONS = OptimizerConfig(lr=0.01, ssm_lr=0.003, weight_decay=0.05)


def trained_steps(model, state, optimizer, batch, n=1):
    functions, *_ = split_model(model)
    step = make_train_step(functions, optimizer)
    for _ in range(n):
        state, _ = step(jax.tree.map(np.array, state), batch)  # copies, because the step donates its state
    return state


def merged(model, state):
    functions, *_ = split_model(model)
    return nnx.merge(functions.graphdef, state["params"], state["buffers"], copy=True)


@pytest.mark.parametrize("kind", ["s5", "s4d", "s6"])
def test_the_moments_of_the_kept_states_are_carried(make_model, kind):
    n = 16 if kind == "s4d" else 6
    model = make_model((n, n), ssm={"kind": kind, "dt_min": 0.05}, **(MAMBA if kind == "s6" else {}))
    rng = np.random.default_rng(0)
    d_input = model.config.d_input
    batch = {"x": rng.normal(size=(4, 9, d_input)).astype(np.float32), "y": rng.integers(0, 2, 4).astype(np.int32)}
    optimizer = make_optimizer(OPTIONS, model, warmup_steps=0, total_steps=10)
    model.train()
    state = trained_steps(model, init_state(model, optimizer, jax.random.key(0)), optimizer, batch, 2)

    keep = {path: rng.permutation(layer.n_states) % 2 == 0 for path, layer in layers(model).items()}
    before = merged(model, state)
    smaller, masked = aire.cut(before, keep), aire.mask(before, keep)
    opt_state = aire.cut_optimizer(state["opt_state"], keep)
    own = init_state(smaller, optimizer, jax.random.key(0))
    assert jax.tree.map(np.shape, opt_state) == jax.tree.map(np.shape, own["opt_state"])
    own = trained_steps(smaller, own | {"opt_state": opt_state, "step": state["step"]}, optimizer, batch)
    other = init_state(masked, optimizer, jax.random.key(0)) | {"opt_state": state["opt_state"], "step": state["step"]}
    other = aire.cut(merged(masked, trained_steps(masked, other, optimizer, batch)), keep)
    for path, layer in layers(merged(smaller, own)).items():
        for name in layer.ROLES:
            found, expected = (np.asarray(getattr(x, name)[...]) for x in (layer, layers(other)[path]))
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6, err_msg=f"{path}/{name}")


def test_other_states_are_named(make_model):
    model = make_model((6,))
    keep = {"blocks/0/ssm": np.arange(6) < 3}
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    with pytest.raises(UserError, match=r"'blocks/0/ssm': the optimiser's state has its arrays \[\]"):
        aire.cut_optimizer(optax.sgd(0.1).init(params), keep)
    with pytest.raises(UserError, match="6 states in the optimiser's state, 5 in the mask"):
        aire.cut_optimizer(optax.adam(0.1).init(params), {"blocks/0/ssm": np.arange(5) < 3})
