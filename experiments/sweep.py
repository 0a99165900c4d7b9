"""What the pruning jobs share: every method at every ratio on validation, and the largest ratio within the tolerance.

Runs are the pairs (method, seed) to sweep; the seed matters to methods that draw.
"""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jax import Array
from ml_collections import ConfigDict

import aire
from aire.errors import UserError
from aire.progress import Progress
from aire.pruning import methods
from aire.pruning.selection import check_ratio, check_scope
from aire.training.evaluate import Evaluation
from experiments.evaluations import MaskedEvaluator

Run = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Point:
    """One cut of a sweep: `ratio` of all states cut by `method`, `states` left, and its validation."""

    method: str
    seed: int
    ratio: float
    states: int
    validation: Evaluation


def prepare(config: ConfigDict) -> list[str]:
    """Load the user's own scores and check a config's `prune`; returns the names of the methods to sweep.

    Raises:
        UserError: mistakes that should not wait until after the training.
    """
    if config.scores_file:
        load_scores(config.scores_file)
    names = list(config.methods) or methods.names()
    for name in names:
        methods.get(name)
    for ratio in config.ratios:
        check_ratio(ratio)
    if config.scope:
        check_scope(config.scope)
    if 0.0 not in config.ratios:
        raise UserError("prune.ratios must contain 0.0, the uncut model, so that something is always within tolerance")
    return names


def load_scores(path: str) -> None:
    """Run a Python file of the user's own, which registers scores or methods.

    Raises:
        UserError: no such file, an error in it, or nothing registered.
    """
    if not Path(path).is_file() or Path(path).suffix != ".py":
        raise UserError(f"prune.scores_file={path!r}: expected a Python file (.py) that registers scores")
    before = set(methods.names())
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"prune.scores_file={path!r} fails with {type(error).__name__}: {error}") from error
    if before == set(methods.names()):
        raise UserError(f"prune.scores_file={path!r} adds no score: decorate one with @aire.pruning.scores.register")


def scope(method: str, config: ConfigDict) -> str:
    """The config's scope where it has one, else the method's own."""
    return config.scope or methods.get(method).scope


def sweep(evaluate: MaskedEvaluator, runs: Sequence[Run], config: ConfigDict, name: str = "sweep") -> list[Point]:
    """Every run at every ratio on validation. A mask that several agree on, or that is known, is evaluated no more."""
    cuts = [(run, ratio, keep) for run in runs for ratio, keep in masks(evaluate, run, config).items()]
    distinct = {evaluate.key(keep, "validation"): keep for *_, keep in cuts}
    missing = [keep for key, keep in distinct.items() if key not in evaluate.known]
    known = len(distinct) - len(missing)
    print(f"{name}: {len(cuts)} cuts, {len(distinct)} distinct masks, {known} of them known", flush=True)
    with Progress(name, len(distinct), unit="mask", done=known) as progress:
        for keep in missing:
            progress.update(1, accuracy=evaluate(keep, "validation").accuracy)
    return [Point(*run, ratio, _size(keep), evaluate(keep, "validation")) for run, ratio, keep in cuts]


def masks(evaluate: MaskedEvaluator, run: Run, config: ConfigDict) -> dict[float, dict[str, Array]]:
    """The masks of one run by ratio, ascending."""
    method, seed = run
    scores = aire.score(evaluate.model, method, unstable=config.unstable, seed=seed)
    ratios = sorted(config.ratios)
    return {ratio: aire.select(scores, ratio=ratio, scope=scope(method, config)) for ratio in ratios}


def _size(keep: Mapping[str, Array]) -> int:
    return sum(int(np.sum(mask)) for mask in keep.values())


def largest_within(points: Sequence[Point], full: Evaluation, tolerance: float) -> Point:
    """The point with the largest ratio whose accuracy is at most `tolerance` points below the uncut model's."""
    within = [p for p in points if full.accuracy - p.validation.accuracy <= tolerance / 100 + 1e-9]
    return max(within, key=lambda p: p.ratio)
