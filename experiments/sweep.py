"""The sweep, shared by the pruning jobs: every method at every ratio, and the largest ratio within the tolerance."""

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from jax import Array
from ml_collections import ConfigDict

import aire
from aire.data.pipeline import Split
from aire.models import Classifier
from aire.pruning import Calibration, Cut, PruneResult, find_cut, methods
from aire.pruning.api import selective_layers
from aire.pruning.moments import AnyMoments
from aire.pruning.output_error import output_errors
from aire.pruning.result import result_of
from aire.training.evaluate import Evaluation
from aire.utils import processes
from aire.utils.checks import Mistakes, text
from aire.utils.errors import UserError, in_one_line
from aire.utils.progress import Progress
from aire.utils.stopping import Stopped
from experiments import settings
from experiments.calibration_inputs import calibration_batches
from experiments.evaluations import CutEvaluator, whole
from experiments.records import Point
from experiments.saved_cuts import SavedCuts, from_arrays

Trial = tuple[str, int]  # a method and a seed, which matters to methods that use random numbers


def prepare(config: ConfigDict, workdir: Path, *more: Callable[[], object]) -> list[str]:
    """Check the settings, load the user's scores, and return the methods to sweep.

    Args:
        config: of the job.
        workdir: folder of the run.
        more: further checks, such as of what only one job has. They raise UserError.
    Raises:
        UserError: one line for each mistake in the settings; or the methods fail or keep nothing; or the work folder
            cannot be written. It is better to know before the training.
    """
    checks = [*more, partial(settings.check_sections, config)]
    if config.prune.scores_file and text().holds(config.prune.scores_file):
        checks.append(partial(load_scores, config.prune.scores_file))
    with Mistakes() as mistakes:
        for one in [*checks, partial(settings.check_names, config)]:
            with mistakes.within(""):
                one()
    settings.check_writable(workdir)
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
    except (Exception, SystemExit) as error:
        raise UserError(f"prune.scores_file={path!r} fails with {in_one_line(error)}") from error
    if before == set(methods.names()):
        raise UserError(f"prune.scores_file={path!r} adds no score: decorate one with @aire.pruning.scores.register")


def scope(method: str, config: ConfigDict) -> str:
    """Return the config's scope, or the method's own if the config has none."""
    return config.scope or methods.get(method).scope


class Cuts:
    """Find the cuts of one model. Methods with the same seed share their calibration.

    Args:
        model: the uncut model.
        split: examples whose inputs calibrate; their labels are not read.
        config: a config's `prune`.
        folder: keeps the cuts of methods with a refit for the next start; None to keep none.
    Attributes:
        failures: messages by method, seed and ratio.
    """

    def __init__(self, model: Classifier, split: Split, config: ConfigDict, folder: Path | None = None):
        self._model, self._split, self._config, self._folder = model, split, config, folder
        self._saved = SavedCuts(folder, model, config)
        self._calibrations: dict[int, Calibration] = {}
        self._scores: tuple[Trial, dict[str, Array]] | None = None
        self.failures: dict[tuple[str, int, float], str] = {}

    @property
    def ratios(self) -> list[float]:
        """The ratios of the sweep, ascending."""
        return sorted(self._config.ratios)

    def __call__(self, trial: Trial) -> Iterator[tuple[float, Cut]]:
        """Yield ratios and cuts by ascending ratio, without those that fail.

        A refit can fail where few states are left. This must not end a run of hours.
        """
        for ratio in self.ratios:
            try:
                cut = self.at(trial, ratio)
            except Exception as error:  # of any method, also a user's own
                self.failures[*trial, ratio] = f"{type(error).__name__}: {error}"
                print(f"{trial[0]} fails at ratio {ratio:g}: {self.failures[*trial, ratio]}", flush=True)
            else:
                yield ratio, cut

    def at(self, trial: Trial, ratio: float) -> Cut:
        """Return the cut at one ratio. At 0 nothing is cut or fitted."""
        if ratio == 0:
            self.scores(trial)  # a score that fails should do so here, too
            return whole(self._model)
        if methods.get(trial[0]).refit is None:
            return self._find(trial, ratio)
        if (cut := self._saved.get(trial, ratio)) is None:
            cut = self._find(trial, ratio)
            self._saved.put(trial, ratio, cut)
        return cut

    def seconds(self, trial: Trial, ratio: float) -> float:
        """Return how long one cut takes from nothing: moments, scores and refit."""
        fresh = Cuts(self._model, self._split, self._config)
        fresh._calibration(trial[1])  # reading the inputs does not count
        start = time.perf_counter()
        fresh._find(trial, ratio)
        return time.perf_counter() - start

    def scores(self, trial: Trial) -> dict[str, Array]:
        """Return the normalised scores by layer path, kept for the last trial."""
        if self._scores is None or self._scores[0] != trial:
            self._scores = trial, self._score(trial)
        return self._scores[1]

    def _score(self, trial: Trial) -> dict[str, Array]:
        options = {"moments": self._moments(trial), "unstable": self._config.unstable, "seed": trial[1]}
        return aire.score(self._model, trial[0], **options)

    def _moments(self, trial: Trial) -> dict[str, AnyMoments] | None:
        method, seed = trial
        measures = methods.get(method).measures(selective=bool(selective_layers(self._model)))
        return self.moments(seed, covariance=methods.get(method).needs_covariance) if measures else None

    def result(self, trial: Trial, ratio: float) -> PruneResult:
        """Return the model cut at one ratio, with its report."""
        cut, errors = self.at(trial, ratio), None
        if methods.get(trial[0]).needs_calibration:
            errors = output_errors(self._model, cut, self._calibration(trial[1]))
        modes = aire.modes(self._model, self._moments(trial))
        return result_of(self._model, modes, self.scores(trial), cut, errors)

    def moments(self, seed: int, *, covariance: bool) -> dict[str, AnyMoments]:
        """Return the moments by layer path on the calibration inputs of a seed, measured once."""
        return self._calibration(seed).moments(self._model, covariance=covariance)

    def _find(self, trial: Trial, ratio: float) -> Cut:
        method, seed = trial
        calibration = self._calibration(seed) if methods.get(method).needs_calibration else None
        options = {"ratio": ratio, "scope": scope(method, self._config), "calibration": calibration}
        cut = find_cut(self._model, self.scores(trial), method, **options)
        if processes.are_several():  # whose rounding may differ
            cut = from_arrays(processes.of_first(cut.arrays()))
        return cut

    def _calibration(self, seed: int) -> Calibration:
        if seed not in self._calibrations:
            self._calibrations[seed] = Calibration(calibration_batches(self._split, self._config, seed))
        return self._calibrations[seed]


