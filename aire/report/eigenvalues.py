"""The figure of a cut's eigenvalues: the unit disk, and time scale against frequency, one column per layer."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jax import Array
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aire.pruning import scores
from aire.ssm import Modes
from aire.utils.files import writing

_COLOUR = "#0072B2"
MOST = 8  # layers that are drawn
STATES = 500  # that are drawn of a layer
_AREAS = 5, 90  # of the smallest and the largest marker, in points²
_SLOWEST_TURN = 1e-4  # cycles a step; slower states and real ones are drawn here
_SLOWEST = 1e6  # steps; slower states are drawn here, and so are unstable ones


def draw(modes: Mapping[str, Modes], keep: Mapping[str, Array], title: str, path: Path) -> None:
    """Plot the discrete eigenvalues λ̄ of each layer, the first 8 of a deeper model.

    Above in the unit disk. Below the time scale −1/log|λ̄| in steps against the frequency |arg λ̄|/2π in cycles a step,
    both on logarithmic axes, which separate the slow states that the disk shows as a heap near 1. The area of a marker
    grows with the state's share of the layer's AIRE energy. Cut states are hollow. Of a layer with more than 500
    states, a random sample is drawn.

    Args:
        modes: by layer path.
        keep: mask of the kept states by layer path.
        title: title of the figure.
        path: the PNG file to write.
    """
    drawn = list(modes)[:MOST]
    figure = Figure(figsize=(2.5 * len(drawn) + 0.5, 5.2), layout="constrained")
    grid = figure.subplots(2, len(drawn), squeeze=False, height_ratios=(1, 1))
    all_steps = np.concatenate([time_scale(modes[layer]) for layer in drawn])
    steps = all_steps.min(initial=10) / 2, 2 * all_steps.max(initial=100)
    for (disk, plane), layer in zip(grid.T, drawn, strict=True):
        _unit_disk(disk)
        plane.set(xscale="log", yscale="log", xlim=(_SLOWEST_TURN / 1.6, 0.7), ylim=steps)
        plane.set_xlabel("frequency (cycles a step)", fontsize=9)
        _states(disk, plane, modes[layer], np.asarray(keep[layer]))
        disk.set_title(f"{layer}: {int(np.sum(keep[layer])):,} of {len(keep[layer]):,} kept", fontsize=9)
    grid[1, 0].set_ylabel("time scale (steps)", fontsize=9)
    grid[0, 0].set_ylabel("λ̄ in the unit disk", fontsize=9)
    more = f"; the first {MOST} of {len(modes)} layers" if len(modes) > MOST else ""
    more += (
        f"; {STATES} states of a layer, at random" if any(modes[layer].margin.size > STATES for layer in drawn) else ""
    )
    figure.suptitle(title + more, fontsize=10)
    with writing(path):
        figure.savefig(path, dpi=150)


def sample(n: int, most: int = STATES) -> np.ndarray:
    """The indices of the states to draw of n: all, or a random sample of so many, always the same."""
    return np.arange(n) if n <= most else np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def _states(disk: Axes, plane: Axes, modes: Modes, keep: np.ndarray) -> None:
    """Draw the states of a layer in both planes, the kept ones above."""
    drawn = sample(modes.margin.size)
    z, kept = np.asarray(modes.Lambda_bar)[drawn], modes.by_mode(keep)[drawn]
    area = _areas(modes)[drawn] * min(1, 100 / max(1, len(drawn))) ** 0.5
    for axes, (x, y) in ((disk, (z.real, z.imag)), (plane, (frequency(z), time_scale(modes)[drawn]))):
        axes.scatter(x[~kept], y[~kept], s=area[~kept], facecolors="none", edgecolors="0.45", lw=0.6)
        axes.scatter(x[kept], y[kept], s=area[kept], color=_COLOUR, alpha=0.55, lw=0)
        axes.tick_params(labelsize=8)


def relative_energy(modes: Modes) -> np.ndarray:
    """The AIRE energy of each state relative to the largest of the layer; 1 for unstable states, whose is infinite."""
    energies = np.asarray(scores.get("aire")(modes), np.float64)
    finite = np.isfinite(energies)
    largest = energies[finite].max(initial=0) or 1
    return np.clip(np.where(finite, energies / largest, 1), 0, 1)


def _areas(modes: Modes) -> np.ndarray:
    """The marker's area of each state, by the square root of its energy."""
    low, high = _AREAS
    return low + (high - low) * np.sqrt(relative_energy(modes))


def frequency(z: np.ndarray) -> np.ndarray:
    """|arg z|/2π in cycles a step, at least 1e-4, which stands for real eigenvalues on a logarithmic axis."""
    return np.maximum(np.abs(np.angle(z)) / (2 * np.pi), _SLOWEST_TURN)


def time_scale(modes: Modes) -> np.ndarray:
    """−1/log|λ̄| in steps, at most 1e6. The margin 1 − |λ̄|² keeps the digits of slow states."""
    margin = np.asarray(modes.margin, np.float64)
    rate = -0.5 * np.log1p(-np.clip(margin, 1 / _SLOWEST, 1 - 1e-12))
    return np.minimum(1 / rate, _SLOWEST)


def _unit_disk(axes: Axes) -> None:
    angle = np.linspace(0, 2 * np.pi, 256)
    axes.plot(np.cos(angle), np.sin(angle), color="0.6", lw=0.8)
    axes.axhline(0, color="0.9", lw=0.6, zorder=0)
    axes.axvline(0, color="0.9", lw=0.6, zorder=0)
    axes.set(aspect="equal", xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), xticks=(-1, 0, 1), yticks=(-1, 0, 1))
