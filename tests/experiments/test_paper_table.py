"""The papers' tables from synthetic runs, with cells computed by hand."""

import csv
import importlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from aire.pruning.methods import METHODS
from aire.report import tables
from aire.utils.errors import UserError
from configs.paper_table import TASKS, get_config
from experiments.paper_table import papers, saved_runs, table_job
from experiments.paper_table.table_rows import accuracy_rows, cost_rows, method_rows, run_rows
from experiments.tools import publish
from tests.experiments.made_runs import write_compare, write_prune

LRA = papers.AVERAGED


def rows(root, make, layer="s5", size="full"):
    """The rows of a table as dicts, by the first two cells."""
    models, damaged = saved_runs.find(root)
    assert not damaged
    header, *cells = make(layer, table_job.collect(models, layer, size), size == "full")
    return {row[:2]: dict(zip(header, row, strict=True)) for row in cells}


def test_our_numbers_are_beside_the_papers(tmp_path):
    for seed, ratio, test in ((1, 0.2, 0.61), (2, 0.4, 0.60)):
        config = papers.task_config("lra_listops", "s5", "full")
        config.seed = seed
        write_prune(tmp_path / f"any{seed}", config, 0.62, {"aire": (ratio, test)})
    table = rows(tmp_path, accuracy_rows)
    row = table["ListOps", "AIRE"]
    assert row["seeds"] == "2"
    assert [row[c] for c in ("cut (%)", "cut, paper", "cut, diff.")] == ["30.0 ± 14.1", "20.0", "+10.0"]
    assert [row[c] for c in ("test (%)", "test, paper", "test, diff.")] == ["60.50 ± 0.71", "61.48", "-0.98"]
    assert [row[c] for c in ("lost (points)", "lost, paper", "lost, diff.")] == ["1.50 ± 0.71", "0.00", "+1.50"]
    assert table["ListOps", "uncut"]["test (%)"] == "62.00 ± 0.00" and table["ListOps", "uncut"]["cut (%)"] == ""
    assert table["ListOps", "LAST"]["seeds"] == "0" and table["ListOps", "LAST"]["cut (%)"] == "not run"
    assert table["Text", "AIRE"]["test (%)"] == "not run" and table["Text", "AIRE"]["test, paper"] == "88.24"
    assert table["psMNIST", "uncut"]["test, paper"] == "98.67" and ("psMNIST", "AIRE") not in table
    average = table["average, 1 of 6 tasks", "AIRE"]
    assert average["cut (%)"] == "30.0" and average["cut, paper"] == "60.8" and average["cut, diff."] == ""


def test_our_own_methods_have_rows_of_their_own(tmp_path):
    """Only where they were run, and never beside a number of the paper."""
    cuts = {"aire": (0.2, 0.61), "last": (0.2, 0.6), "surgeon": (0.4, 0.615)}
    write_prune(tmp_path / "run", papers.task_config("lra_listops", "s5", "full"), 0.62, cuts)
    table = rows(tmp_path, accuracy_rows)
    row = table["ListOps", "ours: surgeon"]
    assert [row[c] for c in ("cut (%)", "cut, paper", "test (%)", "lost (points)")] == ["40.0", "", "61.50", "0.50"]
    assert table["average, 1 of 6 tasks", "ours: surgeon"]["cut (%)"] == "40.0"
    assert [label for _, label in table if label.startswith("ours")] == ["ours: surgeon"] * 2


def test_averages_are_over_the_papers_six_tasks(tmp_path):
    for i, task in enumerate((*LRA, "speech_commands")):
        cuts = {"aire": (0.2 if i < 3 else 0.4, 0.8 - 0.01 * i)}
        write_prune(tmp_path / task, papers.task_config(task, "s5", "full"), 0.8, cuts)
    row = rows(tmp_path, accuracy_rows)["average, 6 of 6 tasks", "AIRE"]
    assert [row[c] for c in ("cut (%)", "cut, paper", "cut, diff.")] == ["30.0", "60.8", "-30.8"]
    assert [row[c] for c in ("lost (points)", "lost, paper", "lost, diff.")] == ["2.50", "0.29", "+2.21"]


def test_the_papers_averages_follow_from_its_rows():
    numbers = [papers.NUMBERS["s5"][task]["aire"] for task in LRA]
    assert np.mean([n.cut for n in numbers]) == pytest.approx(60.8, abs=0.05)
    assert np.mean([n.lost for n in numbers]) == pytest.approx(0.29, abs=0.005)


