"""The figures of a pruning run, as PNG files."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jax import Array
from matplotlib.figure import Figure

from aire.files import writing
from aire.ssm import Modes

# Okabe and Ito's colours, told apart with any colour vision; line styles for print in grey.
_STYLES = [("#0072B2", "-", "o"), ("#D55E00", "--", "s"), ("#009E73", "-.", "^"), ("#CC79A7", ":", "v")]
_DPI = 150


def accuracy_against_ratio(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    lines: Mapping[str, float],
    chosen: Mapping[str, float],
    title: str,
    path: Path,
) -> None:
    """Validation accuracy against the share of states cut, one curve per method.

    Args:
        curves: per method, (ratio, accuracy) by ascending ratio.
        lines: accuracies to draw as horizontal lines: the tolerance, baselines.
        chosen: per method, the ratio that was chosen; marked by a ring.
        title: above the figure.
        path: the PNG file to write.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for (method, points), (colour, style, marker) in zip(curves.items(), _cycle(len(curves)), strict=True):
        ratios, accuracies = zip(*points, strict=True)
        axes.plot(_percent(ratios), _percent(accuracies), style, color=colour, marker=marker, ms=4, label=method)
        if method in chosen:
            at = dict(points)[chosen[method]]
            axes.plot(100 * chosen[method], 100 * at, "o", ms=12, mfc="none", mec=colour, mew=1.5)
    for name, accuracy in lines.items():
        axes.axhline(100 * accuracy, color="0.55", lw=0.8, ls=(0, (1, 1)))
        axes.annotate(
            name, (1, 100 * accuracy), (-3, 2), ("axes fraction", "data"), "offset points", ha="right", fontsize=8
        )
    axes.set(xlabel="states cut (%)", ylabel="validation accuracy (%)", title=title)
    axes.legend(title="score (ring: chosen)", fontsize=8, title_fontsize=8)
    _save(figure, path)


def states_per_layer(before: Sequence[int], after: Mapping[str, Sequence[int]], title: str, path: Path) -> None:
    """States kept in each layer, one group of bars per layer and one bar per method, in front of the full size."""
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    layers = np.arange(len(before))
    width = 0.8 / len(after)
    axes.bar(layers, before, 0.9, color="0.9", label="before")
    for k, ((method, sizes), (colour, *_)) in enumerate(zip(after.items(), _cycle(len(after)), strict=True)):
        axes.bar(layers + (k - (len(after) - 1) / 2) * width, sizes, 0.9 * width, color=colour, label=method)
    axes.set(xlabel="layer", ylabel="states", title=title, xticks=layers, xticklabels=layers + 1)
    figure.legend(fontsize=8, ncols=3, loc="outside lower center")
    _save(figure, path)


def eigenvalues(
    modes: Mapping[str, Modes], scores: Mapping[str, Array], keep: Mapping[str, Array], title: str, path: Path
) -> None:
    """Discrete eigenvalues of every layer in the unit disk, coloured by score; the cut ones are hollow."""
    columns = min(4, len(modes))
    rows = -(-len(modes) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.9, 3.1 * rows + 0.4), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    norm = matplotlib.colors.LogNorm(vmin=max(1e-4, min(_lowest(s) for s in scores.values())), vmax=1, clip=True)
    colours = matplotlib.cm.ScalarMappable(norm, "viridis")
    for axes, (layer, m) in zip(grid.flat, modes.items(), strict=False):
        _unit_disk(axes)
        z, kept = np.asarray(m.Lambda_bar), np.asarray(keep[layer])
        rgba = colours.to_rgba(np.asarray(scores[layer]))
        axes.scatter(z.real[kept], z.imag[kept], s=20, c=rgba[kept])
        axes.scatter(z.real[~kept], z.imag[~kept], s=24, facecolors="none", edgecolors=rgba[~kept], linewidths=1.1)
        axes.set_title(f"{layer}: {int(np.sum(keep[layer]))} of {len(z)} kept", fontsize=8)
    for axes in grid.flat[len(modes) :]:
        axes.set_axis_off()
    figure.colorbar(colours, ax=grid, label="score", shrink=0.8)
    figure.suptitle(title, fontsize=10)
    _save(figure, path)


def _unit_disk(axes) -> None:
    angle = np.linspace(0, 2 * np.pi, 256)
    axes.plot(np.cos(angle), np.sin(angle), color="0.6", lw=0.8)
    axes.axhline(0, color="0.9", lw=0.6, zorder=0)
    axes.axvline(0, color="0.9", lw=0.6, zorder=0)
    axes.set(aspect="equal", xlim=(-1.08, 1.08), ylim=(-1.08, 1.08), xticks=(-1, 0, 1), yticks=(-1, 0, 1))


def _lowest(scores: Array) -> float:
    return float(np.min(scores, initial=1))


def _cycle(n: int) -> list[tuple[str, str, str]]:
    return [_STYLES[i % len(_STYLES)] for i in range(n)]


def _percent(shares: Sequence[float]) -> np.ndarray:
    return 100 * np.asarray(shares)


def _save(figure: Figure, path: Path) -> None:
    with writing(path):
        figure.savefig(path, dpi=_DPI)
