"""The report of the language-model job: perplexity by method and share of columns cut."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from aire.report import tables
from aire.utils.files import write_text, writing
from experiments.records import write_results


class Point(NamedTuple):
    """A cut, evaluated. The uncut model is the cut of nothing by "uncut"."""

    method: str
    seed: int
    ratio: float
    loss: float  # nats a byte

    @property
    def perplexity(self) -> float:
        return float(np.exp(self.loss))


def table(points: Sequence[Point]) -> list[list[str]]:
    """Perplexity a byte by method and ratio: of several seeds, the mean and the standard deviation."""
    found: dict[tuple[str, float], list[float]] = defaultdict(list)
    for point in points:
        found[point.method, point.ratio].append(point.perplexity)
    names = list(dict.fromkeys(p.method for p in points if p.method != "uncut"))
    ratios = sorted({p.ratio for p in points} - {0.0})
    uncut = found["uncut", 0.0][0]
    rows = [["columns cut", "0 %", *(f"{100 * ratio:g} %" for ratio in ratios)]]
    return rows + [[name, f"{uncut:.3f}", *(_mean(found[name, ratio]) for ratio in ratios)] for name in names]


def _mean(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def write_report(points: Sequence[Point], record: Mapping[str, Any], summary: str, folder: Path) -> None:
    """Write report.md, results.json, results.csv and perplexity.png."""
    rows = table(points)
    text = f"# {record['config']['name']}\n\nPerplexity a byte on modules that the model has not seen, "
    test = record["data"]["test"]
    text += f"{test['windows']:,} windows of {record['config']['data']['length']} bytes, the same for all.\n"
    text += f"Sources of Python {record['python']}, {record['machine']}.\n\n"
    text += f"{tables.markdown(rows)}\n\n```\n{summary}\n```\n"
    write_text(folder / "report.md", text)
    header = ("method", "seed", "ratio", "loss", "perplexity")
    write_results(folder, record, [header, *((*p, p.perplexity) for p in points)])
    _figure(points, record["config"]["name"], folder / "perplexity.png")
    print(f"\n{tables.text(rows)}\n\nreport, figure and models: {folder}")


def _figure(points: Sequence[Point], title: str, path: Path) -> None:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    uncut = points[0].perplexity
    for name in dict.fromkeys(p.method for p in points[1:]):
        own = [p for p in points if p.method == name]
        ratios = sorted({p.ratio for p in own})
        means = [np.mean([p.perplexity for p in own if p.ratio == ratio]) for ratio in ratios]
        axes.plot([0, *(100 * r for r in ratios)], [uncut, *means], marker="o", markersize=4, label=name)
    axes.set(xlabel="columns cut (%)", ylabel="perplexity a byte", title=title)
    axes.legend(fontsize=8)
    with writing(path):
        figure.savefig(path, dpi=150)
