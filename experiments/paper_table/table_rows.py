"""The rows of the papers' tables: our runs beside the papers' numbers, in percent and points."""

from collections.abc import Mapping, Sequence

import numpy as np

from aire.pruning import methods
from aire.report.tables import mean_spread
from experiments.paper_table import papers
from experiments.paper_table.papers import Numbers
from experiments.paper_table.saved_runs import Entry
from experiments.records import PrunedModel

Runs = Mapping[str, Sequence[Entry]]  # by task, of one layer and size
Row = tuple[str, ...]
NOT_RUN = "not run"
CHANGED = "†"

_COLUMNS = {"cut": ("cut (%)", 1), "test": ("test (%)", 2), "lost": ("lost (points)", 2)}


def included(entries: Sequence[Entry]) -> list[PrunedModel]:
    """Return the models that the tables include."""
    return [e.model for e in entries if not e.excluded]


def numbers_of(model: PrunedModel, name: str) -> Numbers | None:
    """Return the numbers of the uncut model or of a method, the mean over its seeds; None if it was not run."""
    uncut = 100 * model.uncut.test.accuracy
    if name == "uncut":
        return Numbers(test=uncut)
    if name not in model.cuts:
        return None
    chosen = [swept.chosen for swept in model.cuts[name]]
    test = 100 * float(np.mean([c.test.accuracy for c in chosen]))
    return Numbers(100 * float(np.mean([c.ratio for c in chosen])), test, _points(uncut - test))


def _points(difference: float) -> float:
    """Round off float noise, which can put a minus before a zero."""
    return round(difference, 9) + 0.0


def accuracy_rows(layer: str, runs: Runs, beside: bool) -> list[Row]:
    """The main table: the uncut model, LAST and AIRE by task, alone or `beside` the papers' numbers.

    Where this project's own methods were run, they have rows of their own.
    """
    names = {key: (title, f"{key}, paper", f"{key}, diff.") for key, (title, _) in _COLUMNS.items()}
    columns = [names[key] if beside else names[key][:1] for key in _COLUMNS]
    rows: list[Row] = [("task", "model", "seeds", *(name for group in columns for name in group))]
    labels = papers.MODELS | papers.OURS
    found = {task: {name: _outcomes(entries, name) for name in labels} for task, entries in runs.items()}
    for task, ours in found.items():
        theirs = papers.NUMBERS[layer].get(task, {}) if beside else {}
        for name, label in labels.items():
            if ours[name] or name in theirs or (included(runs[task]) and name in papers.MODELS):
                cells = _cells(name, ours[name], theirs.get(name, Numbers()), beside)
                rows.append((papers.TASKS[task].title, label, _seeds(runs[task], ours[name]), *cells))
        if not included(runs[task]) and not theirs:
            rows.append((papers.TASKS[task].title, "", "0", NOT_RUN, *[""] * (len(rows[0]) - 4)))
    for name, label in labels.items():
        if name in papers.OURS and not any(ours[name] for ours in found.values()):
            continue
        averaged = [task for task in runs if task in papers.AVERAGED or not beside]
        means = [_mean(found[task][name]) for task in averaged if found[task][name]]
        theirs = papers.AVERAGES[layer].get(name, Numbers()) if beside else Numbers()
        cells = _cells(name, [_mean(means)] if means else [], theirs, beside, comparable=len(means) == len(averaged))
        mark = CHANGED if any(_changed(runs[task]) for task in averaged if found[task][name]) else ""
        rows.append((f"average, {len(means)} of {len(averaged)} tasks", label, mark, *cells))
    return rows


def _outcomes(entries: Sequence[Entry], name: str) -> list[Numbers]:
    return [o for model in included(entries) if (o := numbers_of(model, name)) is not None]


def _seeds(entries: Sequence[Entry], outcomes: Sequence[object]) -> str:
    """Return how many, marked if their settings differ from the config's."""
    return f"{len(outcomes)} {CHANGED}" if outcomes and _changed(entries) else str(len(outcomes))


def _changed(entries: Sequence[Entry]) -> bool:
    return any(e.changes for e in entries if not e.excluded)


def _mean(outcomes: Sequence[Numbers]) -> Numbers:
    columns = {name: [v for o in outcomes if (v := getattr(o, name)) is not None] for name in _COLUMNS}
    return Numbers(**{name: float(np.mean(values)) for name, values in columns.items() if values})


def _cells(name: str, ours: Sequence[Numbers], theirs: Numbers, beside: bool, comparable: bool = True) -> list[str]:
    """Return the cells of a row: by column the mean ± spread, the paper's number and the difference."""
    cells = []
    for column, (_, digits) in _COLUMNS.items():
        values = [v for o in ours if (v := getattr(o, column)) is not None]
        paper = getattr(theirs, column)
        applies = name != "uncut" or column == "test"
        cells.append(mean_spread(values, digits) if values else NOT_RUN * applies)
        if beside:
            cells.append("" if paper is None else f"{paper:.{digits}f}")
            both = values and paper is not None and comparable
            cells.append(f"{_points(np.mean(values) - paper):+.{digits}f}" if both else "")
    return cells


