"""The comparison: every method at every ratio on several trained models; the selection split chooses; tested once."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from aire import zoo
from aire.data.tasks import Task, load_task
from aire.pruning import methods
from aire.ssm import LayerKind, kind_of, ssm_config
from aire.training.evaluate import make_evaluator
from aire.utils import devices
from aire.utils.checks import Rule, check, file_name, integer, number, several, text
from aire.utils.errors import UserError
from experiments import settings
from experiments.calibration_inputs import calibration_split
from experiments.compare.compare_report import write_report
from experiments.compare.compare_results import Comparison, Result
from experiments.evaluations import CutEvaluator, EvaluationFile
from experiments.model_source import obtain_model
from experiments.provenance import provenance
from experiments.records import Chosen, Point, Uncut
from experiments.sweep import Cuts, Trial, announce_calibration, largest_within, prepare, sweep


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Run the comparison that a config describes; see configs/compare_methods.py."""
    names = prepare(config, workdir, partial(check_models, config, workdir))
    for entry in config.models:
        settings.check_room(one_model(config, entry), config.data.to_dict(), workdir / "models" / "one", data_dir)
    trials = [(name, seed) for name in names for seed in range(repetitions(name, config))]
    announce(config, names, workdir, data_dir)
    source = provenance()
    cache = EvaluationFile(workdir / "evaluations.jsonl")
    task = load_task(config.data.to_dict(), data_dir)
    inputs = calibration_split(config.prune.calibration.source, task, data_dir)
    evaluators, origins = load_models(config, task, workdir, cache)
    cuts = {name: Cuts(e.model, inputs, config.prune, workdir / "cuts") for name, e in evaluators.items()}
    points = {model: sweep(evaluate, cuts[model], trials, model) for model, evaluate in evaluators.items()}
    # The test split is read only now, when nothing is left to decide.
    uncut = {
        model: Uncut(origins[model], evaluate.uncut("selection"), evaluate.uncut("test"))
        for model, evaluate in evaluators.items()
    }
    results = [
        choose(model, trial, own, evaluate, cuts[model], config)
        for model, evaluate in evaluators.items()
        for trial in trials
        if (own := [p for p in points[model] if (p.method, p.seed) == trial])
    ]
    seconds = measure_seconds(results, cuts)
    failures = {model: {_words(*key): why for key, why in found.failures.items()} for model, found in cuts.items()}
    if devices.is_first():
        write_report(Comparison(config, uncut, results, seconds, failures, source), workdir)


def _words(method: str, draw: int, ratio: float) -> str:
    return f"{method}, draw {draw}, at {100 * ratio:g} %"


def check_models(config: ConfigDict, workdir: Path) -> None:
    """Raise UserError for mistakes that should not wait until a model is trained."""
    seed_or_file = Rule(
        f"a seed ({settings.SEED.expected}) or {text().expected}",
        lambda x: settings.SEED.holds(x) or (text().holds(x) and x != ""),
    )
    check(
        config,
        models=several(seed_or_file, 1, 1000),
        repetitions=integer(1, 1000),
        calibrations=integer(1, 1000),
        also_within=several(number(0, high=100), 0, 100),
        task_name=file_name(),
    )
    if len(set(config.models)) < len(config.models):
        raise UserError(f"models={config.models}: expected each once")
    if "zoo" in config.models and config.task_name not in zoo.names():
        raise UserError(
            f"no model {config.task_name!r} in the zoo, which has {zoo.names()}; "
            'name files or folders, or seeds to train here: --config.models="(0, 1, 2)"'
        )
    for entry in config.models:
        if entry != "zoo" and not isinstance(entry, int) and not _model_file(entry).is_file():
            raise UserError(f"no model file at {_model_file(entry)}, which `models` names")
        settings.check_init(one_model(config, entry), workdir / "models" / "one")


def _model_file(entry: str) -> Path:
    return Path(entry) / "model.safetensors" if Path(entry).is_dir() else Path(entry)


def repetitions(method: str, config: ConfigDict) -> int:
    """Return how many seeds a method gets on one model: one, unless it uses random numbers or calibration inputs."""
    chosen = methods.get(method)
    if chosen.sees_inputs(selective=_kind(config).selective):
        return config.calibrations
    return config.repetitions if chosen.draws else 1


def _kind(config: ConfigDict) -> LayerKind:
    return kind_of(ssm_config(config.model.ssm.to_dict()))


def announce(config: ConfigDict, names: Sequence[str], workdir: Path, data_dir: Path) -> None:
    """Print what will be done before anything slow starts."""
    origins = [f"trained here with seed {m}" if isinstance(m, int) else str(m) for m in config.models]
    print(
        f"{config.name}: compare {len(names)} methods on the selection split, test each once at the chosen ratio\n"
        f"  data     {config.data.task} in {data_dir}\n"
        f"  models   {', '.join(origins)}\n"
        f"  methods  {', '.join(names)}: {len(config.prune.ratios)} ratios each, {config.repetitions} seeds if random, "
        f"{config.calibrations} if calibrated\n"
        f"{announce_calibration(names, config.prune, selective=_kind(config).selective)}"
        f"  output   {workdir}",
        flush=True,
    )


def load_models(
    config: ConfigDict, task: Task, workdir: Path, cache: EvaluationFile
) -> tuple[dict[str, CutEvaluator], dict[str, str]]:
    """Return the evaluator and the origin of each model, by name. Equal model configs share one compilation."""
    evaluators, origins, compiled = {}, {}, {}
    for entry in config.models:
        name = f"seed_{entry}" if isinstance(entry, int) else entry
        model, origins[name] = obtain_model(one_model(config, entry), task, workdir / "models" / name)
        print(f"model {name}: {origins[name]}", flush=True)
        evaluate = compiled.setdefault(model.config, make_evaluator(model, config.prune.batch_size))
        evaluators[name] = CutEvaluator(model, task.splits, evaluate, cache)
    return evaluators, origins


def one_model(config: ConfigDict, entry: str | int) -> ConfigDict:
    """Return the config of a run that trains or loads this entry of `models`."""
    one = ConfigDict({key: config[key] for key in ("data", "model", "train")})
    one.name = config.task_name
    one.seed = entry if isinstance(entry, int) else 0
    one.finetune = False
    one.init = "scratch" if isinstance(entry, int) else "zoo" if entry == "zoo" else str(_model_file(entry))
    return one


def choose(
    model: str, trial: Trial, points: Sequence[Point], evaluate: CutEvaluator, cuts: Cuts, config: ConfigDict
) -> Result:
    """Choose the largest ratio that the selection split allows, by tolerance, and test it."""
    chosen = {}
    for tolerance in (config.prune.tolerance, *config.also_within):
        ratio = largest_within(points, evaluate.uncut("selection"), tolerance).ratio
        cut = cuts.at(trial, ratio)
        chosen[tolerance] = Chosen(ratio, evaluate(cut, "selection"), evaluate(cut, "test"))
    return Result(model, *trial, points, chosen)


def measure_seconds(results: Sequence[Result], cuts: Mapping[str, Cuts]) -> dict[str, dict[str, float]]:
    """Return the seconds of one cut at the chosen ratio, by model and method. Programs may be compiled already."""
    seconds: dict[str, dict[str, float]] = {}
    for r in results:
        if r.seed == 0:
            ratio = r.first.ratio
            seconds.setdefault(r.model, {})[r.method] = cuts[r.model].seconds((r.method, r.seed), ratio)
    return seconds
