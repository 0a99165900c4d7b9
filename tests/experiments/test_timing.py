"""The benchmark's tools: calls in turn, medians, and what XLA reports of a program."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.utils.errors import UserError
from configs import speed as config
from experiments import timing
from experiments.speed import speed_job
from experiments.speed.table import Table


@pytest.fixture
def clock(monkeypatch):
    """A fake clock. Returns a maker of calls with given durations, and the list of calls made."""
    now, order = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def lasting(name, seconds):
        left = iter(seconds)

        def call():
            order.append(name)
            now[0] += next(left)

        return call

    return lasting, order


def test_calls_take_turns_and_medians_leave_out_the_first(clock):
    lasting, order = clock
    calls = {"a": lasting("a", [100, 3, 1, 2]), "b": lasting("b", [100, 5, 50, 4])}
    assert timing.interleaved(calls, 3) == {"a": 2, "b": 5}
    assert "".join(order) == "abababab"


def test_every_call_is_returned(clock):
    lasting, _ = clock
    np.testing.assert_array_equal(timing.repeated({"a": lasting("a", [100, 3, 1, 2])}, 3)["a"], [3, 1, 2])


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


@pytest.fixture
def sections(monkeypatch):
    """Sections whose tables count how often they were measured."""
    calls = []

    def measure(options):
        calls.append(1)
        table = Table("n", "repetitions")
        table.add(str(len(calls)), str(options.repetitions))
        table.plot("ms", "sizes", "curve", 1, len(calls))
        return table

    monkeypatch.setattr(speed_job, "SECTIONS", {"pruning": ("Pruning", measure), "scan": ("Scan", measure)})


def test_sections_are_renewed_one_by_one_each_with_its_settings(sections, tmp_path):
    for section, repetitions in (("scan", 1), ("pruning", 2), ("scan", 3)):
        options = config.get_config("smoke")
        options.update(sections=(section,), repetitions=repetitions)
        speed_job.run(options, tmp_path, tmp_path)
    measured = json.loads((tmp_path / "results.json").read_text())["measured"]
    assert {name: m["config"]["repetitions"] for name, m in measured.items()} == {"scan": 3, "pruning": 2}
    report = (tmp_path / "report.md").read_text()
    assert report.index("| 2 | 2 ") < report.index("## Scan\n\n![Scan](scan.png)\n\n") < report.index("| 3 | 3 ")
    assert "| 1 | 1 " not in report and (tmp_path / "scan.png").read_bytes().startswith(b"\x89PNG")


def test_points_are_collected_by_curve():
    table = Table("states", "ms")
    for size, value in ((1, 5.0), (2, 6.0)):
        table.add(str(size), f"{value:.0f}")
        table.plot("ms", "states", "s5", size, value)
    assert table.rows == [("states", "ms"), ("1", "5"), ("2", "6")]
    assert table.curves == {"ms": {"states": {"s5": ([1, 2], [5.0, 6.0])}}}


def test_a_forward_pass_is_timed_on_plain_arrays(make_model):
    """The dispatch of `nnx.jit` would dominate a small model."""
    model = make_model((2,))
    batch = {"x": np.arange(40).reshape(2, 20) % 20, "lengths": np.array([20, 7], np.int32)}
    run, call = timing.forward(model, batch)
    assert isinstance(run.function, jax.stages.Compiled)
    np.testing.assert_allclose(call(), nnx.jit(lambda m: m(batch["x"], batch["lengths"]))(model), rtol=1e-5, atol=1e-6)
