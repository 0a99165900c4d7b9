"""Figures of pruning runs, saved as PNG files."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from aire.utils.files import writing

# The palette of Okabe and Ito, for all colour vision; line styles for greyscale prints.
_STYLES = [
    ("#0072B2", "-", "o"),
    ("#D55E00", "--", "s"),
    ("#009E73", "-.", "^"),
    ("#CC79A7", ":", "v"),
    ("#E69F00", (0, (6, 1, 1, 1)), "D"),
]
_MORE_STYLES = [*_STYLES, ("#56B4E9", "-", "v"), ("#000000", "--", "x"), ("0.5", "-.", "+")]
_DPI = 150


def accuracy_against_ratio(
    ratios: Sequence[float],
    curves: Mapping[str, Sequence[Sequence[float]]],
    lines: Mapping[str, float],
    chosen: Mapping[str, float],
    title: str,
    path: Path,
) -> None:
    """Plot accuracy on the selection split against the ratio of states cut: mean and standard deviation over runs.

    A few methods share one plot. With more methods, each has its own plot with the other curves in grey.

    Args:
        ratios: ascending, (R,).
        curves: accuracies (runs, R) by method.
        lines: accuracies of horizontal lines, such as the tolerance and baselines.
        chosen: mean of the chosen ratio over runs by method, marked by a ring.
        title: title of the figure.
        path: the PNG file to write.
    """
    data = {method: np.asarray(accuracies) for method, accuracies in curves.items()}
    draw = _one_plot if len(data) <= len(_STYLES) else _small_multiples
    _save(draw(ratios, data, lines, chosen, title), path)


Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # sizes and measurements by name


def against_sizes(rows: Mapping[str, Mapping[str, Curves]], title: str, path: Path, *, log: bool) -> None:
    """Plot measurements against sizes: one row of panels per quantity, one panel per kind of size.

    Args:
        rows: the curves of a panel, by the names of its vertical and horizontal axis.
        title: title of the figure.
        path: the PNG file to write.
        log: use logarithmic axes, and show the slope of each curve (least squares) in the legend.
    """
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(max(6.4, 3.6 * columns + 0.4), 3.4 * len(rows) + 0.4), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (quantity, panels) in zip(grid, rows.items(), strict=True):
        for axes, (name, curves) in zip(line, panels.items(), strict=True):
            _panel(axes, curves, log)
            axes.set(xlabel=name, ylabel=quantity)
    if not log:
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _panel(axes, curves: Curves, log: bool) -> None:
    for (label, (sizes, values)), (colour, line, marker) in zip(curves.items(), itertools.cycle(_MORE_STYLES)):
        if log:
            label += f": slope {np.polyfit(np.log(sizes), np.log(values), 1)[0]:.2f}"
        axes.plot(sizes, values, color=colour, linestyle=line, marker=marker, markersize=4, label=label)
    if log:
        axes.set(xscale="log", yscale="log")
        axes.legend(fontsize=7)
    else:
        axes.set_ylim(bottom=0)


def _one_plot(ratios, data: Mapping[str, np.ndarray], lines, chosen, title: str) -> Figure:
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (method, accuracies), style in zip(data.items(), _STYLES, strict=False):
        _curve(axes, ratios, accuracies, chosen[method], *style, label=method)
    _lines(axes, lines, labels=True)
    axes.legend(title="ring: chosen", fontsize=8, title_fontsize=8)
    axes.set(xlabel="states cut (%)", ylabel="accuracy on selection (%)", title=title)
    return figure


def _small_multiples(ratios, data: Mapping[str, np.ndarray], lines, chosen, title: str) -> Figure:
    columns = 5
    rows = -(-len(data) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.1 * rows + 0.8), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    first = next(iter(data))
    for i, (axes, (method, accuracies)) in enumerate(zip(grid.flat, data.items(), strict=False)):
        for other in data.values():
            axes.plot(_percent(ratios), _percent(other.mean(axis=0)), color="0.85", lw=0.7, zorder=0)
        if method != first:
            axes.plot(_percent(ratios), _percent(data[first].mean(axis=0)), color=_STYLES[0][0], lw=1)
        colour = _STYLES[0 if method == first else 1][0]
        _curve(axes, ratios, accuracies, chosen[method], colour, "-", "o")
        _lines(axes, lines, labels=i == 0)
        axes.margins(y=0.1)  # room for the label of the highest line
        axes.set_title(method, fontsize=9)
        axes.tick_params(labelsize=8, labelbottom=i + columns >= len(data))
    for axes in grid.flat[len(data) :]:
        axes.set_axis_off()
    figure.supxlabel("states cut (%)", fontsize=9)
    figure.supylabel("accuracy on selection (%)", fontsize=9)
    figure.suptitle(f"{title}\norange: the method named; blue: {first}; grey: all others; ring: chosen", fontsize=10)
    return figure


def _curve(axes, ratios, accuracies: np.ndarray, chosen: float, colour, style, marker, label: str = "") -> None:
    x, mean = _percent(ratios), _percent(accuracies.mean(axis=0))
    axes.plot(x, mean, color=colour, linestyle=style, marker=marker, ms=3, label=label)
    if len(accuracies) > 1:
        spread = _percent(accuracies.std(axis=0, ddof=1))
        axes.fill_between(x, mean - spread, mean + spread, color=colour, alpha=0.25, lw=0)
    axes.plot(100 * chosen, np.interp(100 * chosen, x, mean), "o", ms=11, mfc="none", mec=colour, mew=1.5)


def _lines(axes, lines: Mapping[str, float], labels: bool) -> None:
    """Draw horizontal lines. Their labels are where few curves are: those of the higher ones below, on the left."""
    for i, (name, accuracy) in enumerate(lines.items()):
        axes.axhline(100 * accuracy, color="0.55", lw=0.8, ls=(0, (1, 1)))
        if labels:
            (x, side), up = ((1, "right"), True) if i == 0 else ((0, "left"), accuracy < 0.5)
            at, units, shift = (x, 100 * accuracy), ("axes fraction", "data"), (3 - 6 * x, 2 if up else -2)
            vertical = "bottom" if up else "top"
            axes.annotate(name, at, shift, units, "offset points", ha=side, va=vertical, fontsize=7)


def states_per_layer(before: Sequence[int], after: Mapping[str, Sequence[int]], title: str, path: Path) -> None:
    """Draw a table of the states kept by method and layer. A bar in each cell shows the share kept."""
    sizes = np.array([before, *after.values()])
    sizes = np.hstack([sizes, sizes.sum(axis=1, keepdims=True)])
    rows, columns = sizes.shape
    left, wide = np.arange(columns) + 0.3 * (np.arange(columns) == columns - 1), 0.9  # the total stands apart
    figure = Figure(figsize=(2.4 + 0.75 * columns, 0.9 + 0.27 * rows), layout="constrained")
    axes = figure.subplots()
    for row, share in enumerate(sizes / np.maximum(sizes[0], 1)):
        axes.barh(row, np.full(columns, wide), 0.72, left, color="0.94")
        axes.barh(row, wide * share, 0.72, left, color="0.8" if row == 0 else "#8fc1e3")
        for column, n in enumerate(sizes[row]):
            axes.text(left[column] + 0.05, row, f"{n:,}", va="center", fontsize=8)
    axes.set(xlim=(-0.1, left[-1] + 1), ylim=(rows - 0.4, -0.6))
    axes.set_yticks(range(rows), ["no cut", *after], fontsize=8)
    names = [*(f"layer {i + 1}" if columns < 9 else str(i + 1) for i in range(columns - 1)), "all"]
    axes.set_xticks(left + wide / 2, names, fontsize=8)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{title}: states kept in each layer", fontsize=9, pad=10)
    _save(figure, path)


def _percent(shares: Sequence[float]) -> np.ndarray:
    return 100 * np.asarray(shares)


def image_sheet(rows: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Draw rows of grey images with a title per row. All images are printed at the same size.

    Args:
        rows: images (side, side) uint8 by title, the same number in each row. Sides may differ between rows.
        path: the PNG file to write.
    """
    columns = max(map(len, rows.values()))
    figure = Figure(figsize=(1.3 * columns, 1.5 * len(rows)), layout="constrained")
    for band, (title, images) in zip(figure.subfigures(len(rows), squeeze=False).flat, rows.items(), strict=True):
        band.suptitle(title, fontsize=9)
        for axes, image in zip(band.subplots(1, columns, squeeze=False).flat, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with writing(path):
        figure.savefig(path, dpi=_DPI)
