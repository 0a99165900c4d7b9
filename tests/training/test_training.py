"""Training: parameter groups, the loop, bit-identical results of resumed runs, stopping on NaN."""

import contextlib
import csv
import dataclasses
import itertools
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.data.pipeline import Split
from aire.io.weights import abstract_model, get_arrays
from aire.models import Classifier, ModelConfig
from aire.ssm import ssm_config
from aire.training import loop
from aire.training.metrics import NonFiniteError
from aire.training.optimizer import OptimizerConfig, label, parameter_roles, schedule
from aire.training.step import make_eval_step, make_train_step, split_model
from aire.utils import stopping
from aire.utils.errors import UserError

CONFIG = loop.TrainConfig(
    batch_size=8,
    epochs=3,
    warmup_epochs=1,
    evaluate_every=3,
    optimizer=OptimizerConfig(lr=0.01, ssm_lr=0.003, weight_decay=0.01),
)
MODEL = ModelConfig(
    20, 8, 10, (4,), ssm_config({"kind": "s5", "blocks": 2, "bidirectional": True}), pooling="masked_mean", dropout=0.3
)


def make_data(n=40, length=12, seed=0) -> dict[str, Split]:
    """Make sequences whose class is their first token."""
    rng = np.random.default_rng(seed)

    def split(n):
        x = rng.integers(0, 10, (n, length)).astype(np.uint8)
        return Split(x, rng.integers(6, length + 1, n).astype(np.int32), x[:, 0].astype(np.int32))

    return {"train": split(n), "validation": split(16)}


def train(model, folder, data=None, config=CONFIG, seed=0):
    return loop.train(model, data or make_data(), config, seed=seed, folder=folder, fingerprint={"seed": seed})


def assert_identical(a, b):
    jax.tree.map(np.testing.assert_array_equal, get_arrays(a), get_arrays(b))


