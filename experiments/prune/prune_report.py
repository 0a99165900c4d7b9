"""The report of a pruning run: a table on the terminal, row by row; then tables, JSON, figures and the cut model."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import aire
from aire.models import Classifier
from aire.pruning import count_parameters
from aire.report import eigenvalues, figures, interactive, small_multiples, tables
from aire.utils.files import write_text
from experiments.prune.prune_results import Choice, Outcome
from experiments.records import Point, Uncut, write_results


class Table:
    """The table of the results, printed row by row: a method's row appears when its ratio is chosen and tested.

    Args:
        model: the uncut model.
        baselines: accuracy by name and split.
        uncut: its evaluations.
        methods: those that will follow, for the width of the first column.
    """

    def __init__(
        self, model: Classifier, baselines: Mapping[str, Mapping[str, float]], uncut: Uncut, methods: Sequence[str]
    ):
        rows = first_rows(model, baselines, uncut)
        names = max(map(len, (*methods, *(row[0] for row in rows))))
        self._widths = [names, *map(len, _WIDEST)]
        print(f"\n{tables.line(rows[0], self._widths)}\n{tables.rule(self._widths)}")
        for row in rows[1:]:
            print(tables.line(row, self._widths), flush=True)

    def print(self, choice: Choice) -> None:
        print(tables.line(choice_row(choice), self._widths), flush=True)


_HEADER = ("", "states cut", "states", "parameters", "forward pass", "selection", "test", "change on test")
_WIDEST = ("states cut", "1,024", "parameters", "1000 → 1000 ms", "selection", "100.00%", "-10.00 ± 1.00 points")


def first_rows(model: Classifier, baselines: Mapping[str, Mapping[str, float]], uncut: Uncut) -> list[Sequence[str]]:
    """The header, the baselines and the uncut model."""
    rows: list[Sequence[str]] = [_HEADER]
    for name, accuracy in baselines.items():
        rows.append((name, "", "", "", "", f"{accuracy['selection']:.2%}", f"{accuracy['test']:.2%}", ""))
    states, parameters = f"{sum(model.config.state_sizes):,}", f"{count_parameters(model):,}"
    accuracies = f"{uncut.selection.accuracy:.2%}", f"{uncut.test.accuracy:.2%}"
    rows.append(("no cut", "0 %", states, parameters, "", *accuracies, ""))
    return rows


def choice_row(choice: Choice) -> Sequence[str]:
    """A method at the ratio that the selection split allows."""
    test, chosen, (before, after) = choice.chosen.test, choice.chosen, choice.seconds
    return (
        choice.method,
        f"{100 * chosen.ratio:.0f} %",
        f"{sum(choice.result.model.config.state_sizes):,}",
        f"{choice.result.parameters[1]:,}",
        f"{1e3 * before:.1f} → {1e3 * after:.1f} ms",
        f"{chosen.selection.accuracy:.2%}",
        f"{test.accuracy:.2%}",
        f"{100 * test.change:+.2f} ± {100 * test.standard_error:.2f} points",
    )


def write_report(outcome: Outcome, workdir: Path) -> None:
    """Write results.csv, results.json, report.md, report.html, pruned.safetensors and figures to `workdir`."""
    write_results(workdir, outcome.to_json(), point_rows(outcome.points))
    last = outcome.choices[-1]
    aire.save(last.result.model, workdir / "pruned.safetensors")
    _figures(outcome, workdir)
    write_text(workdir / "report.md", _markdown(outcome))
    write_text(workdir / "report.html", interactive.html(page(outcome)))
    print(f"\nthe model cut by {last.method}, which is saved:\n{last.result.summary()}\n")
    print(f"report, figures and the cut model: {workdir}\nopen {workdir / 'report.html'} in a browser", flush=True)


def point_rows(points: Sequence[Point]) -> list[Sequence]:
    """The rows of results.csv. One model and one seed, so they need no columns."""
    rows = [{name: value for name, value in p.to_row().items() if name != "draw"} for p in points]
    return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]


def _figures(outcome: Outcome, workdir: Path) -> None:
    name, last = outcome.config.name, outcome.choices[-1]
    if len(outcome.choices) <= small_multiples.MOST:
        _few_methods(outcome, workdir)
    else:
        _many_methods(outcome, workdir)
    before = outcome.model.config.state_sizes
    after = {
        f"{c.method}, {100 * c.chosen.ratio:.0f} % cut": c.result.model.config.state_sizes for c in outcome.choices
    }
    figures.states_per_layer(before, after, name, workdir / "states_per_layer.png")
    title = f"{name}: {last.method}, {100 * last.chosen.ratio:.0f} % of the states cut (hollow)"
    eigenvalues.draw(aire.modes(outcome.model), last.result.keep, title, workdir / "eigenvalues.png")


def page(outcome: Outcome) -> interactive.Report:
    """What report.html shows."""
    ratios, accuracies = _accuracies(outcome)
    modes = aire.modes(outcome.model)

    def table(errors: Mapping[float, Mapping[str, float]]) -> np.ndarray:
        """By ratio and layer; NaN where unknown."""
        return np.array([[errors.get(ratio, {}).get(path, np.nan) for path in modes] for ratio in ratios])

    def sweep(c: Choice) -> interactive.MethodSweep:
        measured = {c.chosen.ratio: {path: error.fit for path, error in c.result.errors.items()}}
        return interactive.MethodSweep(
            [c.masks.get(ratio) for ratio in ratios],
            accuracies[c.method],
            table(outcome.predicted.get(c.method, {})),
            table(measured),
            ratios.index(c.chosen.ratio),
            c.chosen.test.accuracy,
        )

    return interactive.Report(
        outcome.config.name,
        modes,
        outcome.uncut.selection.accuracy,
        outcome.config.prune.tolerance,
        {name: accuracy["selection"] for name, accuracy in outcome.baselines.items()},
        ratios,
        {c.method: sweep(c) for c in outcome.choices},
    )


def _accuracies(outcome: Outcome) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return the ratios, and by method the accuracy on selection at each, (R,); NaN where the method failed."""
    ratios = sorted({p.ratio for p in outcome.points})
    by_method = {c.method: np.full(len(ratios), np.nan) for c in outcome.choices}
    for p in outcome.points:
        by_method[p.method][ratios.index(p.ratio)] = p.selection.accuracy
    return ratios, by_method


