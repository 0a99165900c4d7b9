"""Tasks by name: from a config's options to data in memory. A new task is a function here and a line in `TASKS`."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aire.data import listops
from aire.data.pipeline import Split
from aire.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """Data of one task.

    Attributes:
        splits: "train", "validation" and "test".
        d_input: features of a step, or size of the vocabulary.
        n_classes: number of classes.
    """

    splits: Mapping[str, Split]
    d_input: int
    n_classes: int


def _listops(data_dir: Path, *, length: int, lra_release: str, **generated: Any) -> Task:
    source = listops.Release(lra_release) if lra_release else listops.Generated(**generated)
    return Task(listops.load(data_dir, source, length=length), listops.VOCAB_SIZE, listops.N_CLASSES)


TASKS: dict[str, Callable[..., Task]] = {"listops": _listops}


def load_task(options: Mapping[str, Any], data_dir: Path) -> Task:
    """The task that a config's `data` describes, prepared in `data_dir` where it is not there yet.

    Raises:
        UserError: an unknown task, or data that cannot be prepared or read.
    """
    options = dict(options)
    name = options.pop("task")
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}: expected one of {sorted(TASKS)}")
    return TASKS[name](data_dir, **options)
