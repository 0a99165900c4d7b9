"""Tasks by name: from a config's options to data in memory. A new task is a function here and a line in `TASKS`."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aire.data import fashion_mnist, listops, pathfinder
from aire.data.pipeline import Split
from aire.data.preparation import SPLITS
from aire.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """Data of one task.

    Attributes:
        source: where the data comes from, in words.
        splits: "train", "validation" and "test".
        d_input: features of a step, or size of the vocabulary.
        n_classes: number of classes.
    """

    source: str
    splits: Mapping[str, Split]
    d_input: int
    n_classes: int

    def description(self) -> str:
        """One line: source, sizes, length and classes."""
        sizes = " / ".join(f"{len(self.splits[name]):,}" for name in SPLITS)
        steps = max(int(split.lengths.max()) for split in self.splits.values())
        return f"{self.source}: {sizes} examples of up to {steps:,} steps, {self.n_classes} classes"


def _listops(data_dir: Path, *, length: int, lra_release: str, **generated: Any) -> Task:
    source = listops.Release(lra_release) if lra_release else listops.Generated(**generated)
    words = f"ListOps, the release in {lra_release}" if lra_release else f"ListOps, generated from seed {source.seed}"
    return Task(words, listops.load(data_dir, source, length=length), listops.VOCAB_SIZE, listops.N_CLASSES)


def _fashion_mnist(data_dir: Path, *, folder: str, **options: int) -> Task:
    words = f"Fashion-MNIST, {f'the files in {folder}' if folder else 'as published'}"
    splits = fashion_mnist.load(data_dir, fashion_mnist.Files(folder), **options)
    return Task(words, splits, 1, fashion_mnist.N_CLASSES)


def _pathfinder(data_dir: Path, *, lra_release: str, **generated: Any) -> Task:
    drawn = pathfinder.Generated(**generated)
    source = pathfinder.Release(lra_release, drawn.side) if lra_release else drawn
    words = f"the release in {lra_release}" if lra_release else f"drawn from seed {drawn.seed}"
    splits = pathfinder.load(data_dir, source)
    return Task(f"Pathfinder at {drawn.side}×{drawn.side}, {words}", splits, 1, pathfinder.N_CLASSES)


TASKS: dict[str, Callable[..., Task]] = {
    "fashion_mnist": _fashion_mnist,
    "listops": _listops,
    "pathfinder": _pathfinder,
}


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
