"""Tasks by name: load data from the options of a config. To add a task, add a function and a line in `TASKS`."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aire.data import aan, cifar10, fashion_mnist, imdb, listops, mnist, pathfinder, speech_commands, synthetic
from aire.data.formats import pixels
from aire.data.formats.archives import Files
from aire.data.pipeline import Split
from aire.data.splits import divide_validation, join
from aire.utils.arguments import mapping
from aire.utils.errors import UserError

SPLITS = ("train", "validation", "selection", "test")


@dataclasses.dataclass(frozen=True)
class Task:
    """Data of one task.

    Attributes:
        source: a description of the origin of the data.
        splits: "train"; "validation", which chooses the checkpoint; "selection", other examples, which choose the
            ratio; "test", which is read once.
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


def _listops(
    data_dir: Path, *, length: int, lra_release: str, selection_examples: int, more_test_examples: int, **generated: Any
) -> Task:
    if lra_release:
        origin = f"ListOps, the release in {lra_release}"
        splits = divide_validation(listops.load(data_dir, listops.Release(lra_release), length=length))
    else:
        origin = f"ListOps, generated from seed {generated['seed']}"

        def further(split: str, n: int) -> Split:
            source = listops.Further(**generated, split=split, examples=n)
            return listops.load_further(data_dir, source, length=length)

        splits = listops.load(data_dir, listops.Generated(**generated), length=length)
        splits = _with_further(splits, further, selection_examples, more_test_examples)
    return Task(origin, splits, listops.VOCAB_SIZE, listops.N_CLASSES)


def _with_further(
    splits: Mapping[str, Split], further: Callable[[str, int], Split], selection_examples: int, more_test_examples: int
) -> dict[str, Split]:
    """Add the selection split and, where asked for, more test examples. `further` loads so many examples of a split."""
    test = splits["test"]
    if more_test_examples:
        test = join(test, further("more_test", more_test_examples))
    return {**splits, "selection": further("selection", selection_examples), "test": test}


def _published(
    load: Callable[..., dict[str, Split]],
    *,
    validation_examples: int,
    selection_examples: int = 0,
    test_examples: int,
    more_test_examples: int = 0,
    **options: Any,
) -> dict[str, Split]:
    """Load published data, and divide its validation split."""
    splits = load(test_examples=test_examples and test_examples + more_test_examples, **options)
    return divide_validation(splits, validation_examples=validation_examples, selection_examples=selection_examples)


def _fashion_mnist(data_dir: Path, *, folder: str, **options: Any) -> Task:
    splits = _published(partial(fashion_mnist.load, data_dir, folder), **options)
    return Task(f"Fashion-MNIST, {_origin(folder)}", splits, 1, pixels.N_CLASSES)


def _imdb(data_dir: Path, *, folder: str, validate_on_test: bool, **options: int) -> Task:
    reviews = imdb.Reviews(Files(imdb.ARCHIVE, data_dir, folder))
    splits = _published(partial(imdb.load, data_dir, reviews, validate_on_test=validate_on_test), **options)
    if validate_on_test:
        splits = {**splits, "validation": splits["test"], "selection": splits["test"]}
    return Task(f"IMDB, {_origin(folder)}", splits, imdb.VOCAB_SIZE, len(imdb.CLASSES))


def _aan(data_dir: Path, *, folder: str, **options: int) -> Task:
    splits = _published(partial(aan.load, data_dir, aan.Release(folder)), **options)
    return Task(f"AAN, the release in {folder}", splits, aan.VOCAB_SIZE, aan.N_CLASSES)


def _speech_commands(data_dir: Path, *, folder: str, **options: int) -> Task:
    recordings = speech_commands.Recordings(Files(speech_commands.ARCHIVE, data_dir, folder))
    splits = _published(partial(speech_commands.load, data_dir, recordings), **options)
    return Task(f"Speech Commands, {_origin(folder)}", splits, 1, len(speech_commands.WORDS))


def _mnist(data_dir: Path, *, folder: str, permuted: bool, **options: Any) -> Task:
    splits = _published(partial(mnist.load, data_dir, folder, permuted=permuted), **options)
    return Task(f"{'permuted ' * permuted}MNIST, {_origin(folder)}", splits, 1, pixels.N_CLASSES)


def _cifar10(data_dir: Path, *, folder: str, grey: bool, **options: Any) -> Task:
    splits = _published(partial(cifar10.load, data_dir, folder, grey=grey), **options)
    return Task(
        f"CIFAR-10 in {'grey' if grey else 'colour'}, {_origin(folder)}", splits, 1 if grey else 3, pixels.N_CLASSES
    )


def _pathfinder(
    data_dir: Path, *, lra_release: str, selection_examples: int, more_test_examples: int, **generated: Any
) -> Task:
    generator = pathfinder.Generated(**generated)
    if lra_release:
        origin = f"the release in {lra_release}"
        splits = divide_validation(pathfinder.load(data_dir, pathfinder.Release(lra_release, generator.side)))
    else:
        origin = f"generated from seed {generator.seed}"

        def further(split: str, n: int) -> Split:
            return pathfinder.load_further(data_dir, pathfinder.Further(**generated, split=split, examples=n))

        splits = pathfinder.load(data_dir, generator)
        splits = _with_further(splits, further, selection_examples, more_test_examples)
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
        UserError: the task is unknown, a size is out of range, or its data cannot be prepared or read.
    """
    mapping("options", options, "with the task and its options")
    options = dict(options)
    name = options.pop("task", None)
    if not isinstance(name, str) or name not in TASKS:
        raise UserError(f"unknown task {name!r}: expected one of {sorted(TASKS)}")
    if options.get("folder") == synthetic.FOLDER:
        options["folder"] = str(synthetic.prepare(name, Path(data_dir) / "synthetic"))
    return TASKS[name](data_dir, **options)
