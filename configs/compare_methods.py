"""Compare all methods at all ratios on several trained models of one task.

    python run.py --config=compare_methods:lra_listops,small     the zoo's model: 2 CPU cores, minutes
    python run.py --config=compare_methods:lra_listops,small --config.models="('zoo', 1, 2)"     and two trained here
    python run.py --config=compare_methods:lra_listops           full size, trained here
    python run.py --config=compare_methods:smoke                 seconds, for tests

The first variant names the task: TASK of a config TASK_prune, by default lra_listops. All others are variants of that
config. Each entry of `models` is "zoo", a .safetensors file, the folder of a run that trained a model, or a seed to
train one with here. Methods that use random numbers run with `repetitions` seeds on each model.

Evaluations are saved in evaluations.jsonl in the run's folder, by a digest of model, mask and split. So a stopped run
resumes, and a run with more models, methods or ratios evaluates only what is new. After changes to the code of the
models, start in a new folder.
"""

import importlib
from pathlib import Path

from ml_collections import ConfigDict

from aire.utils.errors import UserError


def get_config(variants: str = "") -> ConfigDict:
    names = [name for name in (variants or "").split(",") if name]
    task = names.pop(0) if names and names[0] in tasks() else "lra_listops"
    try:
        config = importlib.import_module(f"configs.{task}_prune").get_config(",".join(names))
    except UserError as error:
        raise UserError(f"{error}; before them, a task: one of {tasks()}") from error
    config.experiment = "compare"
    config.task_name = config.name  # the model's name in the zoo
    config.name = f"compare_{config.task_name}"
    config.models = ("zoo",) if config.init == "zoo" else (config.seed,)
    config.repetitions = 5
    del config.init, config.seed  # `models` replaces both
    return config


def tasks() -> list[str]:
    """Return the tasks that have a config TASK_prune."""
    return sorted(path.stem.removesuffix("_prune") for path in Path(__file__).parent.glob("*_prune.py"))
