"""The options of each task, a config's section `data`: their rules, and what they say about the data beforehand."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aire.data import aan, cifar10, fashion_mnist, imdb, listops, mnist, pathfinder, speech_commands
from aire.data.contours import DESIGNS
from aire.data.formats import pixels
from aire.data.formats.archives import Archive
from aire.data.formats.preparation import PreparedOnce, Source
from aire.utils.checks import Rule, boolean, choice, compare, integer, text
from aire.utils.errors import UserError

Options = Mapping[str, Any]

_SIZE = integer(0, 10**9)  # of any option whose name ends with `_examples`
_SIZE_NAME = "_examples"
_GENERATED: dict[str, Rule] = {
    "seed": integer(0, 2**63 - 1),
    "lra_release": text(),
    "selection_examples": integer(1, 10**9),
    "more_test_examples": _SIZE,
}


@dataclasses.dataclass(frozen=True)
class Form:
    """The form of a task's data, as its options say.

    Attributes:
        length: the largest number of steps.
        d_input: features per step, or size of the vocabulary.
        n_classes: number of classes.
        tokens: whether the inputs are tokens.
        retrieval: whether an example is a pair of documents.
        train_examples: size of the training split; None if only the data says it.
        files: what is written once to the folder of the data, by path in it, and about how many bytes.
    """

    length: int
    d_input: int
    n_classes: int
    tokens: bool = False
    retrieval: bool = False
    train_examples: int | None = None
    files: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def missing_bytes(self, data_dir: Path) -> int:
        """Return about how many bytes will be written to the folder of the data, where some may be already."""
        return sum(size for path, size in self.files.items() if not (data_dir / path).exists())


def describe(options: Options) -> Form:
    """Check the options of a task and return the form of its data. Nothing is read.

    Raises:
        UserError: one line for each mistake: an unknown task, a missing or unknown option, a wrong value.
    """
    name = options.get("task")
    if not isinstance(name, str) or name not in _TASKS:
        raise UserError(f"task={name!r}: expected one of {sorted(_TASKS)}")
    rules, form = _TASKS[name]
    given = {key: value for key, value in options.items() if key != "task"}
    wrong = [f"{key}: the task {name!r} has no such option" for key in given if key not in rules and not _is_size(key)]
    wrong += [f"{key} is missing, an option of the task {name!r}" for key in rules if key not in given]
    wrong += compare(given, {key: _SIZE for key in given if _is_size(key)} | dict(rules))
    if wrong:
        raise UserError("\n".join(wrong))
    return form(given)


def _is_size(name: str) -> bool:
    return name.endswith(_SIZE_NAME)


def _listops(options: Options) -> Form:
    own = _own(options, listops.Generated)
    source = listops.Generated(**own)
    form = Form(options["length"], listops.VOCAB_SIZE, listops.N_CLASSES, tokens=True)
    if options["lra_release"]:
        return form
    further = [listops.Further(**own, split=split, examples=n) for split, n in _further(options)]
    files = _generated(listops.ListOps, [source, *further], source.max_length)
    return dataclasses.replace(form, train_examples=source.train_examples, files=files)


def _pathfinder(options: Options) -> Form:
    own = _own(options, pathfinder.Generated)
    source = pathfinder.Generated(**own)
    form = Form(source.side**2, 1, pathfinder.N_CLASSES)
    if options["lra_release"]:
        return form
    further = [pathfinder.Further(**own, split=split, examples=n) for split, n in _further(options)]
    files = _generated(pathfinder.Pathfinder, [source, *further], source.side**2)
    return dataclasses.replace(form, train_examples=source.train_examples, files=files)


def _own(options: Options, source: type) -> dict[str, Any]:
    """The options that are fields of a source."""
    return {name: options[name] for name in {f.name for f in dataclasses.fields(source)} & options.keys()}


def _further(options: Options) -> list[tuple[str, int]]:
    """The splits that are generated apart from the others, and their sizes."""
    sizes = {"selection": options["selection_examples"], "more_test": options["more_test_examples"]}
    return [(split, n) for split, n in sizes.items() if n]


def _generated(dataset: type[PreparedOnce], sources: Sequence[Source], example: int) -> dict[str, int]:
    """The folders of prepared sources, whose examples have up to so many bytes."""
    version = str(dataset.VERSION)
    return {f"{dataset.name}/{s.config_name()}/{version}": example * sum(s.sizes().values()) for s in sources}


def _download(archive: Archive, examples: int, options: Options) -> dict[str, int]:
    """A download, and so many bytes of prepared examples. Nothing if the user names a folder."""
    return {} if options["folder"] else {f"downloads/{archive.name}": archive.size + examples}


def _images(side: int, options: Options, features: int = 1, files: Mapping[str, int] | None = None) -> Form:
    sequences = pixels.Sequences(side, options["pool"])
    return Form((side // sequences.pool) ** 2, features, pixels.N_CLASSES, files=files or {})


_FOLDER: dict[str, Rule] = {"folder": text()}
_IMAGES = _FOLDER | {"pool": integer(1, 64)}

_TASKS: dict[str, tuple[Mapping[str, Rule], Callable[[Options], Form]]] = {
    "aan": (
        _FOLDER | {"length": integer(2, aan.MAX_LENGTH)},
        lambda o: Form(o["length"], aan.VOCAB_SIZE, aan.N_CLASSES, tokens=True, retrieval=True),
    ),
    "cifar10": (
        _IMAGES | {"grey": boolean()},
        lambda o: _images(cifar10.SIDE, o, 1 if o["grey"] else 3, _download(cifar10.BINARY, 60_000 * 3 * 32**2, o)),
    ),
    "fashion_mnist": (_IMAGES, lambda o: _images(fashion_mnist.SIDE, o)),
    "imdb": (
        _FOLDER | {"length": integer(2, imdb.MAX_LENGTH), "validate_on_test": boolean()},
        lambda o: Form(
            o["length"],
            imdb.VOCAB_SIZE,
            len(imdb.CLASSES),
            tokens=True,
            files=_download(imdb.ARCHIVE, 50_000 * 1_300, o),
        ),
    ),
    "listops": (
        _GENERATED
        | {"length": integer(2, 2**20), "min_length": integer(0, 2**20), "max_length": integer(2, 2**20)}
        | {"max_depth": integer(1, 100), "max_args": integer(2, 1000)},
        _listops,
    ),
    "mnist": (_IMAGES | {"permuted": boolean()}, lambda o: _images(mnist.SIDE, o)),
    "pathfinder": (_GENERATED | {"design": choice(DESIGNS)}, _pathfinder),
    "speech_commands": (
        _FOLDER | {"sample_every": integer(1, speech_commands.LENGTH)},
        lambda o: Form(
            -(-speech_commands.LENGTH // o["sample_every"]),
            1,
            len(speech_commands.WORDS),
            files=_download(speech_commands.ARCHIVE, 106_000 * 2 * speech_commands.LENGTH, o),
        ),
    ),
}
