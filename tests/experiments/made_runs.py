"""Synthetic finished runs, written by the experiments' own functions."""

from types import SimpleNamespace

import jax.numpy as jnp
from flax import nnx

from configs import compare_methods
from experiments.compare import compare_report
from experiments.compare.compare_results import Comparison, Result
from experiments.prune import prune_report
from experiments.prune.prune_results import Choice, Outcome
from experiments.records import Chosen, Measurement, Point, Uncut, write_results

SOURCE = {"commit": "abc", "versions": {}, "machine": "1 × cpu"}
SELECTION = (0.9, 0.88, 0.5)  # accuracies at ratios 0, 0.2 and 0.4


def evaluation(accuracy):
    return Measurement(0.5, accuracy, examples=100, lost=0, gained=0)


class Model(nnx.Module):
    """A stand-in for a classifier with a given number of parameters."""

    config = SimpleNamespace(state_sizes=(10,))

    def __init__(self, parameters):
        self.weights = nnx.Param(jnp.zeros(parameters))


def points(method, accuracies=SELECTION, draw=0):
    return [Point(method, draw, r, 10, evaluation(a)) for r, a in zip((0.0, 0.2, 0.4), accuracies, strict=True)]


def write(folder, results, rows):
    folder.mkdir(parents=True, exist_ok=True)
    write_results(folder, results, rows)


def write_prune(folder, config, test=0.8, cuts=None):
    """A finished run of the pruning job; `cuts` gives ratio and test accuracy by method."""
    cuts = cuts or {"aire": (0.4, 0.79), "last": (0.2, 0.78)}
    choices = [
        Choice(method, chosen(ratio, 0.5, t), SimpleNamespace(model=Model(0), parameters=(100, 60)), {}, (0.03, 0.02))
        for method, (ratio, t) in cuts.items()
    ]
    outcome = Outcome(
        config=config,
        model=Model(100),
        uncut=Uncut(f"trained here with seed {config.seed}", evaluation(0.9), evaluation(test)),
        baselines={},
        points=[p for method in cuts for p in points(method)],
        choices=choices,
        predicted={},
        seconds={},
        provenance=SOURCE,
    )
    write(folder, outcome.to_json(), prune_report.point_rows(outcome.points))


def chosen(ratio, selection, test):
    return Chosen(ratio, evaluation(selection), evaluation(test))


def write_compare(folder, task, models, tests=(0.8, 0.82), first="aire"):
    """A finished comparison of a method with two seeds of `random`. The first cuts 40 %, losing 1 point on test."""
    config = compare_methods.get_config(task)
    config.models = models
    names = [f"seed_{m}" if isinstance(m, int) else m for m in models]
    uncut = {n: Uncut(f"model {n}", evaluation(0.9), evaluation(t)) for n, t in zip(names, tests, strict=False)}
    results = [
        Result(
            *(name, method, seed, points(method, (0.9, 0.88, at), seed)),
            {1.0: chosen(0.4, at, model.test.accuracy - 0.01), 0.3: chosen(0.0, 0.9, model.test.accuracy)},
        )
        for name, model in uncut.items()
        for method, seed, at in ((first, 0, 0.895), ("random", 0, 0.5), ("random", 1, 0.7))
    ]
    seconds = {name: {first: 1.0, "random": 3.0} for name in uncut}
    comparison = Comparison(config, uncut, results, seconds, failures={}, provenance=SOURCE)
    write(folder, comparison.to_json(), compare_report.point_rows(comparison))
