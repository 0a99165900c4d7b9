"""Every method at every ratio, over several trained models of one task: which prunes best, and by how much.

    python run.py --config=compare_methods:lra_listops,small     the zoo's model: 2 CPU cores, minutes
    python run.py --config=compare_methods:lra_listops,small --config.models="('zoo', 1, 2)"     and two trained here
    python run.py --config=compare_methods:lra_listops           full size, trained here
    python run.py --config=compare_methods:smoke                 seconds; for tests

The first variant names the task, TASK of a config TASK_prune (without one: lra_listops); all others are variants of
that config. Each of `models` is "zoo", a .safetensors file, the folder of a run that trained one, or a seed to train
one with here. A method that draws, `random`, draws `draws` times for each model.

Evaluations are kept in evaluations.jsonl in the run's folder, by a digest of model, mask and split: a stopped run goes
on where it was, and a run with more models, methods or ratios evaluates only what is new. After changes to the code of
the models, begin in a new folder.
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
    config.task_name = config.name  # the zoo's name for its model
    config.name = f"compare_{config.task_name}"
    config.models = ("zoo",) if config.init == "zoo" else (config.seed,)
    config.draws = 5
    del config.init, config.seed  # `models` says both
    return config


def tasks() -> list[str]:
    """Tasks that have a config TASK_prune."""
    return sorted(path.stem.removesuffix("_prune") for path in Path(__file__).parent.glob("*_prune.py"))