def _few_methods(outcome: Outcome, workdir: Path) -> None:
    """One plot, on light and on dark ground."""
    ratios, accuracies = _accuracies(outcome)
    changes = {method: 100 * (a - outcome.uncut.selection.accuracy)[None] for method, a in accuracies.items()}
    panel = f"{outcome.config.name}: change of accuracy on the selection split", changes
    for theme, suffix in (("light", ""), ("dark", "_dark")):
        path = workdir / f"accuracy_against_ratio{suffix}.png"
        small_multiples.draw([[panel]], ratios, outcome.config.prune.tolerance, path, theme)


def _many_methods(outcome: Outcome, workdir: Path) -> None:
    """A small plot for each method."""
    ratios, accuracies = _accuracies(outcome)
    tolerance = outcome.config.prune.tolerance
    lines = {f"{tolerance:g} point below": outcome.uncut.selection.accuracy - tolerance / 100}
    lines |= {baseline: accuracy["selection"] for baseline, accuracy in outcome.baselines.items()}
    chosen = {c.method: c.chosen.ratio for c in outcome.choices}
    curves = {method: [a] for method, a in accuracies.items()}
    path = workdir / "accuracy_against_ratio.png"
    figures.accuracy_against_ratio(ratios, curves, lines, chosen, outcome.config.name, path)


def _markdown(outcome: Outcome) -> str:
    config, last = outcome.config, outcome.choices[-1]
    seconds = ", ".join(f"{name} {s:.0f} s" for name, s in outcome.seconds.items())
    versions = ", ".join(f"{name} {version}" for name, version in outcome.provenance["versions"].items())
    rows = [*first_rows(outcome.model, outcome.baselines, outcome.uncut), *map(choice_row, outcome.choices)]
    return f"""# {config.name}

{tables.markdown(rows)}

Each method cuts at the largest of {len(config.prune.ratios)} ratios that costs at most {config.prune.tolerance:g} point
of accuracy on the {outcome.uncut.selection.examples:,} examples of the selection split, without retraining. The
checkpoint was chosen on other examples. The test split, {outcome.uncut.test.examples:,} examples, was used once, in
this table, with the standard error of each change. One seed: {config.seed}. The forward pass is timed beside the uncut
model's, on batches of {config.prune.batch_size}.

[Interactive report](report.html): move a slider over the ratio.

![Accuracy against ratio](accuracy_against_ratio.png)
![States per layer](states_per_layer.png)
![Eigenvalues](eigenvalues.png)

The model cut by `{last.method}` is saved as `pruned.safetensors`:

```
{last.result.summary()}
```

- model: {outcome.uncut.origin}
- commit: {outcome.provenance["commit"]}
- versions: {versions}
- machine: {outcome.provenance["machine"]}
- time: {seconds}

All settings are in `results.json`, all points of the sweep in `results.csv`.
"""
