"""What the benchmark measures with: calls in turn, medians, and what XLA says of a program."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aire.utils.errors import UserError
from configs import speed as config
from experiments import timing
from experiments.speed import speed_job


@pytest.fixture
def clock(monkeypatch):
    """A clock that a call moves on by as long as it says it takes; returns a maker of such calls, and their order."""
    now, order = [0.0], []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def takes(name, seconds):
        left = iter(seconds)

        def call():
            order.append(name)
            now[0] += next(left)

        return call

    return takes, order


def test_calls_take_turns_and_medians_leave_out_the_first(clock):
    takes, order = clock
    calls = {"a": takes("a", [100, 3, 1, 2]), "b": takes("b", [100, 5, 50, 4])}
    assert timing.interleaved(calls, 3) == {"a": 2, "b": 5}
    assert "".join(order) == "abababab"


def test_every_call_is_told(clock):
    takes, _ = clock
    np.testing.assert_array_equal(timing.repeated({"a": takes("a", [100, 3, 1, 2])}, 3)["a"], [3, 1, 2])


def test_memory_and_operations_of_a_program():
    a = jnp.ones((64, 64))
    run = timing.compiled(lambda a: jnp.linalg.matrix_power(a, 3), a)
    assert run.operations == pytest.approx(2 * 2 * 64**3, rel=0.05)  # two products
    assert a.nbytes <= run.temporary < 4 * a.nbytes  # the first of them
    np.testing.assert_allclose(run(a), 64.0**2)
    assert timing.compiled(lambda a: jnp.zeros_like(a), a).operations == 0


def test_an_unknown_section_is_named(tmp_path):
    options = config.get_config("smoke")
    options.sections = ("odd", "even")
    with pytest.raises(UserError, match=r"unknown \['even'\]: expected some of"):
        speed_job.run(options, tmp_path, tmp_path)


def test_sections_are_renewed_one_by_one_each_with_its_settings(tmp_path):
    for section, repetitions in (("scan", 1), ("pruning", 2), ("scan", 3)):
        options = config.get_config("smoke")
        options.update(sections=(section,), repetitions=repetitions)
        speed_job.run(options, tmp_path, tmp_path)
    measured = json.loads((tmp_path / "results.json").read_text())["measured"]
    assert {name: m["config"]["repetitions"] for name, m in measured.items()} == {"scan": 3, "pruning": 2}
    report = (tmp_path / "report.md").read_text()
    assert report.index("## Forms of the scan") < report.index("## Scoring, selecting, cutting")


def test_a_figure_shows_what_the_table_says(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(speed_job.figures, "against_sizes", lambda rows, *_, log: drawn.update(rows))
    header = ("model", "kept", "states", "operations, of full", "forward, ms", "forward, of full", "forward, MiB")
    rows = [header, ("a", "100%", "8", "1.00", "20", "1.00", "3"), ("a", "50%", "4", "0.70", "15", "0.75", "2")]
    assert speed_job._figure("cuts", rows, tmp_path) == ["![After a cut](cuts.png)"]
    operations, forward = ([100, 50], [1, 0.7]), ([100, 50], [1, 0.75])
    assert drawn == {
        "of full": {"states kept (%): operations": {"a": operations}, "states kept (%): forward": {"a": forward}}
    }


def test_a_forward_pass_is_timed_on_plain_arrays(make_model):
    """Not through `nnx.jit`, whose dispatch takes longer than a small model."""
    model = make_model()
    batch = {"x": np.arange(40).reshape(2, 20) % 20, "lengths": np.array([20, 7], np.int32)}
    run, call = timing.forward(model, batch)
    assert isinstance(run.function, jax.stages.Compiled)
    np.testing.assert_allclose(call(), model(batch["x"], batch["lengths"]), rtol=1e-5, atol=1e-6)
