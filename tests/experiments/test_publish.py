"""The README and the zoo agree with the published runs."""

import json
from pathlib import Path

import pytest

import aire
from aire import zoo
from aire.utils.errors import UserError
from experiments.tools import publish

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_the_saved_results():
    readme = (ROOT / "README.md").read_text()
    assert "<!-- table: lra_listops_small -->" in readme
    assert publish.with_tables(readme) == readme


def test_a_report_is_copied(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "results.json").write_text(json.dumps({"config": {"name": "task"}}))
    (run / "report.md").write_text("# task\n\n| a |\n|---|\n| 1 |\n\n[Page](report.html): try\n\nwords\n")
    (run / "report.html").write_bytes(b"large")
    (run / "figure.png").write_bytes(b"png")
    (run / "pruned.safetensors").write_bytes(b"large")
    target = publish.publish_report(run, tmp_path / "results")
    assert sorted(path.name for path in target.iterdir()) == ["figure.png", "report.md", "results.json"]
    assert (target / "report.md").read_text() == "# task\n\n| a |\n|---|\n| 1 |\n\nwords\n"
    text = publish.with_tables("before\n<!-- table: task -->\nold\n<!-- end -->\nafter", tmp_path / "results")
    assert text == "before\n<!-- table: task -->\n| a |\n|---|\n| 1 |\n<!-- end -->\nafter"


def test_one_section_of_a_report_is_its_csv_file(tmp_path):
    (tmp_path / "speed").mkdir()
    (tmp_path / "speed" / "models.csv").write_text('model,ms\n"a, b",1.5\n')
    text = publish.with_tables("<!-- table: speed/models.csv -->\nold\n<!-- end -->", tmp_path)
    expected = "| model | ms  |\n|-------|-----|\n| a, b  | 1.5 |"
    assert text == f"<!-- table: speed/models.csv -->\n{expected}\n<!-- end -->"


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected the folder of a finished run"):
        publish.publish_report(tmp_path)


@pytest.mark.parametrize("name", zoo.names())
def test_every_zoo_model_loads_and_has_its_record(name):
    model = aire.load(zoo.path(name))
    record = json.loads(zoo.path(name).with_suffix(".json").read_text())
    assert record["config"]["name"] == name and record["commit"] and record["versions"]["jax"]
    assert model.config.d_model == record["config"]["model"]["d_model"]
    log = zoo.path(name).with_suffix(".csv").read_text()
    assert f"\n{record['best_step']},validation/accuracy,{record['validation']['accuracy']}" in log
