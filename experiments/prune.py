"""The main job: train or restore, score, sweep the ratio for each method on validation, choose, test once, report."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire.data.pipeline import Split
from aire.data.tasks import Task, load_task
from aire.errors import UserError
from aire.models import Classifier
from aire.progress import Progress
from aire.pruning.prune import PruneResult
from aire.pruning.scores import get
from aire.pruning.selection import check_ratio, check_scope
from aire.training.evaluate import Evaluation, make_evaluator
from experiments import baselines
from experiments.provenance import provenance
from experiments.prune_report import write_report
from experiments.timing import interleaved
from experiments.train import obtain_model


@dataclasses.dataclass(frozen=True)
class Point:
    """One cut of a sweep: `ratio` of all states cut by `method`, `states` left, and its validation."""

    method: str
    ratio: float
    states: int
    validation: Evaluation


@dataclasses.dataclass(frozen=True)
class Choice:
    """The largest ratio within the tolerance for one method, the model cut there, and its only test."""

    method: str
    ratio: float
    result: PruneResult
    validation: Evaluation
    test: Evaluation


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that the report shows."""

    config: ConfigDict
    origin: str
    model: Classifier
    full_validation: Evaluation
    full_test: Evaluation
    baselines: Mapping[str, Mapping[str, float]]
    points: Sequence[Point]
    choices: Sequence[Choice]
    seconds: Mapping[str, float]
    speedup: float
    provenance: Mapping


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Run the job that a config describes; see configs/lra_listops_prune.py."""
    check(config)
    announce(config, workdir, data_dir)
    source, clock = provenance(), Clock()
    task = load_task(config.data.to_dict(), data_dir)
    print(f"data: {task.description()}", flush=True)
    clock.lap("data")
    model, origin = obtain_model(config, task, workdir)
    print(f"model: {origin}", flush=True)
    clock.lap("model")
    base = baselines.measure(task)
    clock.lap("baselines")
    evaluate = make_evaluator(model, config.prune.batch_size)
    points = sweep(model, task.splits["validation"], config.prune, evaluate)
    clock.lap("sweep")
    full = evaluate(model, task.splits["validation"])
    choices = [choose(method, model, points, full, task, config.prune) for method in config.prune.methods]
    outcome = Outcome(
        config=config,
        origin=origin,
        model=model,
        full_validation=full,
        full_test=evaluate(model, task.splits["test"]),
        baselines=base,
        points=points,
        choices=choices,
        seconds=clock.laps,
        speedup=speedup(model, choices[0].result.model, task.splits["validation"], config.prune.batch_size),
        provenance=source,
    )
    clock.lap("test and timing")
    write_report(outcome, workdir)


def check(config: ConfigDict) -> None:
    """Mistakes that should not wait until after the training."""
    for method in config.prune.methods:
        get(method)
    for ratio in config.prune.ratios:
        check_ratio(ratio)
    check_scope(config.prune.scope)
    if 0.0 not in config.prune.ratios:
        raise UserError("prune.ratios must contain 0.0, the uncut model, so that something is always within tolerance")


def announce(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Say what will be done before anything slow starts."""
    m, p = config.model, config.prune
    origins = {"zoo": "the trained one of the zoo", "scratch": f"trained here, {config.train.epochs} epochs"}
    origin = origins.get(config.init, config.init)
    print(
        f"{config.name}: prune a trained model, choose on validation, test once\n"
        f"  data    {config.data.task}, prepared once in {data_dir}\n"
        f"  model   {m.depth} layers of {m.states} states, {m.d_model} features: {origin}\n"
        f"  sweep   {', '.join(p.methods)}: {len(p.ratios)} ratios each\n"
        f"  output  {workdir}",
        flush=True,
    )


class Clock:
    """Seconds of each stage."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def sweep(model: Classifier, split: Split, config: ConfigDict, evaluate) -> list[Point]:
    """Every method at every ratio on one split. Models are masked, not cut, so all share one compilation; a mask that
    two methods or ratios agree on is evaluated once."""
    known: dict[bytes, Evaluation] = {}
    points = []
    with Progress("sweep", len(config.methods) * len(config.ratios), unit="cut") as progress:
        for method in config.methods:
            scores = aire.score(model, method)
            for ratio in sorted(config.ratios):
                keep = aire.select(scores, ratio=ratio, scope=config.scope)
                flat = np.concatenate([np.asarray(mask) for mask in keep.values()])
                if flat.tobytes() not in known:
                    known[flat.tobytes()] = evaluate(aire.pruning.mask(model, keep), split)
                points.append(Point(method, ratio, int(flat.sum()), known[flat.tobytes()]))
                progress.update(1, accuracy=points[-1].validation.accuracy)
    return points


def largest_within(points: Sequence[Point], full: Evaluation, tolerance: float) -> Point:
    """The point with the largest ratio whose accuracy is at most `tolerance` points below the uncut model's."""
    within = [p for p in points if full.accuracy - p.validation.accuracy <= tolerance / 100 + 1e-9]
    return max(within, key=lambda p: p.ratio)


def choose(
    method: str, model: Classifier, points: Sequence[Point], full: Evaluation, task: Task, config: ConfigDict
) -> Choice:
    """Cut at the chosen ratio and test the cut model, once."""
    point = largest_within([p for p in points if p.method == method], full, config.tolerance)
    result = aire.prune(model, point.ratio, method, scope=config.scope)
    evaluate = make_evaluator(result.model, config.batch_size)
    test = evaluate(result.model, task.splits["test"])
    return Choice(method, point.ratio, result, point.validation, test)


def speedup(full: nnx.Module, cut: nnx.Module, split: Split, batch_size: int) -> float:
    """How many times as fast the cut model's forward pass is, side by side on one batch."""
    x, lengths = jax.numpy.asarray(split.x[:batch_size]), jax.numpy.asarray(split.lengths[:batch_size])
    forward = nnx.jit(lambda model, x, lengths: model(x, lengths))
    seconds = interleaved({"full": lambda: forward(full, x, lengths), "cut": lambda: forward(cut, x, lengths)})
    return seconds["full"] / seconds["cut"]
