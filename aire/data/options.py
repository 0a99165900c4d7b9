"""The options of each task, a config's section `data`: their rules, and what they say about the data beforehand."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from aire.data import aan, cifar10, fashion_mnist, imdb, listops, mnist, pathfinder, speech_commands
from aire.data.contours import DESIGNS
from aire.data.formats import pixels
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
        generated: bytes of the data that are generated and written once; 0 if none are.
    """

    length: int
    d_input: int
    n_classes: int
    tokens: bool = False
    retrieval: bool = False
    train_examples: int | None = None
    generated: int = 0


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
    own = {field.name for field in dataclasses.fields(listops.Generated)} & options.keys()
    source = listops.Generated(**{name: options[name] for name in own})
    form = Form(options["length"], listops.VOCAB_SIZE, listops.N_CLASSES, tokens=True)
    if options["lra_release"]:
        return form
    written = sum(source.sizes().values()) * source.max_length
    return dataclasses.replace(form, train_examples=source.train_examples, generated=written)


def _pathfinder(options: Options) -> Form:
    own = {field.name for field in dataclasses.fields(pathfinder.Generated)} & options.keys()
    source = pathfinder.Generated(**{name: options[name] for name in own})
    form = Form(source.side**2, 1, pathfinder.N_CLASSES)
    if options["lra_release"]:
        return form
    written = sum(source.sizes().values()) * source.side**2
    return dataclasses.replace(form, train_examples=source.train_examples, generated=written)


def _images(side: int, options: Options, features: int = 1) -> Form:
    sequences = pixels.Sequences(side, options["pool"])
    return Form((side // sequences.pool) ** 2, features, pixels.N_CLASSES)


_FOLDER: dict[str, Rule] = {"folder": text()}
_IMAGES = _FOLDER | {"pool": integer(1, 64)}

_TASKS: dict[str, tuple[Mapping[str, Rule], Callable[[Options], Form]]] = {
    "aan": (
        _FOLDER | {"length": integer(2, aan.MAX_LENGTH)},
        lambda o: Form(o["length"], aan.VOCAB_SIZE, aan.N_CLASSES, tokens=True, retrieval=True),
    ),
    "cifar10": (
        _IMAGES | {"grey": boolean()},
        lambda o: _images(cifar10.SIDE, o, features=1 if o["grey"] else 3),
    ),
    "fashion_mnist": (_IMAGES, lambda o: _images(fashion_mnist.SIDE, o)),
    "imdb": (
        _FOLDER | {"length": integer(2, imdb.MAX_LENGTH), "validate_on_test": boolean()},
        lambda o: Form(o["length"], imdb.VOCAB_SIZE, len(imdb.CLASSES), tokens=True),
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
        lambda o: Form(-(-speech_commands.LENGTH // o["sample_every"]), 1, len(speech_commands.WORDS)),
    ),
}