def test_small_runs_have_their_own_tables_whatever_the_folders_name(tmp_path):
    write_prune(tmp_path / "lra_text", papers.task_config("lra_text", "s5", "small"))
    write_prune(tmp_path / "small", papers.task_config("lra_text", "s4d", "full"))
    assert rows(tmp_path, accuracy_rows)["Text", "AIRE"]["seeds"] == "0"
    small = rows(tmp_path, accuracy_rows, size="small")
    assert small["Text", "AIRE"] == {
        **{"task": "Text", "model": "AIRE", "seeds": "1"},
        **{"cut (%)": "40.0", "test (%)": "79.00", "lost (points)": "1.00"},
    }
    assert small["Image", ""]["cut (%)"] == "not run" and ("average, 1 of 12 tasks", "AIRE") in small
    s4d = rows(tmp_path, accuracy_rows, "s4d")["Text", "AIRE"]
    assert [s4d[c] for c in ("cut (%)", "cut, paper", "cut, diff.", "test, paper")] == ["40.0", "90.0", "-50.0", ""]


def test_mamba_has_the_papers_three_ratios_and_says_whose_score_it_is(tmp_path):
    write_prune(tmp_path / "text", papers.task_config("lra_text", "mamba", "full"))
    runs = table_job.collect(saved_runs.find(tmp_path)[0], "mamba", "full")
    main = table_job.size_tables("full", {"mamba": runs})[0]
    found = {(row[0], row[1]): dict(zip(main.rows[0], row, strict=True)) for row in main.rows[1:]}
    paper = {task: row["cut, paper"] for (task, model), row in found.items() if model == "AIRE" and row["cut, paper"]}
    assert paper == {"Text": "45.0", "Retrieval": "60.0", "Image": "80.0"}
    assert found["Text", "AIRE"]["cut, diff."] == "-5.0" and found["Retrieval", "AIRE"]["cut (%)"] == "not run"
    assert found["ListOps", ""]["cut (%)"] == "not run" and not any(task == "Path-X" for task, _ in found)
    assert "our own definition" in main.about


def test_a_trained_model_counts_once_over_both_kinds_of_runs(tmp_path):
    write_compare(tmp_path / "compare", "lra_listops,small", ("zoo", 1))
    write_prune(tmp_path / "prune", papers.task_config("lra_listops", "s5", "small"), 0.7)  # of the zoo too
    row = rows(tmp_path, accuracy_rows, size="small")["ListOps", "uncut"]
    assert (row["seeds"], row["test (%)"]) == ("2", "76.00 ± 8.49")  # 0.70 and 0.82
    models, _ = saved_runs.find(tmp_path)
    _, *listed = run_rows([table_job.collect(models, "s5", "small")])
    assert [(r[1], r[3], r[4]) for r in listed] == [
        ("compare", "seed 0", "no: the same model as in prune"),
        ("compare", "seed 1", "yes"),
        ("prune", "seed 0", "yes"),
    ]
    costs = cost_rows({"s5": table_job.collect(models, "s5", "small")}, False)[1]
    assert costs == ("ListOps", "S5", "1", "100", "60", "-40.0", "1.50", "1 × cpu")


def test_other_settings_are_marked_and_excluded_if_there_are_the_configs_own(tmp_path):
    config = papers.task_config("lra_text", "s5", "full")
    config.train.epochs, config.data.folder, config.prune.batch_size = 1, "elsewhere", 3
    write_prune(tmp_path / "changed", config, 0.5)
    models, _ = saved_runs.find(tmp_path)
    table = rows(tmp_path, accuracy_rows)
    assert table["Text", "uncut"]["seeds"] == "1 †" and table["average, 1 of 6 tasks", "uncut"]["seeds"] == "†"
    assert run_rows([table_job.collect(models, "s5", "full")])[1][5] == "train.epochs=1 (not 35)"
    write_prune(tmp_path / "own", papers.task_config("lra_text", "s5", "full"), 0.8)
    row = rows(tmp_path, accuracy_rows)["Text", "uncut"]
    assert (row["seeds"], row["test (%)"]) == ("1", "80.00")


