"""The output error of every layer at every cut of a sweep, predicted from moments that a method has measured."""

from collections.abc import Sequence

import aire
from aire.models import Classifier
from aire.pruning import methods
from aire.pruning.api import selective_layers
from aire.pruning.refit import refit
from aire.pruning.surgeon import predicted_error
from experiments.prune.prune_results import Choice
from experiments.sweep import Cuts

Errors = dict[str, dict[float, dict[str, float]]]  # by method, ratio and layer path


def predict_errors(choices: Sequence[Choice], cuts: Cuts, model: Classifier, seed: int) -> Errors:
    """Predict for all methods, also those without data, if one of them has measured moments; else for none.

    For none if a layer is selective, because its output is no linear function of its states.

    Methods with another refit than that of the readout are left out, because the moments do not tell what it does.
    """
    if not any(methods.get(c.method).needs_moments for c in choices) or selective_layers(model):
        return {}
    modes, moments = aire.modes(model), cuts.moments(seed)

    def errors(choice: Choice) -> dict[float, dict[str, float]]:
        refitted = methods.get(choice.method).refit is not None
        return {
            ratio: {p: predicted_error(m, moments[p], keep[p], refitted=refitted) for p, m in modes.items()}
            for ratio, keep in choice.masks.items()
        }

    return {c.method: errors(c) for c in choices if methods.get(c.method).refit in (None, refit)}
