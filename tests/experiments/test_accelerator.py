"""The check of a new accelerator: its smoke run, what it keeps, and its arithmetic against hand computations."""

import csv
import json

import jax
import numpy as np
import pytest

from aire.utils import digests
from aire.utils.errors import UserError
from configs.accelerator_check import get_config
from experiments.accelerator import accelerator_job, precision, scans, training
from experiments.accelerator.oracle import ORACLES
from experiments.paper_table import papers
from experiments.speed.speed_memory import Planned
from tests.experiments.conftest import call

pytestmark = pytest.mark.usefixtures("jax_defaults")
SMOKE = "--config=accelerator_check:smoke"


def table(workdir, name):
    return list(csv.DictReader((workdir / f"{name}.csv").read_text().splitlines()))


def test_the_smoke_run_writes_all_tables_and_an_interrupted_one_goes_on(data, tmp_path, monkeypatch):
    printed = call(SMOKE, "--config.sections=('precision', 'scans')", data=data, workdir=tmp_path)
    assert "0 of 3 measurements" in printed and not (tmp_path / "training.csv").exists()
    for section in (precision, scans):
        monkeypatch.setattr(section, "rows", lambda *_: pytest.fail("measured again"))
    printed = call(SMOKE, data=data, workdir=tmp_path)
    assert "3 of 4 measurements" in printed and f"Next: `{accelerator_job.NEXT}`" in printed
    assert {row["within"] for row in table(tmp_path, "precision")} == {"yes"}
    found = table(tmp_path, "scans")
    assert {(row["form"], row["default"]) for row in found} == {("sequential", "yes"), ("chunked", "")}
    assert all(float(row["of fastest"]) == 1 for row in found[::2])  # fastest first
    (step,), (speech, listops) = table(tmp_path, "training"), table(tmp_path, "hours")
    assert step["measured"] == "2 of 16 examples on a CPU, time × 8; median of 1 steps"
    assert speech["hours"] == "none: uses the model of Speech" and listops["steps"] == "8"
    assert float(listops["hours"]) == pytest.approx(8 * float(step["step, ms"]) / 3.6e6, rel=1e-2)
    record = json.loads((tmp_path / "results.json").read_text())
    assert digests.unseal(record, "results.json", required=True)["commit"]
    report = (tmp_path / "report.md").read_text()
    assert "## Precision" in report and "Hours of each row" in report and accelerator_job.NEXT in report


def test_hours_equal_a_hand_computation():
    """ListOps: 96,000 // 50 = 1,920 steps an epoch. Text: 22,500 // 50 = 450. Retrieval: 147,086 // 32 = 4,596."""
    for task, steps_of_epoch in (("lra_listops", 1_920), ("lra_text", 450), ("lra_retrieval", 4_596)):
        settings = papers.task_config(task, "s5", "full")
        settings.train.epochs = 10
        assert training.hours(settings, seconds=0.5) == pytest.approx(10 * steps_of_epoch * 0.5 / 3600)
    row = training.hours_row("lra_retrieval_prune", "lra_retrieval", "s5", settings, training.Cost(1.0, 0.5, ""))
    assert row[3:] == ("147,086", "45,960", "64", "512,000", "6.38")  # 64 pairs of 2 × 4,000 tokens a second


@pytest.mark.parametrize("task", papers.TASKS)
def test_every_task_has_a_number_of_examples(task):
    assert training.train_examples(papers.task_config(task, "s5", "full").data.to_dict()) > 20_000


def test_a_limit_on_the_examples_counts():
    data = papers.task_config("lra_text", "s5", "full").data.to_dict()
    assert training.train_examples(data | {"train_examples": 8_000}) == 8_000
    assert training.train_examples(data | {"train_examples": 80_000}) == 22_500
    assert training.train_examples(data | {"validate_on_test": True}) == 25_000