def test_eight_kilohertz_is_zero_shot(tmp_path):
    config = papers.task_config("speech_commands_8khz", "s5", "full")
    write_prune(tmp_path / "zero_shot", config, 0.9)
    assert rows(tmp_path, accuracy_rows)["Speech, 8 kHz", "uncut"]["seeds"] == "1"
    config.init = "scratch"
    write_prune(tmp_path / "zero_shot", config, 0.9)
    assert rows(tmp_path, accuracy_rows)["Speech, 8 kHz", "uncut"]["seeds"] == "1 †"


def test_methods_are_compared_where_aire_cuts(tmp_path):
    """AIRE cuts 40 % of ListOps: it loses 0.5 points there, random 40 and 20; 20 % of Text: all lose 2."""
    write_compare(tmp_path / "compare", "lra_listops", (6554595,))
    cuts = {"aire": (0.2, 0.8), "hinf_global": (0.0, 0.8)}
    write_prune(tmp_path / "text", papers.task_config("lra_text", "s5", "full"), 0.8, cuts)
    models, _ = saved_runs.find(tmp_path)
    header, *cells = method_rows("s5", table_job.collect(models, "s5", "full"), True)
    assert header == ("method", "ListOps (1)", "Text (1)", "average, 2 of 6 tasks", "paper (test)", "diff.")
    by_method = {row[0]: row[1:] for row in cells}
    assert by_method["states cut (%)"] == ("40.0", "20.0", "30.0", "60.8", "")
    assert by_method["aire"] == ("0.50", "2.00", "1.25", "0.29", "")
    assert by_method["random"] == ("30.00", "not run", "not run", "", "")
    assert by_method["hinf_global"] == ("not run", "2.00", "not run", "7.51", "")
    assert by_method["hinf_uniform"] == ("not run", "not run", "not run", "4.32", "")
    assert set(by_method) == {"states cut (%)", *METHODS}


