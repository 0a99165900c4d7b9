"""ListOps of the Long Range Arena (Tay et al. 2021, arXiv 2011.04006; first Nangia & Bowman 2018, arXiv 1804.06028).

A sequence is a nested expression such as `[MAX 4 [MED 1 2 3 ] 0 ]`, and its class is its value, 0 to 9. Examples are
generated from a seed or read from the files released by the Long Range Arena. In both cases a TFDS builder writes them
once, and later runs read the prepared data.
"""

import csv
import dataclasses
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.preparation import SPLITS, OneSplit, PreparedOnce, compact
from aire.data.pipeline import Split, pad
from aire.utils import digests
from aire.utils.errors import MissingFileError, UserError
from aire.utils.files import reading

VOCABULARY = ("<pad>", "<unk>", "<eos>", "]", *"0123456789", "[MAX", "[MED", "[MIN", "[SM")
VOCAB_SIZE = 20  # width of the one-hot inputs, as in the S5 reference; 18 are used
N_CLASSES = 10
MAX_LENGTH = 2048  # of the task, including <eos>

Example = tuple[bytes, int]  # the expression as indices into VOCABULARY, without <eos>, and its value

_INDEX = {token: index for index, token in enumerate(VOCABULARY)}
_EOS, _CLOSE, _ZERO, _FIRST_OPERATOR = (_INDEX[token] for token in ("<eos>", "]", "0", "[MAX"))
_EXPRESSION_TOKENS = {token: index for token, index in _INDEX.items() if not token.startswith("<")}


# Generating --------------------------------------------------------------------------------------------------------


def _median(values: list[int]) -> int:
    """Return the median, rounded down."""
    ordered, n = sorted(values), len(values)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) // 2


_OPERATORS = (max, _median, min, lambda values: sum(values) % 10)  # in the order of the vocabulary
_OPERATOR_PROBABILITY = 0.25
_MAX_FAILURES = 1_000_000  # consecutive draws without a new example; in the full task one in 12 draws succeeds


class _TooLong(Exception):
    pass


@dataclasses.dataclass(frozen=True)
class Generated:
    """Examples from the Long Range Arena's grammar. The defaults are those of its task.

    Attributes:
        min_length, max_length: exclusive limits on the number of tokens of an expression, including `]` but not <eos>.
        max_depth: of nesting. A single digit has depth 1.
        max_args: an operator has 2 to this many arguments, all equally likely.
        train_examples, validation_examples, test_examples: sizes of the splits. All expressions are distinct.
        seed: of the draws. Validation and test are drawn first, so they do not depend on the size of train.
    Raises:
        UserError: a value is out of range.
    """

    min_length: int = 500
    max_length: int = 2000
    max_depth: int = 10
    max_args: int = 10
    train_examples: int = 96_000
    validation_examples: int = 2_000
    test_examples: int = 2_000
    seed: int = 0

    def __post_init__(self):
        minimum = {name: 1 for name in ("max_depth", "train_examples", "validation_examples", "test_examples")}
        minimum |= {"min_length": 0, "max_length": self.min_length + 2, "max_args": 2, "seed": 0}
        for name, value in minimum.items():
            if getattr(self, name) < value:
                raise UserError(f"ListOps: {name}={getattr(self, name)}: expected at least {value}")

    def config_name(self) -> str:
        """Name every option, because different options give different data."""
        sizes = "-".join(str(self.sizes()[name]) for name in SPLITS)
        return f"generated_{self._shape()}_n{sizes}_seed{self.seed}"

    def _shape(self) -> str:
        return f"len{self.min_length}-{self.max_length}_depth{self.max_depth}_args{self.max_args}"

    def sizes(self) -> dict[str, int]:
        return dict(zip(SPLITS, (self.train_examples, self.validation_examples, self.test_examples), strict=True))

    def splits(self) -> dict[str, Iterator[Example]]:
        """Return the splits. Read them in the order of the dict, because they share one stream."""
        stream = self._stream(Random(self.seed))
        return {name: islice(stream, self.sizes()[name]) for name in ("test", "validation", "train")}

    def _stream(self, random: Random) -> Iterator[Example]:
        """Yield distinct examples forever. Raise UserError if the options allow too few."""
        seen, failures = set(), 0
        while failures < _MAX_FAILURES:
            example = self.draw(random)
            if example is None or example[0] in seen:
                failures += 1
                continue
            seen.add(example[0])
            failures = 0
            yield example
        raise UserError(
            f"ListOps: {self}: only {len(seen)} different expressions found, none in the last {_MAX_FAILURES:,} draws; "
            "allow more lengths or depth, or request fewer examples"
        )

    def draw(self, random: Random) -> Example | None:
        """Draw an expression and evaluate it. Return None if its length is out of range."""
        draw = random.random  # only this method, because Python guarantees that its numbers never change
        tokens = bytearray()

        def node(depth: int) -> int:
            if depth == self.max_depth or draw() >= _OPERATOR_PROBABILITY:
                digit = int(draw() * 10)
                tokens.append(_ZERO + digit)
                return digit
            if len(tokens) >= self.max_length:
                raise _TooLong
            n_args = 2 + int(draw() * (self.max_args - 1))
            operator = int(draw() * len(_OPERATORS))
            tokens.append(_FIRST_OPERATOR + operator)
            values = [node(depth + 1) for _ in range(n_args)]
            tokens.append(_CLOSE)
            return _OPERATORS[operator](values)

        try:
            value = node(1)
        except _TooLong:
            return None
        return (bytes(tokens), value) if self.min_length < len(tokens) < self.max_length else None


