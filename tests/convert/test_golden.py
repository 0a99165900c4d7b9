"""Comparison with outputs of the reference implementations."""

import jax
import numpy as np
import pytest

from aire import convert
from aire.ssm import hippo
from aire.training.optimizer import OptimizerConfig, make_optimizer, schedule
from aire.training.step import init_state, make_train_step, split_model
from tests.helpers import below, forward, golden

LAYERS, MODELS, TRAININGS = golden("s5_layers.npz"), golden("s5_models.npz"), golden("s5_training.npz")
S4D_LAYERS = golden("s4d_layers.npz")
S4D_MODELS = golden("s4d_model.npz")
LRU_LAYERS, LRU_MODELS = golden("lru_layers.npz"), golden("lru_models.npz")


modes_of = jax.jit(lambda layer: (layer.modes(), layer.discrete()[1]))


def assert_close(actual, expected, tolerance):
    """Compare the largest deviation with the largest entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_s5_layer(case):
    options = below(case, "opt/")
    layer = convert.s5_layer(
        below(case, "param/"),
        conj_sym=bool(options["conj_sym"]),
        bidirectional=bool(options["bidirectional"]),
        discretization=str(options["discretization"]),
        clip_eigs=bool(options["clip_eigs"]),
        step_rescale=float(case["step_rescale"]),
    )
    modes, B_bar = modes_of(layer)
    np.testing.assert_allclose(modes.Lambda_bar, case["Lambda_bar"], rtol=1e-5)
    np.testing.assert_allclose(B_bar, case["B_bar"], rtol=1e-5)
    np.testing.assert_allclose(modes.B_bar, case["B_bar"], rtol=3e-5)  # without the reference's rounding of λ̄ − 1
    np.testing.assert_allclose(np.concatenate(list(modes.C), axis=-1), case["C_tilde"], rtol=1e-5)
    assert_close(forward(layer, case["u"][None])[0], case["y"], 1e-5)


@pytest.mark.parametrize("case", LAYERS.values(), ids=LAYERS.keys())
def test_hippo_eigenvalues(case):
    expected = case["Lambda_hippo"]
    # The reference concatenates equal blocks, so the first value occurs once per block.
    blocks = int(np.isclose(expected, expected[0], rtol=1e-4).sum())
    actual, _ = hippo.hippo_n_blocks(len(expected), blocks, bool(case["opt/conj_sym"]))
    assert_close(actual, expected, 1e-5)


@pytest.mark.parametrize("case", S4D_LAYERS.values(), ids=S4D_LAYERS.keys())
def test_s4d_layer(case):
    layer = convert.s4d_layer(below(case, "state_dict/"))
    u, y = (case[name].swapaxes(1, 2) for name in ("u", "y"))
    assert_close(forward(layer, u), y, 1e-5)
    assert_close(jax.jit(lambda layer: layer.kernel(u.shape[1]))(layer)[0], case["kernel"], 1e-5)


@pytest.mark.parametrize("case", LRU_LAYERS.values(), ids=LRU_LAYERS.keys())
def test_lru_layer(case):
    layer = convert.lru_layer(below(case, "param/"))
    modes, _ = modes_of(layer)
    np.testing.assert_allclose(modes.Lambda_bar, case["Lambda_bar"], rtol=1e-6)
    np.testing.assert_allclose(modes.B_bar, case["B_bar"], rtol=1e-6)
    assert_close(forward(layer, case["u"][None])[0], case["y"], 1e-6)


@pytest.mark.parametrize("case", LRU_LAYERS.values(), ids=LRU_LAYERS.keys())
def test_lru_layer_in_float64(case, x64):
    params, u = ({name: a.astype(np.float64) for name, a in below(case, p).items()} for p in ("param/", "u"))
    assert_close(forward(convert.lru_layer(params), u[""][None])[0], case["y_float64"], 1e-12)


def import_model(case, prefix, **options):
    return convert.s5_model(
        below(case, prefix),
        activation=str(case["opt/activation"]),
        batchnorm=bool(case["opt/batchnorm"]),
        **options,
    )


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS.keys())
def test_s5_model(case):
    model = import_model(
        case,
        "var/",
        prenorm=bool(case["opt/prenorm"]),
        pooling=str(case["opt/mode"]),
        retrieval=bool(case["opt/retrieval"]),
    )
    lengths = case["lengths"] if case["opt/padded"] else None
    assert_close(jax.nn.log_softmax(forward(model, case["x"], lengths)), case["log_probs"], 1e-5)


@pytest.mark.parametrize("case", S4D_MODELS.values(), ids=S4D_MODELS.keys())
def test_s4d_model(case):
    model = convert.s4d_model(below(case, "state_dict/"), prenorm=bool(case["prenorm"]))
    assert_close(forward(model, case["x"]), case["logits"], 1e-5)


@pytest.mark.parametrize("name", [name for name, case in LRU_MODELS.items() if "logits" in case])
def test_lru_model(name):
    case = LRU_MODELS[name]
    model = convert.lru_model(below(case, "var/"))
    x = case["x"][..., 0] if name == "embed" else case["x"]
    assert_close(forward(model, x), case["logits"], 1e-6)


@pytest.mark.parametrize("case", TRAININGS.values(), ids=TRAININGS.keys())
def test_s5_training(case):
    options = below(case, "opt/")
    config = OptimizerConfig(
        lr=float(options["lr"]),
        ssm_lr=float(options["ssm_lr"]),
        weight_decay=float(options["weight_decay"]),
        groups=str(options["opt_config"]),
        dt_global=bool(options["dt_global"]),
    )
    steps = {name: int(options[name]) for name in ("warmup_steps", "total_steps")}
    schedules = [schedule(rate, **steps) for rate in (config.lr, config.ssm_lr)]
    rates = [[rate(t) for rate in schedules] for t in range(steps["total_steps"])]
    np.testing.assert_allclose(rates, case["lrs"], rtol=1e-6)

    model = import_model(case, "init/", prenorm=True)
    model.train()
    optimizer = make_optimizer(config, model, **steps)
    state = init_state(model, optimizer, jax.random.key(0))
    train_step = make_train_step(split_model(model)[0], optimizer)
    losses = []
    for t in range(steps["total_steps"]):
        batch = {"x": case["x"][t], "y": case["y"][t].astype(np.int32)}
        if options["padded"]:
            batch["lengths"] = case["lengths"][t].astype(np.int32)
        state, metrics = train_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert train_step._cache_size() == 1  # nothing recompiled after the first step
    np.testing.assert_allclose(losses, case["losses"], rtol=1e-4)
    _, params, buffers = split_model(import_model(case, "final/", prenorm=True))
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), state["params"], params)
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-3), state["buffers"], buffers)
