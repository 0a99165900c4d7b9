"""The report of a pruning run: tables, JSON, figures, the pruned model; and a short table on the terminal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

import aire
from aire.pruning import count_parameters
from aire.report import figures, tables
from aire.utils.files import write_text
from experiments.prune.prune_results import Outcome
from experiments.records import Point, write_results


def write_report(outcome: Outcome, workdir: Path) -> None:
    """Write results.csv, results.json, report.md, pruned.safetensors and figures to `workdir`; print the table."""
    write_results(workdir, outcome.to_json(), point_rows(outcome.points))
    first = outcome.choices[0]
    aire.save(first.result.model, workdir / "pruned.safetensors")
    _figures(outcome, workdir)
    write_text(workdir / "report.md", _markdown(outcome))
    print(f"\n{tables.text(_result_rows(outcome))}\n")
    print(
        f"the model cut by {first.method}: forward pass {outcome.speedup:.2f} times as fast\n{first.result.summary()}\n"
    )
    print(f"report, figures and the pruned model: {workdir}", flush=True)


def _result_rows(outcome: Outcome) -> list[Sequence[str]]:
    """The short table: baselines, the uncut model, and each method at the ratio chosen on validation."""
    rows = [("", "states cut", "selection", "test", "change on test", "parameters")]
    for name, accuracy in outcome.baselines.items():
        rows.append((name, "", f"{accuracy['selection']:.2%}", f"{accuracy['test']:.2%}", "", ""))
    uncut = outcome.uncut
    parameters = f"{count_parameters(outcome.model):,}"
    rows.append(("uncut model", "0 %", f"{uncut.selection.accuracy:.2%}", f"{uncut.test.accuracy:.2%}", "", parameters))
    for c in outcome.choices:
        test = c.chosen.test
        change = f"{100 * test.change:+.2f} ± {100 * test.standard_error:.2f} points"
        accuracies = f"{c.chosen.selection.accuracy:.2%}", f"{test.accuracy:.2%}"
        rows.append((c.method, f"{100 * c.chosen.ratio:.0f} %", *accuracies, change, f"{c.result.parameters[1]:,}"))
    return rows


def point_rows(points: Sequence[Point]) -> list[Sequence]:
    """The rows of results.csv. One model and one seed, so they need no columns."""
    rows = [{name: value for name, value in p.to_row().items() if name != "draw"} for p in points]
    return [tuple(rows[0]), *(tuple(row.values()) for row in rows)]


def _figures(outcome: Outcome, workdir: Path) -> None:
    name, choices, first = outcome.config.name, outcome.choices, outcome.choices[0]
    ratios = sorted({p.ratio for p in outcome.points})
    found = {c.method: {p.ratio: p.selection.accuracy for p in outcome.points if p.method == c.method} for c in choices}
    curves = {method: [[accuracies.get(r, np.nan) for r in ratios]] for method, accuracies in found.items()}
    tolerance = outcome.config.prune.tolerance
    lines = {f"{tolerance:g} point below": outcome.uncut.selection.accuracy - tolerance / 100}
    lines |= {baseline: accuracy["selection"] for baseline, accuracy in outcome.baselines.items()}
    chosen = {c.method: c.chosen.ratio for c in outcome.choices}
    figures.accuracy_against_ratio(ratios, curves, lines, chosen, name, workdir / "accuracy_against_ratio.png")
    before = outcome.model.config.state_sizes
    after = {f"{c.method} (−{100 * c.chosen.ratio:.0f} %)": c.result.model.config.state_sizes for c in outcome.choices}
    figures.states_per_layer(before, after, name, workdir / "states_per_layer.png")
    title = f"{name}: {first.method}, {100 * first.chosen.ratio:.0f} % of the states cut (hollow)"
    result = first.result
    figures.eigenvalues(aire.modes(outcome.model), result.scores, result.keep, title, workdir / "eigenvalues.png")


def _markdown(outcome: Outcome) -> str:
    config, first = outcome.config, outcome.choices[0]
    seconds = ", ".join(f"{name} {s:.0f} s" for name, s in outcome.seconds.items())
    versions = ", ".join(f"{name} {version}" for name, version in outcome.provenance["versions"].items())
    return f"""# {config.name}

{tables.markdown(_result_rows(outcome))}

Each method cuts at the largest of {len(config.prune.ratios)} ratios that costs at most {config.prune.tolerance:g} point
of accuracy on the {outcome.uncut.selection.examples:,} examples of the selection split, without retraining. The
checkpoint was chosen on other examples. The test split, {outcome.uncut.test.examples:,} examples, was used once, in
this table, with the standard error of each change. One seed: {config.seed}.

![Accuracy against ratio](accuracy_against_ratio.png)
![States per layer](states_per_layer.png)
![Eigenvalues](eigenvalues.png)

The model cut by `{first.method}` is saved as `pruned.safetensors`. Its forward pass is {outcome.speedup:.2f} times as
fast, side by side on batches of {config.prune.batch_size}:

```
{first.result.summary()}
```

- model: {outcome.uncut.origin}
- commit: {outcome.provenance["commit"]}
- versions: {versions}
- machine: {outcome.provenance["machine"]}
- time: {seconds}

All settings are in `results.json`, all points of the sweep in `results.csv`.
"""
