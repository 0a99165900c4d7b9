"""Recalibration: choose the states of each layer again, by moments of the model whose earlier layers are cut."""

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aire.pruning import scores
from aire.pruning.calibration import Calibration, calibrate
from aire.pruning.moments import AnyMoments
from aire.pruning.refit import order_of_calls, split_batches
from aire.pruning.surgery import Cut, apply_masked, modes


def recalibrated(score: str) -> Callable[[nnx.Module, Cut, Calibration], Cut]:
    """Return a `Refit` for `Method` that visits the layers in the order of the data, and chooses their states again.

    Each layer keeps as many states as in the given cut: those of the highest score. Only the order within a layer
    counts, so no normalisation matters.

    Args:
        score: a score that needs moments.
    """
    return functools.partial(_choose_again, score)


def _choose_again(score: str, model: nnx.Module, cut: Cut, calibration: Calibration) -> Cut:
    if cut.is_whole:
        return cut
    uncut = nnx.clone(model)
    uncut.eval()
    keep = {path: np.ones(np.shape(mask), bool) for path, mask in cut.keep.items()}
    for path in order_of_calls(uncut, split_batches(calibration.batches, least=1)[0]):
        kept = int(np.sum(cut.keep[path]))
        if kept < keep[path].size:
            so_far = Cut(keep)
            measured = calibration.moments(model) if so_far.is_whole else _moments(uncut, so_far, calibration)
            order = np.argsort(-_energies(score, uncut, path, measured[path]), kind="stable")
            keep[path][order[kept:]] = False
    return Cut(keep)


def _moments(uncut: nnx.Module, cut: Cut, calibration: Calibration) -> dict[str, AnyMoments]:
    """The masked models have one size, so that their calibrations share a compilation."""
    return calibrate(apply_masked(uncut, cut), calibration.batches)


def _energies(score: str, model: nnx.Module, path: str, moments: AnyMoments) -> np.ndarray:
    fn, m = scores.get(score), modes(model)[path]
    m = moments.modes(m) if fn.stable else m
    return np.asarray(m.by_state(jnp.asarray(scores.evaluate(fn, m, path, moments=moments))))
