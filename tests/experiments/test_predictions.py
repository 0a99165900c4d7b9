"""The predicted errors of a report against `surgeon.predicted_error`, which computes each from the full equations."""

import jax
import numpy as np
import pytest

import aire
from aire.pruning import surgeon
from experiments.prune import predictions

RATIOS = (0, 0.3, 0.6, 0.9)


@pytest.mark.parametrize("ssm", ({}, {"kind": "s4d"}))
def test_cheap_predictions_are_those_of_the_full_equations(ssm, make_model):
    model = make_model((8, 8) if not ssm else (32, 32), ssm=ssm)
    moments = aire.calibrate(model, [jax.random.normal(jax.random.key(0), (4, 30, 20))])
    scores = aire.score(model, "surgeon", moments=moments)
    cuts = [aire.select(scores, ratio=ratio) for ratio in RATIOS]
    for path, modes in aire.modes(model).items():
        keeps = [cut[path] for cut in cuts]
        for refitted, found in (
            (False, predictions.without_refit(modes, moments[path], keeps)),
            (True, predictions.of_surgeon(scores[path], keeps)),
        ):
            full = [surgeon.predicted_error(modes, moments[path], keep, refitted=refitted) for keep in keeps]
            assert found[0] == 0 and full[-1] > 1e-3
            np.testing.assert_allclose(found, full, rtol=2e-3, atol=1e-5)
