"""The papers' tables of all finished runs in a folder, optionally after running what is missing."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from aire.report import tables
from aire.utils.errors import UserError
from aire.utils.files import write_json, write_text
from experiments.paper_table import missing_runs, papers, saved_runs
from experiments.paper_table.table_rows import Row, Runs, accuracy_rows, cost_rows, included, method_rows, run_rows
from experiments.provenance import provenance
from experiments.records import PrunedModel

SIZES = ("full", "small")


@dataclasses.dataclass(frozen=True)
class Table:
    """One table. The first row is the header. `name` is used for the CSV file and the LaTeX label."""

    name: str
    title: str
    about: str
    rows: Sequence[Row]


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Write the tables that a config describes; see configs/paper_table.py."""
    root = Path(config.runs or os.environ.get("AIRE_WORKDIR", "runs"))
    failures = missing_runs.run(config, root.resolve(), data_dir.resolve())
    if config.runs and not root.is_dir():
        raise UserError(f"no folder {root}, given as --config.runs: expected one with finished runs")
    models, damaged = saved_runs.find(root)
    runs = {size: {layer: collect(models, layer, size) for layer in papers.LAYERS} for size in SIZES}
    write_report(all_tables(runs), damaged, workdir)
    write_json(workdir / "results.json", {"config": config.to_dict(), **provenance()})
    n = sum(len(included(e)) for layers in runs.values() for tasks in layers.values() for e in tasks.values())
    print(f"{n} trained models of the tables' tasks in {root}; tables: {workdir}", flush=True)
    for folder, reason in damaged.items():
        print(f"damaged, not read: {root / folder}: {reason}", flush=True)
    missing_runs.report(failures)


def collect(models: Sequence[PrunedModel], layer: str, size: str) -> Runs:
    """Return the saved models of each task, in the papers' order."""
    return {task: saved_runs.entries(models, papers.task_config(task, layer, size)) for task in papers.tasks_of(layer)}


def all_tables(runs: Mapping[str, Mapping[str, Runs]]) -> list[Table]:
    """Make the tables of runs, by size and layer: at the papers' size, then of the small ones if there are any."""
    rows = run_rows([tasks for layers in runs.values() for tasks in layers.values()])
    small = {layer: tasks for layer, tasks in runs["small"].items() if any(tasks.values())}
    tables_small = size_tables("small", small) if small else []
    return [*size_tables("full", runs["full"]), *tables_small, Table("runs", "The runs", _RUNS, rows)]


def size_tables(size: str, runs: Mapping[str, Runs]) -> list[Table]:
    """Make the tables of one size; those at the papers' size have the papers' numbers beside ours."""
    beside = size == "full"
    where = "at the papers' size, beside their numbers" if beside else "small, which no paper has"
    result = []
    for layer, tasks in runs.items():
        title, about = papers.LAYERS[layer], _ACCURACY + _OWN.get(layer, "")
        about += _AVERAGED + _BESIDE[layer] if beside else ""
        rows = accuracy_rows(layer, tasks, beside)
        result.append(Table(f"{layer}_{size}", f"{title}, {where}", about, rows))
        if any(tasks.values()) or papers.LOST_AT_AIRE_RATIOS[layer]:
            name, title = f"{layer}_{size}_methods", f"{title}, all methods at AIRE's ratio, {size}"
            result.append(Table(name, title, _METHODS, method_rows(layer, tasks, beside)))
    rows = cost_rows(runs, beside)
    return [*result, Table(f"cost_{size}", f"Parameters and speed, {size}", _COST, rows)]


_ACCURACY = """\
The largest share of states that can be cut within the run's tolerance on the selection split, without retraining, with
the test accuracy and the points lost there: mean ± one standard deviation over trained models (seeds). Averages are
over the tasks that were run. † trained or pruned with other settings than the config's: see the table of runs. Rows
"ours" are methods of this project, not of a paper: they see unlabelled training inputs.
"""
_AVERAGED = """
The paper's averages, and ours beside them, are over the six tasks of the Long Range Arena. diff. is ours minus the
paper's; averages have one only if all six tasks were run.
"""
_BESIDE = {
    "s5": """
Paper: AIRE-Prune's main table; for other tasks, the accuracy in the S5 paper.
""",
    "s4d": f"""
Paper: AIRE-Prune, which gives two ratios. LAST's paper reports {papers.LAST_S4D_AVERAGE.cut:g} % cut for
{papers.LAST_S4D_AVERAGE.lost:g} points, on average over its own benchmark.
""",
    "mamba": """
Paper: AIRE-Prune, which gives three ratios.
""",
}
_OWN = {
    "mamba": """
No paper says how a selective state is scored, nor the sizes of the models. Here a state is a column, cut in all
channels, and AIRE is our own definition, calibrated on unlabelled training inputs (docs/selective.md). The sizes are
our choice.
"""
}
_METHODS = """\
Points of accuracy on *selection* lost if each method cuts the share of states that AIRE reached on the same model.
Sweeps are on that split; the test split is used only at each method's own ratio. AIRE's ratio was chosen there, too,
so its own loss is at most the tolerance by construction. The number of trained models follows each task.
"""
_COST = """\
The model cut by AIRE: its parameters, and how many times as fast its forward pass is, side by side with the uncut
model's. "not saved": a comparison of methods measures neither.
"""
_RUNS = """\
Task, layer and size of a run are read from its saved config. Each trained model counts once.
"""


def write_report(all_tables: Sequence[Table], damaged: Mapping[str, str], workdir: Path) -> None:
    """Write report.md, tables.tex and a CSV file for each table to `workdir`."""
    sections = [f"## {t.title}\n\n{tables.markdown(t.rows)}\n\n{t.about}" for t in all_tables]
    if damaged:
        rows = [("run", "reason"), *damaged.items()]
        sections.append(f"## Damaged, not read\n\n{tables.markdown(rows)}\n")
    write_text(workdir / "report.md", "\n".join(["# The papers' tables\n", *sections]))
    latex = [tables.latex(t.rows, t.title, t.name) for t in all_tables if t.name != "runs"]
    write_text(workdir / "tables.tex", "\n".join(["% \\usepackage{booktabs}", *latex]))
    for t in all_tables:
        write_text(workdir / f"{t.name}.csv", tables.csv_text(t.rows))