@pytest.fixture(scope="module")
def model() -> Classifier:
    return Classifier(MODEL, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def steps(model):
    """The steps of MODEL and CONFIG: (training, evaluation)."""
    model = nnx.clone(model)
    model.train()
    functions, *_ = split_model(model)
    return make_train_step(functions, CONFIG.make_optimizer(model, epoch_steps=5)), make_eval_step(functions)


def share(steps, patch: pytest.MonkeyPatch) -> None:
    """Let `train` use these steps."""
    train_step, eval_step = steps
    patch.setattr(loop, "make_train_step", lambda *_, **__: train_step)
    patch.setattr(loop, "make_eval_step", lambda *_: eval_step)


@pytest.fixture
def compiled_once(steps, monkeypatch):
    """Let all calls of `train` in a test share their steps, so that they are compiled only once."""
    share(steps, monkeypatch)


@pytest.fixture(scope="module")
def finished(model, tmp_path_factory):
    """A finished run: (result, folder). It compiles its own steps."""
    folder = tmp_path_factory.mktemp("finished")
    return train(model, folder), folder


@pytest.fixture(scope="module")
def fetched_often(model, steps, tmp_path_factory):
    """A finished run whose metrics are fetched after every second step: (result, folder)."""
    folder = tmp_path_factory.mktemp("fetched_often")
    with pytest.MonkeyPatch.context() as patch:
        share(steps, patch)
        patch.setattr(loop, "FETCH_EVERY", 2)
        return train(model, folder), folder


@pytest.mark.parametrize(
    ("kind", "groups", "slow"),
    [  # the parameters of the layer by group; the others are "regular"
        ("s5", "standard", {"ssm": "Lambda_re Lambda_im B_re B_im log_step"}),
        ("s5", "BandCdecay", {"ssm": "Lambda_re Lambda_im log_step", "ssm_decay": "B_re B_im"}),
        ("s5", "BfastandCdecay", {"ssm": "Lambda_re Lambda_im log_step"}),
        ("s5", "noBCdecay", {"ssm": "Lambda_re Lambda_im B_re B_im log_step C_re C_im D"}),
        ("s4d", "standard", {"ssm": "log_A_real A_imag log_dt"}),
        ("lru", "standard", {"ssm": "nu_log theta_log gamma_log B_re B_im"}),
    ],
)
def test_parameter_groups_of_the_references(kind, groups, slow):
    """`dt_global` moves the time steps to the regular group."""
    model = abstract_model(dataclasses.replace(MODEL, ssm=ssm_config({"kind": kind}), state_sizes=(8,)))
    expected = {name: group for group, names in slow.items() for name in names.split()}
    for dt_global in (False, True):
        config = OptimizerConfig(0.1, 0.1, 0.1, groups, dt_global=dt_global)
        labels = label(split_model(model)[1], config, parameter_roles(model))
        found = {name: group for name, group in labels["blocks"][0]["ssm"].items() if group != "regular"}
        steps = {"log_step", "log_dt"} if dt_global else set()
        assert found == {name: group for name, group in expected.items() if name not in steps}
        others = [labels["encoder"], labels["decoder"], labels["blocks"][0]["norm"]]
        assert set(jax.tree.leaves(others)) == {"regular"}


def test_schedule_without_warmup_by_hand():
    rate = schedule(1.0, warmup_steps=0, total_steps=4, lr_min=0.0)
    np.testing.assert_allclose([rate(t) for t in range(4)], [1, 1, 0.853553, 0.5], rtol=1e-5)


def test_training_learns_and_returns_the_best(make_model, tmp_path):
    model = make_model((4,), pooling="masked_mean")
    before = get_arrays(model)
    trained = train(model, tmp_path, make_data(400), dataclasses.replace(CONFIG, epochs=6, evaluate_every=50))
    jax.tree.map(np.testing.assert_array_equal, get_arrays(model), before)  # the initial model is not modified
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    accuracies = {int(r["step"]): float(r["value"]) for r in rows if r["metric"] == "validation/accuracy"}
    assert trained.validation.accuracy == pytest.approx(max(accuracies.values()))
    assert accuracies[trained.step] == max(accuracies.values()) and trained.validation.accuracy > 0.15
    losses = [float(r["value"]) for r in rows if r["metric"] == "train/loss"]
    assert losses[-1] < 0.9 * losses[0]


class Killed(Exception):
    pass


@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize("after", [2, 7])
def test_a_resumed_run_is_bit_identical(model, finished, tmp_path, monkeypatch, after):
    """Stop between checkpoints or at one. Dropout is on, so its keys must be restored too."""
    full, folder = finished

    class Interrupting(loop.Progress):
        def update(self, n=1, **metrics):
            super().update(n, **metrics)
            if self.done == after:
                raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(loop, "Progress", Interrupting)
        train(model, tmp_path)
    assert_identical(full.model, train(model, tmp_path).model)
    assert (folder / "metrics.csv").read_text() == (tmp_path / "metrics.csv").read_text()


@pytest.fixture
def stop_at(monkeypatch):
    """A function that lets a signal arrive at these checks of `stopping.check`, counted from 1."""
    monkeypatch.setattr(stopping, "_requested", None)

    def at(*numbers):
        count = itertools.count(1)

        def check():
            if next(count) in numbers:
                raise stopping.Stopped(signal.SIGTERM)

        monkeypatch.setattr(stopping, "check", check)

    return at


# Evaluations are at every third step, and check before each of their two batches: checks 1, 2, 3 are of the steps,
# 4 and 5 of the first evaluation.
@pytest.mark.usefixtures("compiled_once")
@pytest.mark.parametrize(("check", "step"), [(1, 1), (2, 2), (3, 3), (5, 3), (7, 5)])
def test_a_stopped_run_saves_its_last_step_and_resumes_bit_identically(
    model, finished, fetched_often, tmp_path, stop_at, monkeypatch, check, step
):
    (full, _), (uninterrupted, folder) = finished, fetched_often
    monkeypatch.setattr(loop, "FETCH_EVERY", 2)
    stop_at(check)
    with pytest.raises(stopping.Stopped) as stopped:
        train(model, tmp_path)
    assert f"saved step {step} of 15 in {tmp_path / 'checkpoints' / str(step)}" in stopped.value.__notes__
    stop_at()
    resumed = train(model, tmp_path)
    assert_identical(full.model, resumed.model)
    assert resumed.step == uninterrupted.step == full.step and resumed.validation == full.validation
    metrics = [(f / "metrics.csv").read_text() for f in (folder, tmp_path)]
    assert metrics[0] == metrics[1]


@pytest.mark.usefixtures("compiled_once")
def test_a_run_stopped_again_and_again_is_bit_identical(model, finished, tmp_path, stop_at):
    full, folder = finished
    for _ in range(40):
        stop_at(4)
        with contextlib.suppress(stopping.Stopped):
            resumed = train(model, tmp_path)
            break
    assert_identical(full.model, resumed.model)
    assert resumed.step == full.step
    assert (folder / "metrics.csv").read_text() == (tmp_path / "metrics.csv").read_text()


@pytest.mark.usefixtures("compiled_once")
def test_checkpoints_by_time_change_no_result(model, finished, tmp_path):
    """Every step is saved; only the evaluated ones can be the best."""
    full, folder = finished
    config = dataclasses.replace(CONFIG, checkpoint_minutes=1e-9)
    assert_identical(full.model, train(model, tmp_path, config=config).model)
    assert (folder / "metrics.csv").read_text() == (tmp_path / "metrics.csv").read_text()
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    assert kept == {14, 15, full.step}


@pytest.mark.usefixtures("compiled_once")
def test_finished_training_is_not_repeated(model, finished, tmp_path, monkeypatch):
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(loop, "Batches", lambda *args, **kwargs: {})  # any step would fail
    assert_identical(finished[0].model, train(model, tmp_path).model)


@pytest.mark.usefixtures("compiled_once")
def test_another_config_is_refused(model, finished, tmp_path):
    shutil.copytree(finished[1], tmp_path, dirs_exist_ok=True)
    with pytest.raises(UserError, match="made with other settings: seed is 0 there, 1 here"):
        train(model, tmp_path, seed=1)


def test_nan_stops_training(model, tmp_path, monkeypatch):
    """If the loss of step 5 is NaN, the checkpoint of step 3 is the last one."""
    make_step = loop.make_train_step

    def poisoned(*args, **options):
        train_step = make_step(*args, **options)

        def step(state, batch):
            state, metrics = train_step(state, batch)
            return state, metrics | {"loss": jnp.where(state["step"] == 5, jnp.nan, metrics["loss"])}

        return step

    monkeypatch.setattr(loop, "make_train_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 5.*the last good checkpoint is .*checkpoints/3"):
        train(model, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]


def test_a_diverging_loss_stops_training(make_model, tmp_path):
    config = dataclasses.replace(CONFIG, epochs=10, optimizer=OptimizerConfig(1e30, 0.003, 0.01))
    with pytest.raises(NonFiniteError, match="at step"):
        train(make_model((4,), pooling="masked_mean", batchnorm=False), tmp_path, config=config)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"epochs": 0}, "epochs=0"),
        ({"batch_size": 41}, "batch_size=41: expected 1 to 40"),
        ({"warmup_epochs": 3}, "warmup_epochs=3: expected fewer than epochs=3"),
    ],
)
def test_invalid_settings(model, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        train(model, tmp_path, config=dataclasses.replace(CONFIG, **change))


def test_unknown_groups():
    with pytest.raises(UserError, match="groups='fast': expected one of"):
        OptimizerConfig(0.1, 0.1, 0.1, "fast")


@pytest.fixture
def compilations():
    """A list with one entry per compilation during the test."""
    found = []

    def listener(event, *_, **__):
        if event.endswith("backend_compile_duration"):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield found
    jax.monitoring.unregister_event_duration_listener(listener)


def test_nothing_is_compiled_after_the_first_step_and_evaluation(make_model, tmp_path, monkeypatch, compilations):
    """Record the number of compilations at the start of every step and evaluation."""
    starts = []

    def recording(name, function):
        def recorded(*args):
            starts.append((name, len(compilations)))
            return function(*args)

        return recorded

    make_step, evaluate = loop.make_train_step, loop.evaluate_arrays
    monkeypatch.setattr(loop, "make_train_step", lambda *args, **more: recording("step", make_step(*args, **more)))
    monkeypatch.setattr(loop, "evaluate_arrays", recording("evaluation", evaluate))
    train(make_model((4,), d_model=5), tmp_path)
    assert [name for name, _ in starts] == ["step", "step", "step", "evaluation"] * 5
    counts = [count for _, count in starts]
    assert 0 < counts[0] < counts[1]  # the evaluation was compiled first, then the step
    assert counts[2:] == [counts[1]] * 18
