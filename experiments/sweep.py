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
from aire.data.pipeline import Split
from aire.models import Classifier
from aire.pruning import Calibration, Cut, PruneResult, find_cut, methods
from aire.pruning.result import result_of
from aire.pruning.selection import check_ratio, check_scope
from aire.ssm import kind_of
from aire.training.evaluate import Evaluation
from aire.utils.errors import UserError
from aire.utils.progress import Progress
from experiments.evaluations import CutEvaluator

Run = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class Point:
    """One cut of a sweep: `ratio` of all states cut by `method`, `states` left, and its validation."""

    method: str
    seed: int
    ratio: float
    states: int
    validation: Evaluation


def prepare(run: ConfigDict) -> list[str]:
    """Load the user's own scores and check a run's `prune`; returns the names of the methods to sweep.

    Raises:
        UserError: mistakes that should not wait until after the training.
    """
    config = run.prune
    if config.scores_file:
        load_scores(config.scores_file)
    names = list(config.methods) or methods.data_free()
    for name in names:
        methods.get(name)
    for ratio in config.ratios:
        check_ratio(ratio)
    if config.scope:
        check_scope(config.scope)
    if config.calibration.examples < 1:
        raise UserError(f"prune.calibration.examples={config.calibration.examples}: expected at least 1")
    if 0.0 not in config.ratios:
        raise UserError("prune.ratios must contain 0.0, the uncut model, so that something is always within tolerance")
    states = kind_of(run.model.ssm).n_states(run.model.states, run.model.d_model)
    for name in names:
        _check_some_are_kept(name, max(config.ratios), scope(name, config), states, run.model.depth)
    return names


def _check_some_are_kept(method: str, ratio: float, scope: str, states: int, depth: int) -> None:
    n = states if scope == "uniform" else states * depth
    if not round((1 - ratio) * n):
        of = f"{n} states of a layer" if scope == "uniform" else f"{n} states"
        raise UserError(f"prune.ratios: {ratio} would keep none of the {of}, with method {method!r}; leave it out")


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


class Cuts:
    """The cuts of one model, by run and ratio. Methods that need calibration share it where they share the seed.

    Args:
        model: the uncut model.
        split: training examples, whose inputs calibrate; labels are not read.
        config: a config's `prune`.
    """

    def __init__(self, model: Classifier, split: Split, config: ConfigDict):
        self._model, self._split, self._config = model, split, config
        self._calibrations: dict[int, Calibration] = {}

    def __call__(self, run: Run) -> dict[float, Cut]:
        """The cuts of one run by ratio, ascending."""
        scores = self.scores(run)
        return {ratio: self._find(run, scores, ratio) for ratio in sorted(self._config.ratios)}

    def scores(self, run: Run) -> dict[str, Array]:
        """The normalised scores of a run's method, per layer path."""
        method, seed = run
        chosen = methods.get(method)
        moments = self._calibration(seed).moments(self._model) if chosen.needs_calibration else None
        return aire.score(self._model, chosen, moments=moments, unstable=self._config.unstable, seed=seed)

    def result(self, run: Run, ratio: float) -> PruneResult:
        """The cut model of a run at one ratio, with its report."""
        scores = self.scores(run)
        return result_of(self._model, aire.modes(self._model), scores, self._find(run, scores, ratio))

    def _find(self, run: Run, scores: Mapping[str, Array], ratio: float) -> Cut:
        method, seed = run
        calibration = self._calibration(seed) if methods.get(method).needs_calibration else None
        options = {"ratio": ratio, "scope": scope(method, self._config), "calibration": calibration}
        return find_cut(self._model, scores, method, **options)

    def _calibration(self, seed: int) -> Calibration:
        if seed not in self._calibrations:
            self._calibrations[seed] = Calibration(calibration_batches(self._split, self._config, seed))
        return self._calibrations[seed]


def sweep(evaluate: CutEvaluator, cuts: Cuts, runs: Sequence[Run], name: str = "sweep") -> list[Point]:
    """Every run at every ratio on validation. A cut that several agree on, or that is known, is not evaluated again."""
    found = [(run, ratio, cut) for run in runs for ratio, cut in cuts(run).items()]
    distinct = {evaluate.key(cut, "validation"): cut for *_, cut in found}
    missing = [cut for key, cut in distinct.items() if key not in evaluate.known]
    known = len(distinct) - len(missing)
    print(f"{name}: {len(found)} cuts, {len(distinct)} of them distinct, {known} known", flush=True)
    with Progress(name, len(distinct), unit="cut", done=known) as progress:
        for cut in missing:
            progress.update(1, accuracy=evaluate(cut, "validation").accuracy)
    return [Point(*run, ratio, cut.n_states, evaluate(cut, "validation")) for run, ratio, cut in found]


def calibration_batches(split: Split, config: ConfigDict, seed: int) -> list[dict[str, np.ndarray]]:
    """Inputs and lengths of `config.calibration.examples` examples, drawn without replacement from the seed."""
    chosen = np.random.default_rng(seed).permutation(len(split))[: config.calibration.examples]
    size = config.batch_size
    batches = (split.take(chosen[start : start + size]) for start in range(0, len(chosen), size))
    return [{"x": batch["x"], "lengths": batch["lengths"]} for batch in batches]


def largest_within(points: Sequence[Point], full: Evaluation, tolerance: float) -> Point:
    """The point with the largest ratio whose accuracy is at most `tolerance` points below the uncut model's."""
    within = [p for p in points if full.accuracy - p.validation.accuracy <= tolerance / 100 + 1e-9]
    return max(within, key=lambda p: p.ratio)