@dataclasses.dataclass(frozen=True)
class Further(OneSplit, Generated):
    """One split of further examples, prepared apart from the others, which do not change.

    Each split has a stream of its own. Expressions as long as the task's do not repeat by chance those of other splits.
    """

    def config_name(self) -> str:
        return f"generated_{self._shape()}_{self.split}{self.examples}_seed{self.seed}"

    def splits(self) -> dict[str, Iterator[Example]]:
        return {self.split: islice(self._stream(Random(f"{self.seed} {self.split}")), self.examples)}


# Reading the release -----------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Release:
    """The examples in basic_train.tsv, basic_val.tsv and basic_test.tsv of the Long Range Arena's release.

    Raises:
        UserError: (from methods) a file is missing or damaged. The message names file and line.
    """

    folder: str | Path

    def config_name(self) -> str:
        """Identify the content of the files, so that changed files are prepared again."""
        of_files = b"".join(bytes.fromhex(digests.of_file(path)) for path in self._files().values())
        return f"release_{digests.of_bytes(of_files)[:16]}"

    def sizes(self) -> dict[str, int]:
        return {name: _count_rows(path) for name, path in self._files().items()}

    def splits(self) -> dict[str, Iterator[Example]]:
        return {name: read_tsv(path) for name, path in self._files().items()}

    def _files(self) -> dict[str, Path]:
        folder = Path(self.folder)
        files = {
            name: folder / f"basic_{stem}.tsv" for name, stem in zip(SPLITS, ("train", "val", "test"), strict=True)
        }
        missing = [path.name for path in files.values() if not path.is_file()]
        if missing:
            raise MissingFileError(
                f"{folder}: missing {', '.join(missing)}; expected the folder listops-1000 of the Long Range Arena's "
                "release: the archive lra_release.gz that github.com/google-research/long-range-arena links to"
            )
        return files


def read_tsv(path: Path) -> Iterator[Example]:
    """Yield the examples of a tab-separated file with columns Source and Target, as written by Python's csv module.

    Raises:
        UserError: the file cannot be read, or a row is not an expression and a digit. The message names file and line.
    """
    with reading(path), open(path, newline="", encoding="ascii", errors="replace") as file:
        rows = csv.reader(file, delimiter="\t")
        try:
            if (header := next(rows, None)) != ["Source", "Target"]:
                raise UserError(f"{path}, line 1: expected the header Source, Target; found {str(header)[:80]}")
            for row in rows:
                yield _parse_row(row, f"{path}, line {rows.line_num}")
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: {error}; get the file again") from error


