"""Training: groups, the loop, resuming after a kill with bit-identical parameters, stopping on NaN."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.data.pipeline import Split
from aire.training import loop
from aire.training.metrics import NonFiniteError
from aire.training.optimizer import GROUPS, OptimizerConfig, label, parameter_roles, schedule
from aire.training.step import split_model
from aire.utils.errors import UserError

CONFIG = loop.TrainConfig(
    batch_size=8,
    epochs=3,
    warmup_epochs=1,
    evaluate_every=3,
    optimizer=OptimizerConfig(lr=0.01, ssm_lr=0.003, weight_decay=0.01),
)


def make_data(n=40, length=12, seed=0) -> dict[str, Split]:
    """Sequences whose class is their first token."""
    rng = np.random.default_rng(seed)

    def split(n):
        x = rng.integers(0, 10, (n, length)).astype(np.uint8)
        return Split(x, rng.integers(6, length + 1, n).astype(np.int32), x[:, 0].astype(np.int32))

    return {"train": split(n), "validation": split(16)}


def train(model, folder, data=None, config=CONFIG, seed=0):
    return loop.train(model, data or make_data(), config, seed=seed, folder=folder, fingerprint={"seed": seed})


def arrays(model):
    return nnx.to_pure_dict(nnx.state(model))


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, arrays(a), arrays(b))


@pytest.mark.parametrize("dt_global", [False, True])
@pytest.mark.parametrize("groups", sorted(GROUPS))
def test_groups_by_hand(make_model, groups, dt_global):
    """Which optimiser each parameter gets, typed in from the reference's four settings."""
    b = {"standard": "ssm", "BandCdecay": "ssm_decay", "BfastandCdecay": "regular", "noBCdecay": "ssm"}[groups]
    c = d = "ssm" if groups == "noBCdecay" else "regular"
    expected = {"Lambda_re": "ssm", "Lambda_im": "ssm", "B_re": b, "B_im": b, "C_re": c, "C_im": c, "D": d}
    expected["log_step"] = "regular" if dt_global else "ssm"
    config = OptimizerConfig(0.1, 0.1, 0.1, groups, dt_global=dt_global)
    model = make_model((2,))
    labels = label(split_model(model)[1], config, parameter_roles(model))
    assert labels["blocks"][0]["ssm"] == expected
    assert set(jax.tree.leaves([labels["encoder"], labels["decoder"], labels["blocks"][0]["norm"]])) == {"regular"}


def test_groups_of_s4d_by_hand(make_model):
    """As the reference registers them: A and the time steps at the SSM rate without decay, C and D like the rest."""
    model = make_model((8,), ssm={"kind": "s4d"})
    config = OptimizerConfig(0.1, 0.1, 0.1)
    labels = label(split_model(model)[1], config, parameter_roles(model))
    slow = dict.fromkeys(("log_A_real", "A_imag", "log_dt"), "ssm")
    assert labels["blocks"][0]["ssm"] == slow | dict.fromkeys(("C_re", "C_im", "D"), "regular")


def test_groups_of_lru_by_hand(make_model):
    """As the references name them: λ, γ and B at the SSM rate without decay, C and D like the rest."""
    model = make_model((2,), ssm={"kind": "lru"})
    config = OptimizerConfig(0.1, 0.1, 0.1)
    labels = label(split_model(model)[1], config, parameter_roles(model))
    slow = dict.fromkeys(("nu_log", "theta_log", "gamma_log", "B_re", "B_im"), "ssm")
    assert labels["blocks"][0]["ssm"] == slow | dict.fromkeys(("C_re", "C_im", "D"), "regular")


def test_schedule_without_warmup_by_hand():
    rate = schedule(1.0, warmup_steps=0, total_steps=4, lr_min=0.0)
    np.testing.assert_allclose([rate(t) for t in range(4)], [1, 1, 0.853553, 0.5], rtol=1e-5)


def test_training_learns_and_returns_the_best(make_model, tmp_path):
    model = make_model((4,), pooling="masked_mean")
    before = jax.tree.map(np.array, arrays(model))
    trained = train(model, tmp_path, make_data(400), dataclasses.replace(CONFIG, epochs=6, evaluate_every=50))
    jax.tree.map(np.testing.assert_array_equal, arrays(model), before)  # the initial model is not touched
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    accuracies = {int(r["step"]): float(r["value"]) for r in rows if r["metric"] == "validation/accuracy"}
    assert trained.validation.accuracy == pytest.approx(max(accuracies.values()))
    assert accuracies[trained.step] == max(accuracies.values()) and trained.validation.accuracy > 0.15
    losses = [float(r["value"]) for r in rows if r["metric"] == "train/loss"]
    assert losses[-1] < 0.9 * losses[0]


