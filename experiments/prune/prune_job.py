"""The pruning job: obtain a model, sweep the ratio for each method on the selection split, test once, report."""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire.data.pipeline import Split
from aire.data.tasks import load_task
from aire.models import Classifier
from aire.ssm import kind_of, ssm_config
from aire.training.evaluate import make_evaluator
from aire.utils import devices
from aire.utils.checks import boolean, check, text
from aire.utils.errors import UserError
from experiments import baselines, settings
from experiments.calibration_inputs import calibration_split
from experiments.evaluations import CutEvaluator, EvaluationFile
from experiments.model_source import data_options, obtain_model
from experiments.provenance import provenance
from experiments.prune.predictions import predict_errors
from experiments.prune.prune_report import Table, write_report
from experiments.prune.prune_results import Choice, Outcome
from experiments.records import Chosen, Point, Uncut
from experiments.sweep import Cuts, Trial, announce_calibration, largest_within, prepare, sweep
from experiments.timing import forward, interleaved


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Run the job that a config describes; see configs/lra_listops_prune.py."""
    methods = prepare(config, workdir, partial(check_own, config, workdir))
    settings.check_room(config, data_options(config), workdir, data_dir)
    announce(config, methods, workdir, data_dir)
    source, clock = provenance(), Clock()
    cache = EvaluationFile(workdir / "evaluations.jsonl")
    task = load_task(data_options(config), data_dir)
    print(f"data: {task.description()}", flush=True)
    clock.lap("data")
    model, origin = obtain_model(config, task, workdir)
    print(f"model: {origin}{unstable_states(model)}", flush=True)
    clock.lap("model")
    base = baselines.measure(task) if config.init == "scratch" else {}  # they learn from all training examples
    clock.lap("baselines")
    evaluate = CutEvaluator(model, task.splits, make_evaluator(model, config.prune.batch_size), cache)
    uncut = Uncut(origin, evaluate.uncut("selection"), evaluate.uncut("test"))
    time_beside = Timer(model, task.splits["selection"], config.prune.batch_size)
    table = Table(model, base, uncut, methods)
    inputs = calibration_split(config.prune.calibration.source, task, data_dir)
    cuts = Cuts(model, inputs, config.prune, workdir / "cuts")
    choices: list[Choice] = []

    def after(trial: Trial, points: Sequence[Point]) -> None:
        choices.append(choose(trial, points, evaluate, cuts, config.prune.tolerance, time_beside))
        table.print(choices[-1])

    points = sweep(evaluate, cuts, [(method, config.seed) for method in methods], after=after)
    clock.lap("sweep")
    choices[-1] = test_cut(choices[-1], evaluate, task.splits["test"], config.prune.batch_size)
    clock.lap("test")
    predicted = predict_errors(choices, cuts, model, config.seed)
    clock.lap("predicted errors")
    if devices.is_first():
        write_report(Outcome(config, model, uncut, base, points, choices, predicted, clock.laps, source), workdir)


def check_own(config: ConfigDict, workdir: Path) -> None:
    """Raise UserError for mistakes in what only this job has: the seed and the model to prune."""
    check(config, seed=settings.SEED, init=text(), finetune=boolean())
    if config.finetune and config.init == "scratch":
        raise UserError("finetune=True: expected --config.init=FILE or --config.init=zoo, a model to train further")
    settings.check_init(config, workdir)


def announce(config: ConfigDict, methods: Sequence[str], workdir: Path, data_dir: Path) -> None:
    """Print what will be done before anything slow starts."""
    m, p = config.model, config.prune
    origins = {"zoo": "trained, from the zoo", "scratch": f"trained here, {config.train.epochs} epochs"}
    further = f", then trained {config.train.epochs} epochs further" if config.finetune else ""
    origin = origins.get(config.init, config.init.replace("{runs}", str(workdir.parent)))
    kind = kind_of(ssm_config(m.ssm.to_dict()))
    print(
        f"{config.name}: prune a trained model, choose the ratio on the selection split, test once\n"
        f"  data    {config.data.task}, prepared once in {data_dir}\n"
        f"  model   {m.depth} layers of {kind.describe_states(m.states)}, {m.d_model} features: {origin}{further}\n"
        f"  sweep   {', '.join(methods)}: {len(p.ratios)} ratios each\n"
        f"{announce_calibration(methods, p, selective=kind.selective)}"
        f"  output  {workdir}",
        flush=True,
    )


def unstable_states(model: Classifier) -> str:
    """Describe where a model has states with |λ̄| ≥ 1; "" if it has none."""
    counts = {layer: int((np.asarray(m.margin) <= 0).sum()) for layer, m in aire.modes(model).items()}
    layers = [f"{n} in {layer}" for layer, n in counts.items() if n]
    return f"; unstable states, of infinite energy: {', '.join(layers)}" if layers else ""


class Clock:
    """A stopwatch: the seconds of each stage."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def choose(
    trial: Trial, points: Sequence[Point], evaluate: CutEvaluator, cuts: Cuts, tolerance: float, time_beside: "Timer"
) -> Choice:
    """Cut at the ratio that selection chooses, and test the masked model, which computes the same as the cut one."""
    point = largest_within(points, evaluate.uncut("selection"), tolerance)
    result = cuts.result(trial, point.ratio)
    chosen = Chosen(point.ratio, evaluate(result.cut, "selection"), evaluate(result.cut, "test"))
    masks = {p.ratio: cuts.at(trial, p.ratio).keep for p in points}
    return Choice(trial[0], chosen, result, masks, time_beside(result.model))


def test_cut(choice: Choice, evaluate: CutEvaluator, split: Split, batch_size: int) -> Choice:
    """Test the cut model itself, because it is the one that is saved."""
    answers = make_evaluator(choice.result.model, batch_size)(choice.result.model, split)
    chosen = dataclasses.replace(choice.chosen, test=evaluate.beside_uncut(answers, "test"))
    return dataclasses.replace(choice, chosen=chosen)


class Timer:
    """Time the forward pass of models with that of the uncut model, side by side on one batch.

    Compiled functions of plain arrays are timed, because a call through `nnx.jit` adds milliseconds.
    """

    def __init__(self, uncut: nnx.Module, split: Split, batch_size: int):
        batch = split.take(np.arange(min(batch_size, len(split))))
        self._inputs = {name: jax.numpy.asarray(batch[name]) for name in ("x", "lengths")}
        _, self._uncut = forward(uncut, self._inputs)

    def __call__(self, cut: nnx.Module) -> tuple[float, float]:
        """Return the seconds of the uncut and of the cut model, medians."""
        _, run = forward(cut, self._inputs)
        seconds = interleaved({"uncut": self._uncut, "cut": run})
        return seconds["uncut"], seconds["cut"]