def _parse_row(row: list[str], where: str) -> Example:
    """Return the expression of a row, without parentheses, and its value. `where` is used in error messages."""
    if len(row) != 2:
        raise UserError(f"{where}: expected 2 tab-separated columns, found {len(row)}; is the file truncated?")
    source, target = row
    try:
        tokens = bytes(map(_EXPRESSION_TOKENS.__getitem__, source.translate({ord("("): None, ord(")"): None}).split()))
    except KeyError as error:
        vocabulary = " ".join(_EXPRESSION_TOKENS)
        raise UserError(f"{where}: token {error.args[0][:40]!r} is not in the vocabulary: {vocabulary}") from None
    if len(tokens) + 1 > MAX_LENGTH:
        raise UserError(f"{where}: {len(tokens) + 1} tokens with <eos>, but the task's maximum is {MAX_LENGTH}")
    if not _is_expression(np.frombuffer(tokens, np.uint8)):
        raise UserError(f"{where}: the brackets do not form one complete expression; is the file truncated?")
    if target not in set("0123456789"):
        raise UserError(f"{where}: target {target[:40]!r}; expected a digit, 0 to 9")
    return tokens, int(target)


def _is_expression(tokens: np.ndarray) -> bool:
    """Return whether the brackets balance, and not before the end. tokens: (L,) uint8."""
    depth = np.cumsum((tokens >= _FIRST_OPERATOR).astype(int) - (tokens == _CLOSE))
    return depth.size > 0 and depth[-1] == 0 and bool(np.all(depth[:-1] > 0))


def _count_rows(path: Path) -> int:
    """Count the rows below the header. Raise UserError if there are none or the last line is incomplete."""
    lines, last = 0, b""
    with reading(path), open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            lines, last = lines + chunk.count(b"\n"), chunk
    if not last.endswith(b"\n"):
        raise UserError(f"{path}, line {lines + 1}: the file ends within this line; it is truncated, get it again")
    if lines < 2:
        raise UserError(f"{path}, line 2: no examples; the file is truncated, get it again")
    return lines - 1


# Preparing and loading -----------------------------------------------------------------------------------------------


class ListOps(PreparedOnce):
    """Store `tokens` (L,) uint8, indices into VOCABULARY that end with <eos>, and `label`."""

    TITLE = "ListOps"
    DESCRIPTION = "ListOps of the Long Range Arena: evaluate a nested expression of digits."
    HOMEPAGE = "https://github.com/google-research/long-range-arena"

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"tokens": compact((None,)), "label": tfds.features.ClassLabel(num_classes=N_CLASSES)}

    def encode(self, example: Example) -> dict:
        tokens, label = example
        return {"tokens": np.frombuffer(tokens + bytes([_EOS]), np.uint8), "label": label}


def load(data_dir: str | Path, source: Generated | Release, *, length: int) -> dict[str, Split]:
    """Load the splits "train", "validation" and "test", padded to `length`. Prepare them on the first call.

    Raises:
        UserError: a sequence with its <eos> is longer than `length`; the release's files are missing or damaged;
            `data_dir` cannot be written; the prepared data is damaged.
    """
    if isinstance(source, Generated) and source.max_length > length:  # check before generating for minutes
        raise UserError(
            f"ListOps: max_length={source.max_length} does not fit length {length}: sequences would have up to "
            f"{source.max_length} tokens with <eos>; raise the length or lower max_length"
        )
    return {
        name: _pad(examples, length, name) for name, examples in preparation.load(ListOps, data_dir, source).items()
    }


def load_further(data_dir: str | Path, source: Further, *, length: int) -> Split:
    """Load further examples, padded to `length`. Prepare them in `data_dir` on the first call."""
    return _pad(preparation.load_split(ListOps, data_dir, source, source.split), length, source.split)


def _pad(examples: list[dict], length: int, name: str) -> Split:
    return pad([e["tokens"] for e in examples], [e["label"] for e in examples], length, name=name)
