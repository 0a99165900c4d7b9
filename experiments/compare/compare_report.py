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
    print(f"\n{tables.text(summary_rows(comparison, comparison.config.prune.tolerance))}\n")
    print(f"report and figure: {workdir}", flush=True)


def _by_method(comparison: Comparison) -> dict[str, list[Result]]:
    groups: dict[str, list[Result]] = {}
    for result in comparison.results:
        groups.setdefault(result.method, []).append(result)
    return groups


def summary_rows(comparison: Comparison, tolerance: float) -> list[Sequence[str]]:
    """The largest ratio within a tolerance by method, over all runs and for each model, and what it changes."""
    models = list(comparison.uncut)
    per_model = [f"{model} (%)" for model in models] if len(models) > 1 else []
    changes = "on selection (points)", "on test (points)", "standard error"
    rows = [("method", "runs", "states cut (%)", *per_model, *changes, "test (%)", "seconds")]
    uncut = comparison.uncut.values()
    accuracy = tables.mean_spread([100 * u.test.accuracy for u in uncut], 2)
    rows.append(("uncut model", str(len(models)), "0", *("0" for _ in per_model), "", "", "", accuracy, ""))
    for method, results in _by_method(comparison).items():
        chosen = {id(r): r.chosen[tolerance] for r in results}
        cut = {m: tables.mean_spread([100 * chosen[id(r)].ratio for r in results if r.model == m]) for m in models}
        columns = (
            [100 * c.selection.change for c in chosen.values()],
            [100 * c.test.change for c in chosen.values()],
        )
        # All runs share the test examples, so their mean has about the error of one run.
        error = float(np.mean([100 * c.test.standard_error for c in chosen.values()]))
        rows.append(
            (
                method,
                str(len(results)),
                tables.mean_spread([100 * c.ratio for c in chosen.values()]),
                *(cut[m] for m in models if per_model),
                *(tables.mean_spread(values, 2) for values in columns),
                f"{error:.2f}",
                tables.mean_spread([100 * c.test.accuracy for c in chosen.values()], 2),
                _seconds(comparison, method),
            )
        )
    return rows


def _seconds(comparison: Comparison, method: str) -> str:
    values = [by_method[method] for by_method in comparison.seconds.values() if method in by_method]
    return f"{np.mean(values):.1f}" if values else ""


def _accuracy_rows(comparison: Comparison) -> list[Sequence[str]]:
    """Accuracy on the selection split in percent over the runs: one row per ratio, one column per method."""
    curves = {method: 100 * _curves(results, _ratios(comparison)) for method, results in _by_method(comparison).items()}
    rows = [("states cut", *curves)]
    for i, ratio in enumerate(_ratios(comparison)):
        columns = (values[:, i][~np.isnan(values[:, i])] for values in curves.values())
        rows.append((f"{100 * ratio:g} %", *(tables.mean_spread(v) if len(v) else "failed" for v in columns)))
    return rows


def _ratios(comparison: Comparison) -> list[float]:
    return sorted(comparison.config.prune.ratios)


def _curves(results: Sequence[Result], ratios: Sequence[float]) -> np.ndarray:
    """Accuracy on the selection split, (runs, ratios); NaN where a method failed."""
    accuracies = [{p.ratio: p.selection.accuracy for p in r.points} for r in results]
    return np.array([[found.get(ratio, np.nan) for ratio in ratios] for found in accuracies])


def point_rows(comparison: Comparison) -> list[Sequence]:
    """The rows of results.csv."""
    rows = [
        {"model": r.model, **p.to_row(), "chosen": int(p.ratio == r.first.ratio)}
        for r in comparison.results
        for p in r.points
    ]
    return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]


def _figure(comparison: Comparison, path: Path) -> None:
    groups = _by_method(comparison)
    curves = {method: _curves(results, _ratios(comparison)) for method, results in groups.items()}
    chosen = {method: float(np.mean([r.first.ratio for r in results])) for method, results in groups.items()}
    tolerance = comparison.config.prune.tolerance
    uncut = np.mean([u.selection.accuracy for u in comparison.uncut.values()])
    lines = {f"{tolerance:g} point below": float(uncut) - tolerance / 100}
    figures.accuracy_against_ratio(_ratios(comparison), curves, lines, chosen, comparison.config.name, path)


def _markdown(comparison: Comparison) -> str:
    config, source = comparison.config, comparison.provenance
    origins = "\n".join(f"- model {name}: {uncut.origin}" for name, uncut in comparison.uncut.items())
    versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
    selection, test = (next(iter(comparison.uncut.values())).to_json()[name] for name in ("selection", "test"))
    stricter = "\n".join(
        f"\nAt most {tolerance:g} points:\n\n{tables.markdown(summary_rows(comparison, tolerance))}\n"
        for tolerance in config.also_within
    )
    failures = [(model, *failure) for model, found in comparison.failures.items() for failure in found.items()]
    failed = f"\nFailed:\n\n{tables.markdown([('model', 'cut', 'reason'), *failures])}\n" if failures else ""
    return f"""# {config.name}

{tables.markdown(summary_rows(comparison, config.prune.tolerance))}

Each method cuts at the largest of {len(config.prune.ratios)} ratios that costs at most {config.prune.tolerance:g} point
of accuracy on the {selection["examples"]:,} examples of the selection split, without retraining. Checkpoints were
chosen on other examples. Numbers are the mean ± one standard deviation over the runs: one for each model, and for
each draw of calibration inputs or random numbers. The standard error is that of the change on the
{test["examples"]:,} test examples: only examples count whose answer changed. The test split was used once, in these
tables. Seconds are those of one cut, from the inputs to the new readouts. Calibration inputs:
{config.prune.calibration.examples} examples of {config.prune.calibration.source}.
{stricter}{failed}
![Accuracy against ratio](accuracy_against_ratio.png)

{origins}
- commit: {source["commit"]}
- versions: {versions}
- machine: {source["machine"]}

Accuracy at every ratio is in `accuracy.md`, every run in `results.csv`, all settings in `results.json`.
"""