def sweep(
    evaluate: CutEvaluator,
    cuts: Cuts,
    trials: Sequence[Trial],
    name: str = "sweep",
    after: Callable[[Trial, Sequence[Point]], None] = lambda trial, points: None,
) -> list[Point]:
    """Evaluate every trial at every ratio on the selection split. Equal cuts are evaluated once.

    Args:
        after: called after each trial that did not fail at every ratio, with its points.
    Raises:
        UserError: every trial fails at every ratio.
        Stopped: by a signal. What is evaluated is saved.
    """
    points: list[Point] = []
    keys, known = set(), set(evaluate.cache)
    with Progress(name, len(trials) * len(cuts.ratios), unit="cut") as progress:
        try:
            for trial in trials:
                first = len(points)
                for ratio, cut in cuts(trial):
                    keys.add(evaluate.key(cut, "selection"))
                    selection = evaluate(cut, "selection")
                    points.append(Point(*trial, ratio, cut.n_states, selection))
                    progress.update(1, accuracy=selection.accuracy)
                if points[first:]:
                    after(trial, points[first:])
        except Stopped as stop:
            stop.add_note(f"{progress.done} of {progress.total} cuts are evaluated and saved")
            stop.add_note("run the same command again to go on from there")
            raise
    if not points:
        raise UserError(f"no method works: {next(iter(cuts.failures.values()))}")
    print(f"{name}: {len(points)} cuts, {len(keys)} of them distinct, {len(keys & known)} evaluated before", flush=True)
    return points


def announce_calibration(names: Sequence[str], config: ConfigDict, *, selective: bool) -> str:
    """Return a line about the methods that see inputs, for an announcement; "" if there are none."""
    calibrated = ", ".join(name for name in names if methods.get(name).sees_inputs(selective=selective))
    examples, source = config.calibration.examples, config.calibration.source
    return f"  inputs  {examples} examples of {source}, without labels, for {calibrated}\n" if calibrated else ""


def largest_within(points: Sequence[Point], uncut: Evaluation, tolerance: float) -> Point:
    """Return the point with the largest ratio that loses at most `tolerance` points of the uncut model's accuracy."""
    within = [p for p in points if uncut.accuracy - p.selection.accuracy <= tolerance / 100 + 1e-9]
    return max(within, key=lambda p: p.ratio)
