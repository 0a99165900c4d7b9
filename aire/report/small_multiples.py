"""One figure of many sweeps: a panel per task and layer kind, with a few labelled lines, on light or dark ground."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.patheffects
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aire.utils.files import writing

LOWEST, HIGHEST = -10.0, 1.5  # points of accuracy that a panel shows
_LABELLED_AT = (-2.0, -9.5)  # the labels of the curves are between these heights

# Ground, text, and rules; then the curves, of Okabe and Ito's palette, lighter on dark ground.
THEMES = {
    "light": ("#ffffff", "#1f2328", "#d0d7de", ("#0072B2", "#D55E00", "#009E73", "#9a6fb0", "#7a7a7a", "#B58900")),
    "dark": ("#0d1117", "#e6edf3", "#30363d", ("#56B4E9", "#FF8A4C", "#2BC79A", "#C9A0DC", "#a0a0a0", "#E6C34A")),
}
MOST = 6  # curves in a panel: the number of colours
# The place in the palette of the methods that several figures show.
_OWN = {"aire": 0, "measured": 1, "surgeon": 2, "reconstruct": 3, "last": 3, "random": 4, "magnitude_global": 5}

Curves = Mapping[str, np.ndarray]  # changes of accuracy in points, (runs, ratios), by label; NaN where missing


def draw(
    panels: Sequence[Sequence[tuple[str, Curves]]], ratios: Sequence[float], tolerance: float, path: Path, theme: str
) -> None:
    """Plot the change of accuracy against the share of states cut: mean and standard deviation over runs.

    Args:
        panels: rows of panels, each a title and its curves.
        ratios: ascending, of all curves.
        tolerance: points that a cut may cost. A ring marks the largest cut whose mean is within it.
        path: the PNG file to write.
        theme: a key of `THEMES`.
    """
    ground, text, rule, _ = THEMES[theme]
    columns = max(map(len, panels))
    width, height = (3.3, 2.5) if columns > 1 else (6.6, 3.6)
    size = width * columns + 0.3, height * len(panels) + 0.5
    figure = Figure(figsize=size, layout="constrained", facecolor=ground)
    grid = figure.subplots(len(panels), columns, sharex=True, sharey=True, squeeze=False)
    single = len(panels) == columns == 1
    for line, row in zip(grid, panels, strict=True):
        for axes, (title, curves) in zip(line, row, strict=False):
            _panel(axes, 100 * np.asarray(ratios), curves, tolerance, theme, width - 0.5 if single else None)
            axes.set_title(title, fontsize=10, color=text)
        for axes in line[len(row) :]:
            axes.remove()
    if not single:  # in small panels, labels would cover curves
        figure.legend(
            *grid[0, 0].get_legend_handles_labels(),
            loc="outside upper center",
            ncols=MOST,
            frameon=False,
            labelcolor="linecolor",
        )
    for axes in figure.axes:
        axes.set(facecolor=ground, xlim=(0, 100), ylim=(LOWEST, HIGHEST), yticks=(-10, -5, 0), xticks=range(0, 101, 20))
        axes.tick_params(labelsize=8, colors=text, length=0)
        axes.spines[:].set_visible(False)
        axes.axhline(0, color=rule, lw=1, zorder=0)
        axes.axhline(-tolerance, color=text, lw=0.8, ls=(0, (1, 2)), zorder=0)
    figure.supxlabel("states cut (%)", fontsize=9, color=text)
    figure.supylabel("change of accuracy (points)", fontsize=9, color=text)
    with writing(path):
        figure.savefig(path, dpi=150, facecolor=ground)


def colours(labels: Sequence[str], theme: str) -> list[str]:
    """A colour for each curve. A method has the same in every figure, as long as no other curve has it already."""
    free, found = list(THEMES[theme][3]), {}
    for label in sorted(labels, key=lambda label: label.lower() not in _OWN):  # stable
        own = THEMES[theme][3][_OWN.get(label.lower(), 0)]
        found[label] = free.pop(free.index(own) if own in free and label.lower() in _OWN else 0)
    return [found[label] for label in labels]


def _panel(axes: Axes, x: np.ndarray, curves: Curves, tolerance: float, theme: str, width: float | None) -> None:
    """Draw the curves, and their labels if the width of the axes in inches is given."""
    ground, lines = THEMES[theme][0], {}
    for (label, changes), colour in zip(curves.items(), colours(list(curves), theme), strict=True):
        found = ~np.isnan(changes).all(axis=0)
        at, mean = x[found], np.nanmean(changes[:, found], axis=0)
        lines[label] = at, mean
        axes.plot(at, mean, color=colour, lw=1.8, label=label)
        if len(changes) > 1:
            spread = np.nanstd(changes[:, found], axis=0, ddof=1)
            axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
        within = np.flatnonzero(mean >= -tolerance - 1e-9)[-1]
        axes.plot(at[within], mean[within], "o", ms=5, color=colour, mec=ground, mew=1)
    if width is None:
        return
    outline = [matplotlib.patheffects.withStroke(linewidth=3, foreground=ground)]
    style: dict[str, Any] = {"fontsize": 8, "fontweight": "bold", "path_effects": outline, "va": "center"}
    for label, colour, (left, height) in zip(
        curves, colours(list(curves), theme), _label_places(lines, 100 / width), strict=True
    ):
        axes.text(left, height, label, color=colour, **style)


def _label_places(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], inch: float) -> list[tuple[float, float]]:
    """The left end and the height of each curve's label: beside the curve, on as little else as possible.

    Args:
        lines: x and y of each curve by label.
        inch: what an inch is on the horizontal axis.
    """
    fine = np.linspace(0, 100, 1001)
    drawn = {label: np.interp(fine, x, y, left=np.nan, right=np.nan) for label, (x, y) in lines.items()}
    boxes: list[tuple[float, float, float]] = []  # left end, right end and height of the labels so far
    for label, (x, y) in lines.items():
        length = 0.07 * len(label) * inch
        places: list[tuple[float, int, float, float]] = []
        for height in np.arange(_LABELLED_AT[0], _LABELLED_AT[1], -0.3):
            end = _crossing(x, y, height)
            for left in (end + 0.08 * inch, end - 0.08 * inch - length):
                inside = (fine >= left) & (fine <= left + length)
                hidden = sum(int(np.sum(np.abs(line[inside] - height) < 0.45)) for line in drawn.values())
                near = [max(0, min(left + length, b) - max(left, a)) for a, b, h in boxes if abs(h - height) < 0.9]
                outside = max(0, -left) + max(0, left + length - 100)
                places.append((hidden + 100 * sum(near) + 100 * outside, len(places), left, height))
        _, _, left, height = min(places)
        boxes.append((left, left + length, height))
    return [(left, height) for left, _, height in boxes]


def _crossing(x: np.ndarray, y: np.ndarray, height: float) -> float:
    """Return where a curve last falls below a height, or its end."""
    above = np.flatnonzero(y >= height)
    last = above[-1] if len(above) else 0
    if last + 1 >= len(x):
        return float(x[-1])
    share = (y[last] - height) / (y[last] - y[last + 1])
    return float(x[last] + share * (x[last + 1] - x[last]))
