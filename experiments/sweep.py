"""The sweep, shared by the pruning jobs: every method at every ratio, and the largest ratio within the tolerance."""

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
from aire.training.evaluate import Evaluation
from aire.utils.errors import UserError
from aire.utils.progress import Progress
from aire.utils.stopping import Stopped
from experiments import settings
from experiments.evaluations import CutEvaluator
from experiments.records import Point

Trial = tuple[str, int]  # a method and a seed, which matters to methods that use random numbers


def prepare(config: ConfigDict, workdir: Path) -> list[str]:
    """Check the settings, load the user's scores, and return the methods to sweep.

    Raises:
        UserError: a setting is wrong, or the work folder cannot be written. It is better to know before the training.
    """
    settings.check_sections(config)
    settings.check_writable(workdir)
    if config.prune.scores_file:
        load_scores(config.prune.scores_file)
    return settings.check_methods(config)


def load_scores(path: str) -> None:
    """Run a user's Python file that registers scores or methods.

    Raises:
        UserError: the file does not exist, fails, or registers nothing.
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
    """Return the config's scope, or the method's own if the config has none."""
    return config.scope or methods.get(method).scope


class Cuts:
    """Find the cuts of one model. Methods with the same seed share their calibration.

    Args:
        model: the uncut model.
        split: training examples; their inputs calibrate, their labels are not read.
        config: a config's `prune`.
    """

    def __init__(self, model: Classifier, split: Split, config: ConfigDict):
        self._model, self._split, self._config = model, split, config
        self._calibrations: dict[int, Calibration] = {}

    def __call__(self, trial: Trial) -> dict[float, Cut]:
        """Return the cuts by ascending ratio."""
        scores = self.scores(trial)
        return {ratio: self._find(trial, scores, ratio) for ratio in sorted(self._config.ratios)}

    def at(self, trial: Trial, ratio: float) -> Cut:
        """Return the cut at one ratio."""
        return self._find(trial, self.scores(trial), ratio)

    def scores(self, trial: Trial) -> dict[str, Array]:
        """Return the normalised scores by layer path."""
        method, seed = trial
        chosen = methods.get(method)
        moments = self._calibration(seed).moments(self._model) if chosen.needs_moments else None
        return aire.score(self._model, chosen, moments=moments, unstable=self._config.unstable, seed=seed)

    def result(self, trial: Trial, ratio: float) -> PruneResult:
        """Return the model cut at one ratio, with its report."""
        scores = self.scores(trial)
        return result_of(self._model, aire.modes(self._model), scores, self._find(trial, scores, ratio))

    def _find(self, trial: Trial, scores: Mapping[str, Array], ratio: float) -> Cut:
        method, seed = trial
        calibration = self._calibration(seed) if methods.get(method).needs_calibration else None
        options = {"ratio": ratio, "scope": scope(method, self._config), "calibration": calibration}
        return find_cut(self._model, scores, method, **options)

    def _calibration(self, seed: int) -> Calibration:
        if seed not in self._calibrations:
            self._calibrations[seed] = Calibration(calibration_batches(self._split, self._config, seed))
        return self._calibrations[seed]


def sweep(evaluate: CutEvaluator, cuts: Cuts, trials: Sequence[Trial], name: str = "sweep") -> list[Point]:
    """Evaluate every trial at every ratio on validation. Equal cuts are evaluated once."""
    found = [(trial, ratio, cut) for trial in trials for ratio, cut in cuts(trial).items()]
    distinct = {evaluate.key(cut, "validation"): cut for *_, cut in found}
    missing = [cut for key, cut in distinct.items() if key not in evaluate.cache]
    cached = len(distinct) - len(missing)
    print(f"{name}: {len(found)} cuts, {len(distinct)} of them distinct, {cached} evaluated before", flush=True)
    with Progress(name, len(distinct), unit="cut", done=cached) as progress:
        for done, cut in enumerate(missing):
            try:
                progress.update(1, accuracy=evaluate(cut, "validation").accuracy)
            except Stopped as stop:
                stop.add_note(f"{cached + done} of {len(distinct)} cuts are evaluated and saved")
                stop.add_note("run the same command again to go on from there")
                raise
    return [Point(*trial, ratio, cut.n_states, evaluate(cut, "validation")) for trial, ratio, cut in found]


def announce_calibration(names: Sequence[str], config: ConfigDict) -> str:
    """Return a line about the methods that see inputs, for an announcement; "" if there are none."""
    calibrated = ", ".join(name for name in names if methods.get(name).needs_calibration)
    examples = config.calibration.examples
    return f"  inputs  {examples} training examples, without labels, for {calibrated}\n" if calibrated else ""


def calibration_batches(split: Split, config: ConfigDict, seed: int) -> list[dict[str, np.ndarray]]:
    """Return inputs and lengths of random examples, `config.calibration.examples` of them, without replacement."""
    chosen = np.random.default_rng(seed).permutation(len(split))[: config.calibration.examples]
    size = config.batch_size
    batches = (split.take(chosen[start : start + size]) for start in range(0, len(chosen), size))
    return [{"x": batch["x"], "lengths": batch["lengths"]} for batch in batches]


def largest_within(points: Sequence[Point], uncut: Evaluation, tolerance: float) -> Point:
    """Return the point with the largest ratio that loses at most `tolerance` points of the uncut model's accuracy."""
    within = [p for p in points if uncut.accuracy - p.validation.accuracy <= tolerance / 100 + 1e-9]
    return max(within, key=lambda p: p.ratio)