class Killed(Exception):
    pass


@pytest.mark.parametrize("after", [2, 7])
def test_a_resumed_run_ends_bit_identical(make_model, tmp_path, monkeypatch, after):
    """Stopped after some steps, between checkpoints or on one; with dropout, so its keys must go on, too."""
    data, model = make_data(), make_model((4,), pooling="masked_mean", dropout=0.3)
    whole = train(model, tmp_path / "whole", data)

    class Interrupting(loop.Progress):
        def update(self, n=1, **metrics):
            super().update(n, **metrics)
            if self.done == after:
                raise Killed

    monkeypatch.setattr(loop, "Progress", Interrupting)
    with pytest.raises(Killed):
        train(model, tmp_path / "resumed", data)
    monkeypatch.undo()
    resumed = train(model, tmp_path / "resumed", data)
    assert_identical(whole.model, resumed.model)
    assert (tmp_path / "whole" / "metrics.csv").read_text() == (tmp_path / "resumed" / "metrics.csv").read_text()


def test_finished_training_is_not_repeated(make_model, tmp_path, monkeypatch):
    model = make_model((4,), pooling="masked_mean")
    first = train(model, tmp_path)
    monkeypatch.setattr(loop, "Batches", lambda *args, **kwargs: {})  # any step would fail
    assert_identical(first.model, train(model, tmp_path).model)


def test_another_config_is_refused(make_model, tmp_path):
    train(make_model((4,), pooling="masked_mean"), tmp_path)
    with pytest.raises(UserError, match="made with other settings: seed is 0 there, 1 here"):
        train(make_model((4,), pooling="masked_mean"), tmp_path, seed=1)


def test_nan_stops_with_step_metric_and_last_good_checkpoint(make_model, tmp_path, monkeypatch):
    """The fifth step's loss is NaN: the checkpoint of step 3 stays, and nothing later is saved."""
    make_step = loop.make_train_step

    def poisoned(*args):
        train_step = make_step(*args)

        def step(state, batch):
            state, metrics = train_step(state, batch)
            return state, metrics | {"loss": jnp.where(state["step"] == 5, jnp.nan, metrics["loss"])}

        return step

    monkeypatch.setattr(loop, "make_train_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 5.*the last good checkpoint is .*checkpoints/3"):
        train(make_model((4,), pooling="masked_mean"), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]


def test_a_loss_that_explodes_is_infinite_or_nan_and_stops(make_model, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=10, optimizer=OptimizerConfig(1e30, 0.003, 0.01))
    with pytest.raises(NonFiniteError, match="at step"):
        train(make_model((4,), pooling="masked_mean", batchnorm=False), tmp_path, config=config)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 41}, "batch_size=41: expected 1 to 40"),
        ({"warmup_epochs": 3}, "warmup_steps=15: expected at least 0 and below total_steps=15"),
    ],
)
def test_wrong_settings_are_named(make_model, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train(make_model((2,)), tmp_path, config=dataclasses.replace(CONFIG, **change))


def test_unknown_groups_are_named():
    with pytest.raises(UserError, match="groups='fast': expected one of"):
        OptimizerConfig(0.1, 0.1, 0.1, "fast")


@pytest.fixture
def compilations():
    """Grows by one entry with every compilation, until the test ends."""
    found = []

    def listener(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield found
    jax.monitoring.unregister_event_duration_listener(listener)


def test_nothing_is_compiled_after_the_first_step_and_evaluation(make_model, tmp_path, monkeypatch, compilations):
    """Every step and every evaluation notes how much was compiled when it begins."""
    begun = []

    def noting(name, function):
        def noted(*args):
            begun.append((name, len(compilations)))
            return function(*args)

        return noted

    make_step, evaluate = loop.make_train_step, loop.evaluate_arrays
    monkeypatch.setattr(loop, "make_train_step", lambda *args: noting("step", make_step(*args)))
    monkeypatch.setattr(loop, "evaluate_arrays", noting("evaluation", evaluate))
    train(make_model((4,), d_model=5), tmp_path)
    assert [name for name, _ in begun] == ["step", "step", "step", "evaluation"] * 5
    counts = [count for _, count in begun]
    assert counts[0] < counts[1]  # the step is compiled, and seen to be
    assert counts[1] == counts[2] == counts[3] < counts[4]  # so is the evaluation
    assert counts[5:] == [counts[4]] * 15
