"""Compare all methods at all ratios on several trained models of one task.

    python run.py --config=compare_methods:lra_listops,small     the zoo's model: hours on a CPU with all methods
    python run.py --config=compare_methods:lra_listops,small --config.models="('zoo', 1, 2)"     and two trained here
    python run.py --config=compare_methods:lra_listops           full size, trained here
    python run.py --config=compare_methods:smoke                 seconds, for tests

The first variant names the task: TASK of a config TASK_prune, by default lra_listops. All others are variants of that
config. Each entry of `models` is "zoo", a .safetensors file, the folder of a run that trained a model, or a seed to
train one with here. Methods that use random numbers run with `repetitions` seeds on each model, methods that see
inputs with `calibrations` draws of inputs.

The small runs choose and test on more examples than the pruning job (SMALL), so that the standard error of a change of
accuracy is below half a point, and at ratios in steps of 5 %. The models are the same.

Each cut of `reconstruct` is a fit of many seconds, so it has a run of its own, with one draw of inputs at ratios from
55 % on:

    python run.py --config=compare_methods:lra_listops,small,reconstruct --config.models="('zoo', 1, 2)"

How much data a method needs, and which (INPUTS):

    python run.py --config=compare_methods:lra_listops,small,inputs_16           16 sequences; also 64, 1024
    python run.py --config=compare_methods:fashion_mnist,small,inputs_noise      uniform noise
    python run.py --config=compare_methods:fashion_mnist,small,inputs_other      the inputs of another task

Evaluations are saved in evaluations.jsonl in the run's folder, by a digest of model, cut and split, and refitted cuts
in the folder cuts. So a stopped run resumes, and a run with more models, methods or ratios computes only what is new.
After changes to the code of the models or methods, start in a new folder.
"""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

from aire.utils.errors import UserError
from configs import common

SMALL = {
    "lra_listops": {"selection_examples": 10_000, "more_test_examples": 8_000},
    "fashion_mnist": {"selection_examples": 0, "more_test_examples": 8_000},  # 3,000: all that are left
    "lra_pathfinder": {"selection_examples": 5_000, "more_test_examples": 3_000},
}


FIT_RATIOS = (0.0, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)

# Calibration inputs that differ from the default, 256 training examples. Each is a variant `inputs_NAME`.
INPUTS = {str(n): {"examples": n} for n in (16, 64, 1024)} | {"noise": {"source": "noise"}, "other": {}}
OTHER_TASK = {"fashion_mnist": "lra_pathfinder:small", "lra_pathfinder": "fashion_mnist:small"}


def get_config(variants: str = "") -> ConfigDict:
    names = [name for name in (variants or "").split(",") if name]
    task = names.pop(0) if names and names[0] in tasks() else "lra_listops"
    inputs = [name for name in names if name.removeprefix("inputs_") in INPUTS]
    fitted = "reconstruct" in names
    names = [name for name in names if name not in (*inputs, "reconstruct")]
    try:
        config = importlib.import_module(f"configs.{task}_prune").get_config(",".join(names))
    except UserError as error:
        raise UserError(f"{error}; before them, a task: one of {tasks()}") from error
    config.experiment = "compare"
    config.task_name = config.name  # the model's name in the zoo
    config.name = f"compare_{config.task_name}"
    config.models = ("zoo",) if config.init == "zoo" else (config.seed,)
    config.repetitions, config.calibrations = 5, 2
    config.also_within = (0.3,)  # further tolerances, in points
    config.prune.methods = ("all",)
    if "small" in names:
        config.data.update(SMALL.get(task, {}))
        config.prune.ratios = common.pruning().ratios
    if fitted:
        config.name += "_reconstruct"
        config.calibrations = 1
        config.prune.update(methods=("reconstruct",), ratios=FIT_RATIOS)
    for name in inputs:
        _set_inputs(config, task, name.removeprefix("inputs_"))
    del config.init, config.seed, config.finetune  # `models` replaces them
    return config


def _set_inputs(config: ConfigDict, task: str, name: str) -> None:
    config.name += f"_inputs_{name}"
    config.prune.methods = ("measured", "surgeon_order", "surgeon")
    config.prune.calibration.update(INPUTS[name])
    if name == "other":
        if task not in OTHER_TASK:
            raise UserError(f"inputs_other: no other task has the inputs of {task}; expected one of {[*OTHER_TASK]}")
        config.prune.calibration.source = OTHER_TASK[task]


def tasks() -> list[str]:
    """Return the tasks that have a config TASK_prune."""
    return sorted(path.stem.removesuffix("_prune") for path in Path(__file__).parent.glob("*_prune.py"))
