"""Inputs that calibrate: those of the task, noise, or those of another task."""

import importlib
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from aire.data.pipeline import Split
from aire.data.tasks import Task, load_task
from aire.utils.errors import UserError

_SAMPLED = 2048  # training examples that show the range of the inputs


def calibration_split(source: str, task: Task, data_dir: Path) -> Split:
    """Return the examples whose inputs calibrate.

    Args:
        source: "train"; "noise", which has the training inputs' lengths; or "TASK" or "TASK:VARIANTS" of a config
            TASK_prune, whose training inputs are taken.
    Raises:
        UserError: there is no such source, or the model does not accept its inputs.
    """
    if source == "train":
        return task.splits["train"]
    if source == "noise":
        return noise(task.splits["train"])
    name, _, variants = source.partition(":")
    try:
        config = importlib.import_module(f"configs.{name}_prune").get_config(variants)
    except ModuleNotFoundError as error:
        expected = '"train", "noise" or a task with its variants, such as "scifar" or "lra_pathfinder:small"'
        raise UserError(f"calibration.source={source!r}: expected {expected}") from error
    other = load_task(config.data.to_dict(), data_dir)
    tokens = [t.splits["train"].holds_tokens for t in (task, other)]
    if tokens[0] != tokens[1] or task.d_input != other.d_input:
        raise UserError(f"calibration.source={source!r}: its inputs differ from the task's; expected the same kind")
    return other.splits["train"]


def noise(split: Split, seed: int = 0) -> Split:
    """Return independent uniform inputs: of the tokens that occur, or of the range of the values."""
    rng = np.random.default_rng(seed)
    examples = split.take(np.arange(min(_SAMPLED, len(split))))
    x = examples["x"]
    if split.holds_tokens:
        steps = np.arange(x.shape[-1]) < examples["lengths"][..., None]
        drawn = np.where(steps, rng.choice(np.unique(x[steps]), x.shape), 0)
    else:
        drawn = rng.uniform(x.min(), x.max(), x.shape)
    return Split(drawn.astype(x.dtype), examples["lengths"], examples["y"])


def calibration_batches(split: Split, config: ConfigDict, seed: int) -> list[dict[str, np.ndarray]]:
    """Return inputs and lengths of random examples, without replacement.

    Args:
        split: from `calibration_split`.
        config: a config's `prune`; `calibration.examples` says how many.
    """
    chosen = np.random.default_rng(seed).permutation(len(split))[: config.calibration.examples]
    size = config.batch_size
    batches = (split.take(chosen[start : start + size]) for start in range(0, len(chosen), size))
    return [{"x": batch["x"], "lengths": batch["lengths"]} for batch in batches]
