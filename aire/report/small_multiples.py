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
_LABELLED_AT = (-3.5, -9.2)  # the labels of the curves are between these heights

# Ground, text, and rules; then the curves, of Okabe and Ito's palette, lighter on dark ground.
THEMES = {
    "light": ("#ffffff", "#1f2328", "#d0d7de", ("#0072B2", "#D55E00", "#009E73", "#9a6fb0", "#7a7a7a", "#B58900")),
    "dark": ("#0d1117", "#e6edf3", "#30363d", ("#56B4E9", "#FF8A4C", "#2BC79A", "#C9A0DC", "#a0a0a0", "#E6C34A")),
}
MOST = 6  # curves in a panel: the number of colours

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
    ground, text, rule, colours = THEMES[theme]
    columns = max(map(len, panels))
    width, height = (3.3, 2.5) if columns > 1 else (6.6, 3.6)
    size = width * columns + 0.3, height * len(panels) + 0.5
    figure = Figure(figsize=size, layout="constrained", facecolor=ground)
    grid = figure.subplots(len(panels), columns, sharex=True, sharey=True, squeeze=False)
    for line, row in zip(grid, panels, strict=True):
        for axes, (title, curves) in zip(line, row, strict=False):
            _panel(axes, 100 * np.asarray(ratios), curves, tolerance, colours, ground)
            axes.set_title(title, fontsize=10, color=text)
        for axes in line[len(row) :]:
            axes.set_axis_off()
    for axes in grid.flat:
        axes.set(facecolor=ground, xlim=(0, 100), ylim=(LOWEST, HIGHEST), yticks=(-10, -5, 0), xticks=range(0, 101, 20))
        axes.tick_params(labelsize=8, colors=text, length=0)
        axes.spines[:].set_visible(False)
        axes.axhline(0, color=rule, lw=1, zorder=0)
        axes.axhline(-tolerance, color=text, lw=0.8, ls=(0, (1, 2)), zorder=0)
    figure.supxlabel("states cut (%)", fontsize=9, color=text)
    figure.supylabel("change of accuracy (points)", fontsize=9, color=text)
    with writing(path):
        figure.savefig(path, dpi=150, facecolor=ground)


def _panel(axes: Axes, x: np.ndarray, curves: Curves, tolerance: float, colours: Sequence[str], ground: str) -> None:
    heights = np.linspace(*_LABELLED_AT, max(2, len(curves)))
    outline = [matplotlib.patheffects.withStroke(linewidth=3, foreground=ground)]
    for (label, changes), colour, height in zip(curves.items(), colours, heights, strict=False):
        found = ~np.isnan(changes).all(axis=0)
        at, mean = x[found], np.nanmean(changes[:, found], axis=0)
        axes.plot(at, mean, color=colour, lw=1.8)
        if len(changes) > 1:
            spread = np.nanstd(changes[:, found], axis=0, ddof=1)
            axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.2, lw=0)
        within = np.flatnonzero(mean >= -tolerance - 1e-9)[-1]
        axes.plot(at[within], mean[within], "o", ms=5, color=colour, mec=ground, mew=1)
        place = _crossing(at, mean, height)
        style: dict[str, Any] = {
            "color": colour,
            "fontsize": 8,
            "fontweight": "bold",
            "path_effects": outline,
            "va": "center",
        }
        if place > 78:
            axes.text(place - 1.5, height, label, ha="right", **style)
        else:
            axes.text(place + 1.5, height, label, ha="left", **style)


def _crossing(x: np.ndarray, y: np.ndarray, height: float) -> float:
    """Return where a curve last falls below a height, or its end."""
    above = np.flatnonzero(y >= height)
    last = above[-1] if len(above) else 0
    if last + 1 >= len(x):
        return float(x[-1])
    share = (y[last] - height) / (y[last] - y[last + 1])
    return float(x[last] + share * (x[last + 1] - x[last]))