def test_damaged_runs_are_named_and_foreign_folders_skipped(tmp_path):
    for name in ("complete", "torn", "keyless", "impossible", "no_points", "few_points"):
        write_prune(tmp_path / name, papers.task_config("lra_text", "s5", "full"))
    text = (tmp_path / "torn" / "results.json").read_text()
    (tmp_path / "torn" / "results.json").write_text(text[: len(text) // 2])
    older = {key: value for key, value in json.loads(text).items() if key not in ("sha256", "results.csv")}
    unsealed = json.dumps(older)
    (tmp_path / "few_points" / "results.json").write_text(unsealed)
    (tmp_path / "impossible" / "results.json").write_text(unsealed.replace('"accuracy": 0.79', '"accuracy": 79'))
    del older["chosen"]["aire"]["test"]
    (tmp_path / "keyless" / "results.json").write_text(json.dumps(older))
    (tmp_path / "no_points" / "results.csv").unlink()
    (tmp_path / "few_points" / "results.csv").write_text(
        "method,ratio,states,selection_accuracy,selection_loss\naire,0.0,9,0.9,1\nlast,0.2,9,1,1\n"
    )
    foreign = ("[1]", '{"config": "text"}', '{"config": {"experiment": "speed", "name": "lra_text"}}', "{}")
    for i, content in enumerate(foreign):
        (tmp_path / f"foreign{i}").mkdir()
        (tmp_path / f"foreign{i}" / "results.json").write_text(content)
    models, damaged = saved_runs.find(tmp_path)
    assert [m.folder for m in models] == ["complete"]
    assert list(damaged) == ["few_points", "impossible", "keyless", "no_points", "torn"]
    assert damaged["few_points"] == "results.csv lacks the chosen ratio 0.4"
    assert damaged["impossible"] == "79.0 is not between 0 and 1"
    assert damaged["keyless"] == "'test' is missing"
    assert damaged["no_points"] == "results.csv: No such file or directory"
    assert damaged["torn"].startswith("results.json is not valid JSON: ")


@pytest.mark.parametrize("file", ["results.json", "results.csv"])
def test_a_changed_digit_is_found(tmp_path, file):
    """In an accuracy, in the name of the experiment, by which runs are found, and in a name of a field."""
    write_prune(tmp_path / "run", papers.task_config("lra_text", "s5", "full"))
    path = tmp_path / "run" / file
    content = path.read_text()
    changes = {"results.json": [("0.79", "0.78"), ('"prune"', '"prunf"'), ('"chosen"', '"chosdn"')]}
    for old, new in changes.get(file, [("0.88", "0.98"), ("aire", "aird")]):
        path.write_text(content.replace(old, new, 1))
        models, damaged = saved_runs.find(tmp_path)
        assert not models and damaged["run"].startswith(f"{file} is damaged"), (old, new)


@pytest.fixture
def written(tmp_path):
    """The tables of three runs, one of them damaged: (config, folder of the tables)."""
    root, workdir = tmp_path / "runs", tmp_path / "runs" / "paper_table"
    write_prune(root / "a", papers.task_config("lra_image", "s5", "full"))
    write_compare(root / "b", "lra_listops,small", (1, 2))
    write_prune(root / "torn", papers.task_config("lra_text", "s5", "full"))
    (root / "torn" / "results.json").write_text("{")
    config = get_config()
    config.runs = str(root)
    table_job.run(config, workdir, tmp_path / "data")
    return config, workdir


def test_the_tables_regenerate_without_a_change(written, tmp_path, capsys):
    config, workdir = written
    first = {path.name: path.read_bytes() for path in workdir.iterdir()}
    table_job.run(config, workdir, tmp_path / "data")
    assert {path.name: path.read_bytes() for path in workdir.iterdir()} == first
    names = {"s5_full", "s4d_full", "mamba_full", "s5_small"}
    names = {*names, "s5_full_methods", "s5_small_methods", "cost_full", "cost_small", "runs"}
    assert set(first) == {"report.md", "results.json", "tables.tex", *(f"{name}.csv" for name in names)}
    printed = capsys.readouterr().out
    assert "3 trained models" in printed and f"damaged, not read: {config.runs}/torn: " in printed
    assert "| torn " in first["report.md"].decode()
    saved = list(csv.DictReader(io.StringIO(first["s5_full.csv"].decode())))
    image = next(row for row in saved if (row["task"], row["model"]) == ("Image", "AIRE"))
    assert image["test (%)"] == "79.00" and image["test, diff."] == "-8.30"


def test_the_tables_are_published(written, tmp_path):
    target = publish.publish_report(written[1], tmp_path / "results")
    assert target.name == "paper_table" and {"report.md", "tables.tex", "s5_full.csv"} <= {
        p.name for p in target.iterdir()
    }


def test_latex_escapes_by_hand():
    text = tables.latex([("a_b", "50 %"), ("x & y", "1.0 ± 0.1 †")], "#1", "name")
    assert "a\\_b & 50 \\% \\\\\n\\midrule\nx \\& y & 1.0 $\\pm$ 0.1 $\\dagger$ \\\\\n\\bottomrule" in text
    assert "\\caption{\\#1}\\label{tab:name}\n\\begin{tabular}{lr}" in text


def test_latex_is_fully_escaped(written):
    text = (written[1] / "tables.tex").read_text()
    text.encode("ascii")
    assert not re.findall(r"(?<!\\)[#%](?! \\usepackage)", text)
    for table in text.split("\\begin{tabular}")[1:]:
        columns = table[1:].split("}")[0]
        lines = [line for line in table.splitlines() if line.endswith("\\\\")]
        assert len(lines) > 1 and {line.replace("\\&", "").count("&") + 1 for line in lines} == {len(columns)}


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_compiles(written, tmp_path):
    document = "\\documentclass{article}\\usepackage{booktabs}\\begin{document}\\input{tables}\\end{document}"
    (written[1] / "document.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
    result = subprocess.run(command, cwd=written[1], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_a_missing_folder_is_named(tmp_path):
    config = get_config()
    config.runs = str(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no folder .*nowhere, given as --config.runs"):
        table_job.run(config, tmp_path / "out", tmp_path)


def test_every_task_has_its_row_and_its_place_in_the_order():
    assert sorted(TASKS) == sorted(papers.TASKS)
    configs = Path(importlib.import_module("configs").__file__).parent.glob("*_prune.py")
    assert {t.config for t in papers.TASKS.values()} == {path.stem.removesuffix("_prune") for path in configs}
    names = [
        papers.task_config(*key).name
        for key in ((t, layer, s) for layer in papers.LAYERS for t in papers.tasks_of(layer) for s in ("full", "small"))
    ]
    assert len(set(names)) == len(names) == 2 * (2 * len(TASKS) + 5)
