"""Tasks by name: load data from the options of a config. To add a task, add a function and a line in `TASKS`."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aire.data import aan, cifar10, fashion_mnist, imdb, listops, mnist, pathfinder, speech_commands, synthetic
from aire.data.formats import pixels
from aire.data.formats.archives import Files
from aire.data.formats.preparation import SPLITS
from aire.data.pipeline import Split
from aire.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Task:
    """Data of one task.

    Attributes:
        source: a description of the origin of the data.
        splits: "train", "validation" and "test".
        d_input: features per step, or size of the vocabulary.
        n_classes: number of classes.
    """

    source: str
    splits: Mapping[str, Split]
    d_input: int
    n_classes: int

    def description(self) -> str:
        """Return one line with source, sizes, length and number of classes."""
        sizes = " / ".join(f"{len(self.splits[name]):,}" for name in SPLITS)
        steps = max(int(split.lengths.max()) for split in self.splits.values())
        return f"{self.source}: {sizes} examples of up to {steps:,} steps, {self.n_classes} classes"


def _listops(data_dir: Path, *, length: int, lra_release: str, **generated: Any) -> Task:
    generator = listops.Generated(**generated)
    source = listops.Release(lra_release) if lra_release else generator
    origin = f"the release in {lra_release}" if lra_release else f"generated from seed {generator.seed}"
    splits = listops.load(data_dir, source, length=length)
    return Task(f"ListOps, {origin}", splits, listops.VOCAB_SIZE, listops.N_CLASSES)


def _fashion_mnist(data_dir: Path, *, folder: str, **options: Any) -> Task:
    splits = fashion_mnist.load(data_dir, folder, **options)
    return Task(f"Fashion-MNIST, {_origin(folder)}", splits, 1, pixels.N_CLASSES)


def _imdb(data_dir: Path, *, folder: str, **options: Any) -> Task:
    reviews = imdb.Reviews(Files(imdb.ARCHIVE, data_dir, folder))
    return Task(f"IMDB, {_origin(folder)}", imdb.load(data_dir, reviews, **options), imdb.VOCAB_SIZE, len(imdb.CLASSES))


def _aan(data_dir: Path, *, folder: str, **options: int) -> Task:
    splits = aan.load(data_dir, aan.Release(folder), **options)
    return Task(f"AAN, the release in {folder}", splits, aan.VOCAB_SIZE, aan.N_CLASSES)


def _speech_commands(data_dir: Path, *, folder: str, **options: int) -> Task:
    recordings = speech_commands.Recordings(Files(speech_commands.ARCHIVE, data_dir, folder))
    splits = speech_commands.load(data_dir, recordings, **options)
    return Task(f"Speech Commands, {_origin(folder)}", splits, 1, len(speech_commands.WORDS))


def _mnist(data_dir: Path, *, folder: str, permuted: bool, **options: Any) -> Task:
    splits = mnist.load(data_dir, folder, permuted=permuted, **options)
    return Task(f"{'permuted ' * permuted}MNIST, {_origin(folder)}", splits, 1, pixels.N_CLASSES)


def _cifar10(data_dir: Path, *, folder: str, grey: bool, **options: Any) -> Task:
    splits = cifar10.load(data_dir, folder, grey=grey, **options)
    return Task(
        f"CIFAR-10 in {'grey' if grey else 'colour'}, {_origin(folder)}", splits, 1 if grey else 3, pixels.N_CLASSES
    )


def _pathfinder(data_dir: Path, *, lra_release: str, **generated: Any) -> Task:
    generator = pathfinder.Generated(**generated)
    source = pathfinder.Release(lra_release, generator.side) if lra_release else generator
    origin = f"the release in {lra_release}" if lra_release else f"generated from seed {generator.seed}"
    splits = pathfinder.load(data_dir, source)
    return Task(f"Pathfinder at {generator.side}×{generator.side}, {origin}", splits, 1, pathfinder.N_CLASSES)


def _origin(folder: str) -> str:
    return f"the files in {folder}" if folder else "as published"


TASKS: dict[str, Callable[..., Task]] = {
    "aan": _aan,
    "cifar10": _cifar10,
    "fashion_mnist": _fashion_mnist,
    "imdb": _imdb,
    "listops": _listops,
    "mnist": _mnist,
    "pathfinder": _pathfinder,
    "speech_commands": _speech_commands,
}


def load_task(options: Mapping[str, Any], data_dir: Path) -> Task:
    """Load the task described by the `data` of a config. Prepare it in `data_dir` on the first call.

    Raises:
        UserError: the task is unknown, or its data cannot be prepared or read.
    """
    options = dict(options)
    name = options.pop("task")
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}: expected one of {sorted(TASKS)}")
    if options.get("folder") == synthetic.FOLDER:
        options["folder"] = str(synthetic.prepare(name, Path(data_dir) / "synthetic"))
    return TASKS[name](data_dir, **options)
