"""Draw the figure and write the tables of the page on calibrated pruning, from published comparisons.

    python -m experiments.tools.calibrated_page [RESULTS]      RESULTS: by default experiments/results

Reads the folders compare_TASK_small and compare_TASK_small_reconstruct of `python run.py
--config=compare_methods:TASK,small` and `…:TASK,small,reconstruct`, and compare_TASK_small_more with further models
(`--config.models="(2,)" --config.name=compare_TASK_small_more`). Writes to RESULTS/calibrated: figure_light.png,
figure_dark.png, summary.csv, largest_cut.csv, inputs.csv and report.md. The
tables of README.md and docs/ follow.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from aire.report import small_multiples, tables
from aire.utils.files import write_text
from configs.compare_methods import INPUTS
from experiments.records import Measurement, Point, read_points
from experiments.tools import publish

_RESULTS = Path(__file__).parents[1] / "results"
TASKS = {"lra_listops": "ListOps", "fashion_mnist": "Fashion-MNIST", "lra_pathfinder": "Pathfinder"}
LAYERS = {"": "S5", "_s4d": "S4D", "_lru": "LRU", "_mamba": "Mamba"}
DRAWN = {"aire": "AIRE", "measured": "measured", "surgeon": "surgeon", "reconstruct": "reconstruct"}


@dataclasses.dataclass(frozen=True)
class Compared:
    """A published comparison.

    Attributes:
        points: of the sweep, by method, model and draw.
        chosen: what results.json says about each method, model, draw and tolerance.
        uncut: accuracy on the selection split, by model.
        seconds: of one cut, by model and method.
    """

    points: Mapping[str, Mapping[tuple[str, int], Sequence[Point]]]
    chosen: Sequence[Mapping]
    uncut: Mapping[str, float]
    seconds: Mapping[str, Mapping[str, float]]

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Read a folder; None if there is no finished comparison."""
        if not (folder / "results.json").is_file():
            return None
        results = json.loads((folder / "results.json").read_text())
        if "seconds" not in results:  # of an older version
            return None
        points: dict[str, dict[tuple[str, int], list[Point]]] = {}
        for row in read_points(folder, results):
            point = Point.from_row(row)
            points.setdefault(point.method, {}).setdefault((row["model"], point.seed), []).append(point)
        uncut = {name: model["selection"]["accuracy"] for name, model in results["models"].items()}
        return cls(points, results["chosen"], uncut, results["seconds"])

    def and_further(self, other: Self | None) -> Self:
        """Add the methods of another comparison of the same models."""
        if other is None:
            return self
        seconds = {model: own | other.seconds.get(model, {}) for model, own in self.seconds.items()}
        return dataclasses.replace(
            self, points={**self.points, **other.points}, chosen=[*self.chosen, *other.chosen], seconds=seconds
        )

    def and_models(self, other: Self | None) -> Self:
        """Add further models, by the methods that this comparison has."""
        if other is None:
            return self
        points = {method: {**runs, **other.points.get(method, {})} for method, runs in self.points.items()}
        chosen = [*self.chosen, *(c for c in other.chosen if c["method"] in points)]
        return Compared(points, chosen, {**self.uncut, **other.uncut}, {**self.seconds, **other.seconds})

    @property
    def ratios(self) -> list[float]:
        return sorted({p.ratio for runs in self.points.values() for points in runs.values() for p in points})

    def changes(self, method: str, ratios: Sequence[float]) -> np.ndarray:
        """Return the change of accuracy in points, (runs, ratios); NaN where the method was not tried or failed."""
        rows = []
        for (model, _), points in self.points[method].items():
            found = {p.ratio: 100 * (p.selection.accuracy - self.uncut[model]) for p in points}
            rows.append([found.get(ratio, np.nan) for ratio in ratios])
        return np.array(rows)

    def choices(self, method: str, tolerance: float) -> list[Mapping]:
        """Return the choices of a method within a tolerance, one for each model and draw."""
        return [c for c in self.chosen if c["method"] == method and c["within"] == tolerance]


def figure(found: Mapping[tuple[str, str], Compared], folder: Path) -> None:
    """Draw the changes of accuracy, one panel per task and layer kind, on light and on dark ground."""
    layers = [layer for layer in LAYERS if any((task, layer) in found for task in TASKS)]
    ratios = sorted({ratio for compared in found.values() for ratio in compared.ratios})
    panels = [
        [
            (f"{LAYERS[layer]}, {TASKS[task]}", _curves(found[task, layer], ratios))
            for task in TASKS
            if (task, layer) in found
        ]
        for layer in layers
    ]
    for theme in small_multiples.THEMES:
        small_multiples.draw(panels, ratios, 1.0, folder / f"figure_{theme}.png", theme)


def _curves(compared: Compared, ratios: Sequence[float]) -> dict[str, np.ndarray]:
    return {label: compared.changes(method, ratios) for method, label in DRAWN.items() if method in compared.points}


