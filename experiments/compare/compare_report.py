"""The report of a comparison: tables, JSON and a figure in a folder, a short table on the terminal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from aire.report import figures, tables
from aire.utils.files import write_text
from experiments.compare.compare_results import Comparison, Result
from experiments.records import write_results


def write_report(comparison: Comparison, workdir: Path) -> None:
    """Write report.md, accuracy.md, results.csv, results.json and the figure to `workdir`; print the table."""
    write_results(workdir, comparison.to_json(), point_rows(comparison))
    write_text(workdir / "accuracy.md", tables.markdown(_accuracy_rows(comparison)) + "\n")
    _figure(comparison, workdir / "accuracy_against_ratio.png")
    write_text(workdir / "report.md", _markdown(comparison))
    print(f"\n{tables.text(_summary_rows(comparison))}\n")
    print(f"report and figure: {workdir}", flush=True)


def _by_method(comparison: Comparison) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in comparison.results:
        groups.setdefault(result.method, []).append(result)
    return groups


def _summary_rows(comparison: Comparison) -> list[Sequence[str]]:
    """The largest ratio within the tolerance by method, over all runs and for each model, and its cost on test."""
    models = list(comparison.uncut)
    per_model = [f"{model} (%)" for model in models] if len(models) > 1 else []
    rows = [("method", "runs", "states cut (%)", *per_model, "validation (%)", "test (%)", "test loss (points)")]
    uncut = comparison.uncut.values()
    accuracies = [tables.mean_spread([100 * getattr(u, s).accuracy for u in uncut], 2) for s in ("validation", "test")]
    rows.append(("uncut model", str(len(models)), "0", *("0" for _ in per_model), *accuracies, ""))
    for method, results in _by_method(comparison).items():
        cut = {m: tables.mean_spread([100 * r.chosen.ratio for r in results if r.model == m]) for m in models}
        columns = (
            [100 * r.chosen.validation.accuracy for r in results],
            [100 * r.chosen.test.accuracy for r in results],
            [100 * (comparison.uncut[r.model].test.accuracy - r.chosen.test.accuracy) for r in results],
        )
        ratio = tables.mean_spread([100 * r.chosen.ratio for r in results])
        costs = [tables.mean_spread(values, 2) for values in columns]
        rows.append((method, str(len(results)), ratio, *(cut[m] for m in models if per_model), *costs))
    return rows


def _accuracy_rows(comparison: Comparison) -> list[Sequence[str]]:
    """Validation accuracy in percent over the runs: one row per ratio, one column per method."""
    groups = _by_method(comparison)
    rows = [("states cut", *groups)]
    for i, ratio in enumerate(_ratios(comparison)):
        accuracies = ([100 * r.points[i].validation.accuracy for r in results] for results in groups.values())
        rows.append((f"{100 * ratio:g} %", *map(tables.mean_spread, accuracies)))
    return rows


def _ratios(comparison: Comparison) -> list[float]:
    return [point.ratio for point in comparison.results[0].points]


def point_rows(comparison: Comparison) -> list[Sequence]:
    """The rows of results.csv."""
    rows = [
        {"model": r.model, **p.to_row(), "chosen": int(p.ratio == r.chosen.ratio)}
        for r in comparison.results
        for p in r.points
    ]
    return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]


def _figure(comparison: Comparison, path: Path) -> None:
    groups = _by_method(comparison)
    curves = {
        method: [[p.validation.accuracy for p in r.points] for r in results] for method, results in groups.items()
    }
    chosen = {method: float(np.mean([r.chosen.ratio for r in results])) for method, results in groups.items()}
    tolerance = comparison.config.prune.tolerance
    uncut = np.mean([u.validation.accuracy for u in comparison.uncut.values()])
    lines = {f"{tolerance:g} point below": float(uncut) - tolerance / 100}
    figures.accuracy_against_ratio(_ratios(comparison), curves, lines, chosen, comparison.config.name, path)


def _markdown(comparison: Comparison) -> str:
    config, source = comparison.config, comparison.provenance
    origins = "\n".join(f"- model {name}: {uncut.origin}" for name, uncut in comparison.uncut.items())
    versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
    return f"""# {config.name}

{tables.markdown(_summary_rows(comparison))}

Each method cuts at the largest of {len(config.prune.ratios)} ratios that costs at most {config.prune.tolerance:g} point
of validation accuracy, without retraining. Numbers are the mean ± one standard deviation over the runs: one for each
model, and for each seed of a random method. The test split was used once, in this table.

![Accuracy against ratio](accuracy_against_ratio.png)

{origins}
- commit: {source["commit"]}
- versions: {versions}
- machine: {source["machine"]}

Accuracy at every ratio is in `accuracy.md`, every run in `results.csv`, all settings in `results.json`.
"""
