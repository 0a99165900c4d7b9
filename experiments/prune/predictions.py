"""The output error of every layer at every cut of a sweep, predicted from moments that a method has measured."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

import aire
from aire.models import Classifier
from aire.pruning import methods, surgeon
from aire.pruning.api import selective_layers
from aire.pruning.moments import AnyMoments
from aire.pruning.refit import refit
from aire.ssm import Modes
from experiments.prune.prune_results import Choice
from experiments.sweep import Cuts

Errors = dict[str, dict[float, dict[str, float]]]  # by method, ratio and layer path


def predict_errors(choices: Sequence[Choice], cuts: Cuts, model: Classifier, seed: int) -> Errors:
    """Predict where that costs little: for methods without a refit, and for `surgeon`, whose scores are errors.

    Nothing is predicted if no method of the sweep has measured moments, of selective layers with their covariance.
    """
    used = [methods.get(choice.method) for choice in choices]
    covariance = any(method.needs_covariance for method in used)
    if not (covariance if selective_layers(model) else any(method.needs_moments for method in used)):
        return {}
    modes, moments = aire.modes(model), cuts.moments(seed, covariance=covariance)
    found: Errors = {}
    for choice in choices:
        method, keeps = methods.get(choice.method), list(choice.masks.values())
        if method.refit is None:
            layers = {p: without_refit(m, moments[p], [keep[p] for keep in keeps]) for p, m in modes.items()}
        elif method.refit is refit and (method.score, method.normalize) == (surgeon.SCORE, "none"):
            layers = {p: of_surgeon(choice.result.scores[p], [keep[p] for keep in keeps]) for p in modes}
        else:
            continue
        by_ratio = zip(choice.masks, zip(*layers.values(), strict=True), strict=True)
        found[choice.method] = {ratio: dict(zip(layers, errors, strict=True)) for ratio, errors in by_ratio}
    return found


def without_refit(modes: Modes, moments: AnyMoments, keeps: Sequence[ArrayLike]) -> list[float]:
    """`surgeon.predicted_error` of several cuts of a layer, without refit. All of them share one quadratic form."""
    G = moments.readout(modes)
    form = (G.swapaxes(1, 2) @ G) * moments.covariance()
    lost = np.stack([~moments.kept(keep) for keep in keeps], axis=1).astype(float)
    squares = np.sum((lost @ form) * lost, axis=(0, 2))
    return list(map(float, np.maximum(squares, 0) / max(moments.output_energy(), np.finfo(float).tiny)))


def of_surgeon(scores: ArrayLike, keeps: Sequence[ArrayLike]) -> list[float]:
    """`surgeon.predicted_error` of several cuts of a layer, with refit: a state's score is the error when it goes."""
    return [float(np.max(np.asarray(scores)[~np.asarray(keep)], initial=0)) for keep in keeps]