def test_a_config_without_room_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(training, "plan_step", lambda *_: Planned(None, 1.0, 20.0))
    monkeypatch.setattr(training, "memory", lambda: 16.0)
    settings = papers.task_config("lra_listops", "s5", "smoke")
    cost = training.measure(settings, 0.0, cpu_batch=2)
    assert cost.seconds is None and cost.measured == "not measured: 20.0 GB with model.remat, 16.0 GB are there"
    assert training.hours_row("x", "lra_listops", "s5", settings, cost)[-1] == "unknown: it does not fit"


def test_a_config_whose_memory_runs_out_is_a_row_too(monkeypatch):
    def run_out(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(training, "plan_step", lambda *_: Planned(run_out, 1.0, 2.0))
    monkeypatch.setattr(training, "memory", lambda: 16.0)
    monkeypatch.setattr(training, "_seconds_of_a_step", run_out)
    cost = training.measure(papers.task_config("lra_listops", "s5", "smoke"), 0.0, cpu_batch=2)
    assert cost == training.Cost(2.0, None, "not measured: 2.0 GB are planned, and the memory ran out")


def test_advice_names_a_faster_form():
    def rows(chunked):
        """With gradients, and a forward pass that must not count."""
        times = {"forward": ("9", "1"), "with gradients": ("2", chunked)}
        cases = [(scan, shape, *t) for scan in scans.SCANS for shape in ("a", "b") for t in times.items()]
        return [
            (c, s, d, form, t) for c, s, d, ts in cases for form, t in zip(("sequential", "chunked"), ts, strict=True)
        ]

    assert "sequential, is the fastest" in scans.advice(rows("4"), "cpu")
    assert "sequential, is the fastest" in scans.advice(rows("1.99"), "cpu")
    told = scans.advice(rows("1"), "cpu")
    assert "chunked takes 0.50 of the time of the default, sequential" in told
    assert 'add "cpu": "chunked" to PLATFORM_FORMS' in told
    assert 'add "cuda": "sequential" to PLATFORM_FORMS' in scans.advice(rows("4"), "cuda")
    assert scans.platform() == "cpu"


@pytest.mark.parametrize(("wrong", "error"), [(lambda a: a / 2, None), (lambda a: np.full_like(a, np.nan), "inf")])
def test_a_wrong_layer_is_not_within(wrong, error, monkeypatch):
    found = precision._found
    monkeypatch.setattr(precision, "_found", lambda *args: {name: wrong(a) for name, a in found(*args).items()})
    config = get_config("smoke")
    config.tolerances = {"default": 0.02}
    rows = list(precision.rows("s5", config))
    assert [row[1] for row in rows] == ["outputs", "gradients", "AIRE scores"]
    assert {row[-1] for row in rows} == {"NO"} and error in (None, rows[0][3])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ORACLES)
def test_every_kind_is_within(kind):
    assert {row[-1] for row in precision.rows(kind, get_config())} == {"yes"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sections": ("speed",)}, r"sections: unknown \['speed'\]: expected some of"),
        ({"tasks": ("listops",)}, "tasks: unknown"),
        ({"layers": ("s6",)}, "layers: unknown"),
        ({"size": "large"}, "size='large': expected one of full, small, smoke"),
    ],
)
def test_mistakes_are_named(changes, message, tmp_path):
    config = get_config("smoke")
    config.update(changes)
    with pytest.raises(UserError, match=message):
        accelerator_job.run(config, tmp_path, tmp_path)


def test_results_of_other_settings_are_not_kept(tmp_path, capsys):
    how = {"settings": {"size": "full"}, "machine": "m", "versions": {}}
    record = tmp_path / "results.json"
    record.write_text(json.dumps(digests.seal({"how": how, "found": {"scans": {"a": []}}})))
    assert accelerator_job._found(record, how)["scans"] == {"a": []}
    assert accelerator_job._found(record, how | {"machine": "n"})["scans"] == {}
    assert "measured before with other machine" in capsys.readouterr().out
    record.write_text('{"measured": {}}')
    with pytest.raises(UserError, match="is not of this job"):
        accelerator_job._found(record, how)