def largest_cut_rows(found: Mapping[tuple[str, str], Compared]) -> list[Sequence[str]]:
    """The largest cut by layer kind and method: of each task within 1 point, and means over the tasks."""
    means = "mean", "within 0.3 points", "change on test (points)", "standard error", "seconds"
    rows: list[Sequence[str]] = [("layer", "method", *TASKS.values(), *means)]
    for layer, title in LAYERS.items():
        tasks = [task for task in TASKS if (task, layer) in found]
        for method in dict.fromkeys(m for task in tasks for m in found[task, layer].points):
            own = {task: found[task, layer] for task in tasks if method in found[task, layer].points}
            cut = {task: _mean_of(c.choices(method, 1.0), "ratio") for task, c in own.items()}
            strict = [_mean_of(c.choices(method, 0.3), "ratio") for c in own.values()]
            tests = [[Measurement.from_json(choice["test"]) for choice in c.choices(method, 1.0)] for c in own.values()]
            changes = [100 * float(np.mean([t.change for t in test])) for test in tests]
            errors = [100 * float(np.mean([t.standard_error for t in test])) for test in tests]
            seconds = [by_method[method] for c in own.values() for by_method in c.seconds.values()]
            complete = len(own) == len(TASKS)
            rows.append(
                (
                    *(title, method, *(f"{100 * cut[task]:.0f} %" if task in cut else "" for task in TASKS)),
                    f"{100 * float(np.mean(list(cut.values()))):.0f} %" if complete else "",
                    f"{100 * float(np.mean(strict)):.0f} %" if complete else "",
                    f"{np.mean(changes):+.2f}",
                    # The tasks' test examples are independent.
                    f"{np.sqrt(np.sum(np.square(errors))) / len(errors):.2f}",
                    f"{np.mean(seconds):.1f}",
                )
            )
    return rows


def summary_rows(rows: Sequence[Sequence[str]]) -> list[Sequence[str]]:
    """The methods of the figure, with the cuts within 1 point and the change on test, from `largest_cut_rows`."""
    header = rows[0]
    columns = [header.index(name) for name in ("layer", "method", *TASKS.values(), "mean", "change on test (points)")]
    return [[row[i] for i in columns] for row in rows if row is header or row[1] in DRAWN]


def _mean_of(choices: Sequence[Mapping], field: str) -> float:
    return float(np.mean([c[field] for c in choices]))


def input_rows(results: Path) -> list[Sequence[str]]:
    """The largest cut within 1 point by task, method and calibration inputs, and the change at the usual cut."""
    names = {"16": "16", "64": "64", "": "256", "1024": "1024", "noise": "uniform noise", "other": "another task's"}
    assert names.keys() == INPUTS.keys() | {""}
    rows: list[Sequence[str]] = [("task", "method", "at", *names.values())]
    for task, title in TASKS.items():
        folders = {n: results / f"compare_{task}_small{f'_inputs_{n}' if n else ''}" for n in names}
        found = {name: c for name, folder in folders.items() if (c := Compared.read(folder))}
        if len(found) < 2 or "" not in found:
            continue
        for method in next(c for name, c in found.items() if name).points:
            usual = [c["ratio"] for c in found[""].choices(method, 1.0) if c["model"] == "zoo"]
            if not usual:
                continue
            at = float(np.mean(usual))
            at = min(found[""].ratios, key=lambda ratio: abs(ratio - at))
            cells = [_input_cell(found.get(name), method, at) for name in names]
            rows.append((title, method, f"{100 * at:.0f} %", *cells))
    return rows


def _input_cell(compared: Compared | None, method: str, ratio: float) -> str:
    """Return the change of the zoo's model at this ratio, the mean over the draws."""
    if compared is None or method not in compared.points:
        return ""
    zoo = [i for i, (model, _) in enumerate(compared.points[method]) if model == "zoo"]
    changes = compared.changes(method, [ratio])[zoo, 0]
    return "" if np.isnan(changes).any() else tables.mean_spread(changes, 2)


def main(arguments: Sequence[str]) -> None:
    results = Path(arguments[0]) if arguments else _RESULTS
    folder = results / "calibrated"
    names = {(task, layer): f"compare_{task}{layer}_small" for layer in LAYERS for task in TASKS}
    found = {
        key: c.and_further(Compared.read(results / f"{name}_reconstruct")).and_models(
            Compared.read(results / f"{name}_more")
        )
        for key, name in names.items()
        if (c := Compared.read(results / name))
    }
    if not found:
        sys.exit(f"error: no comparison in {results}: run compare_methods and publish it first")
    folder.mkdir(exist_ok=True)
    figure(found, folder)
    largest = largest_cut_rows(found)
    sections = {"summary": summary_rows(largest), "largest_cut": largest, "inputs": input_rows(results)}
    for name, rows in sections.items():
        write_text(folder / f"{name}.csv", tables.csv_text(rows))
    text = "\n\n".join(f"## {title}\n\n{tables.markdown(sections[name])}" for name, title in _TITLES.items())
    write_text(folder / "report.md", f"# Calibrated pruning\n\n{text}\n")
    if results == _RESULTS:
        publish.update_pages()
    print(folder)


_TITLES = {
    "summary": "The methods of the figure",
    "largest_cut": "Largest cut within 1 point of accuracy on the selection split",
    "inputs": "Change of accuracy (points) of the zoo's S5 model by calibration inputs",
}


if __name__ == "__main__":
    main(sys.argv[1:])