def method_rows(layer: str, runs: Runs, beside: bool) -> list[Row]:
    """Points of accuracy on the selection split that each method loses at AIRE's ratio on the same model."""
    swept = {task: [m for m in included(entries) if "aire" in m.cuts] for task, entries in runs.items()}
    averaged = [task for task in runs if task in papers.AVERAGED or not beside]
    swept = {task: models for task, models in swept.items() if models}
    cut = {task: [100 * m.cuts["aire"][0].chosen.ratio for m in models] for task, models in swept.items()}
    titles = [f"{papers.TASKS[task].title} ({_seeds(runs[task], models)})" for task, models in swept.items()]
    header = ("method", *titles, f"average, {len(swept.keys() & set(averaged))} of {len(averaged)} tasks")
    rows: list[Row] = [(*header, "paper (test)", "diff.") if beside else header]
    paper = papers.AVERAGES[layer].get("aire", Numbers()).cut
    rows.append(("states cut (%)", *_compared(cut, averaged, paper, beside, digits=1)))
    others = {name for models in swept.values() for m in models for name in m.cuts} - set(methods.METHODS)
    for method in (*methods.METHODS, *sorted(others)):
        lost = {task: _lost_at_aire_ratio(models, method) for task, models in swept.items()}
        paper = papers.LOST_AT_AIRE_RATIOS[layer].get(method)
        rows.append((method, *_compared(lost, averaged, paper, beside, digits=2)))
    return rows


def _lost_at_aire_ratio(models: Sequence[PrunedModel], method: str) -> list[float]:
    """Return the loss on each model, the mean over the method's seeds."""
    losses = []
    for m in models:
        ratio = m.cuts["aire"][0].chosen.ratio
        accuracies = [s.accuracies[ratio] for s in m.cuts.get(method, []) if ratio in s.accuracies]
        if accuracies:
            losses.append(_points(100 * (m.uncut.selection.accuracy - float(np.mean(accuracies)))))
    return losses


def _compared(
    values: Mapping[str, Sequence[float]], averaged: Sequence[str], paper: float | None, beside: bool, digits: int
) -> list[str]:
    """Return each task's mean ± spread, the average if no task is missing, the paper's and the difference."""
    cells = [mean_spread(v, digits) if v else NOT_RUN for v in values.values()]
    over = [task for task in averaged if task in values]
    means = [float(np.mean(values[task])) for task in over if values[task]]
    cells.append(f"{np.mean(means):.{digits}f}" if means and len(means) == len(over) else NOT_RUN)
    if beside:
        cells.append("" if paper is None else f"{paper:.{digits}f}")
        both = paper is not None and len(means) == len(averaged)
        cells.append(f"{_points(np.mean(means) - paper):+.{digits}f}" if both else "")
    return cells


def cost_rows(runs: Mapping[str, Runs], beside: bool) -> list[Row]:
    """Parameters and speed before and after AIRE's cut, by layer and task. The last row is the paper's range."""
    rows: list[Row] = [
        ("task", "layer", "seeds", "parameters", "after AIRE's cut", "change (%)", "times as fast", "machine")
    ]
    for layer, tasks in runs.items():
        for task, entries in tasks.items():
            models = [m for m in included(entries) if m.parameters]
            missing = "not saved" if included(entries) else NOT_RUN
            cells = _cost_cells(models) if models else (missing, "", "", "", "")
            rows.append((papers.TASKS[task].title, papers.LAYERS[layer], _seeds(entries, models), *cells))
    if beside:
        change, speed = ("{} … {}".format(*limits) for limits in (papers.PARAMETERS, papers.SPEEDUPS))
        rows.append(("paper: range over its tasks", "S5", "", "", "", change, speed, "one H100"))
    return rows


def _cost_cells(models: Sequence[PrunedModel]) -> tuple[str, ...]:
    before, after = zip(*(m.parameters for m in models), strict=True)
    change = mean_spread([100 * (a / b - 1) for b, a in zip(before, after, strict=True)])
    machines = ", ".join(sorted({m.source["machine"] for m in models}))
    return (
        f"{np.mean(before):,.0f}",
        f"{np.mean(after):,.0f}",
        change,
        mean_spread([m.speedup for m in models], 2),
        machines,
    )


def run_rows(runs: Sequence[Runs]) -> list[Row]:
    """Every saved model: its folder, whether the tables include it, and its settings and source."""
    rows: list[Row] = [("config", "run", "model", "of", "counts", "other settings", "machine", "commit")]
    for tasks in runs:
        for entries in tasks.values():
            for e in entries:
                m, counts = e.model, f"no: {e.excluded}" if e.excluded else "yes"
                source = m.source["machine"], m.source["commit"]
                rows.append((m.name, m.folder, m.uncut.origin, m.identity, counts, "; ".join(e.changes), *source))
    return rows
