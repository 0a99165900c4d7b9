"""LRA Retrieval: does one paper cite the other? The ACL Anthology Network (Radev et al. 2013) by characters (Tay et al.
2021, arXiv 2011.04006).

The Long Range Arena released pairs of papers as new_aan_pairs.train.tsv, .eval.tsv and .test.tsv (147,086, 18,090 and
17,437 pairs): label, two ids and two texts, tab-separated. A text is written as a literal of Python's bytes, such as
b'caf\\xc3\\xa9\\n'. The references do not evaluate it: they read the literal itself, its first 3,999 characters, from
b' on, case kept. The 95 printable characters of ASCII, padding, unknown and end make 98 tokens.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.characters import Vocabulary, check_length, ended
from aire.data.formats.preparation import SPLITS, PreparedOnce
from aire.data.pipeline import Split, pad
from aire.utils.errors import UserError
from aire.utils.files import reading

TITLE = "AAN"
N_CLASSES = 2
MAX_LENGTH = 4000  # of the task, the end token included
VOCAB_SIZE = 98

_STEMS = dict(zip(SPLITS, ("train", "eval", "test"), strict=True))
_BELOW = (".", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data")  # where the files may lie
_HOW_TO_GET = (
    f"needed: {', '.join(f'new_aan_pairs.{stem}.tsv' for stem in _STEMS.values())}, the folder tsv_data of the Long "
    "Range Arena's release; get lra_release.gz (7.7 GB, a tar archive) from "
    "https://storage.googleapis.com/long-range-arena/lra_release.gz, unpack it with tar -xzf, and name its folder with "
    "--config.data.folder=FOLDER"
)

Row = tuple[int, str, str]  # label and two texts
Example = tuple[np.ndarray, np.ndarray, int]  # tokens of two texts without the end token, (L,) uint8, and the label


@dataclasses.dataclass(frozen=True)
class Release:
    """The pairs of the Long Range Arena's release.

    Attributes:
        folder: holds the three files, or is the unpacked release.
    Raises:
        UserError: (by its methods) no folder, a file is missing or damaged; file and line are named.
    """

    folder: str | Path

    def config_name(self) -> str:
        """Names the files by size and time, for they are gigabytes: changed files are not taken for old ones."""
        stats = ((path.name, path.stat()) for path in self._files.values())
        seen = [f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats]
        return f"release_{hashlib.sha256(''.join(seen).encode()).hexdigest()[:16]}"

    def sizes(self) -> dict[str, int]:
        return self._survey[0]

    def splits(self) -> dict[str, Iterator[Example]]:
        return {name: self._examples(path) for name, path in self._files.items()}

    @cached_property
    def _files(self) -> dict[str, Path]:
        if not self.folder:
            raise UserError(f"{TITLE}: no folder given; {_HOW_TO_GET}")
        names = {split: f"new_aan_pairs.{stem}.tsv" for split, stem in _STEMS.items()}
        folder = next((f for f in (Path(self.folder, b) for b in _BELOW) if (f / names["train"]).is_file()), None)
        paths = {split: (folder or Path(self.folder)) / name for split, name in names.items()}
        if missing := [path.name for path in paths.values() if not path.is_file()]:
            raise UserError(f"{folder or self.folder}: no {', '.join(missing)} there; {_HOW_TO_GET}")
        return paths

    @cached_property
    def _survey(self) -> tuple[dict[str, int], Vocabulary]:
        """Number of pairs of each split, and the training texts' vocabulary: a first pass over the files."""
        print(f"{TITLE}: counting pairs and characters in {self._files['train'].parent}", flush=True)
        counts: Counter[str] = Counter()
        sizes = dict.fromkeys(self._files, 0)
        for split, path in self._files.items():
            for _, *texts in read_tsv(path):
                sizes[split] += 1
                for text in texts if split == "train" else ():
                    counts.update(text)
        return sizes, Vocabulary.of(counts, least=1, most=VOCAB_SIZE, title=TITLE)

    def _examples(self, path: Path) -> Iterator[Example]:
        _, vocabulary = self._survey
        for label, first, second in read_tsv(path):
            yield vocabulary.encode(first), vocabulary.encode(second), label


def read_tsv(path: Path) -> Iterator[Row]:
    """The pairs of a file, of each text what the task reads of it.

    Raises:
        UserError: the file cannot be read or has no pairs, or a row is not a label, two ids and two literals.
    """
    number = 0
    with reading(path), open(path, encoding="utf-8", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                yield _parse_row(line.rstrip("\r\n").split("\t"), f"{path}, line {number}")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, after line {number}: not UTF-8 ({error}); {_HOW_TO_GET}") from error
    if not number:
        raise UserError(f"{path}: no pairs in it; {_HOW_TO_GET}")


def _parse_row(row: list[str], where: str) -> Row:
    if len(row) != 5:
        raise UserError(
            f"{where}: expected 5 tab-separated columns (label, two ids, two texts), found {len(row)}; {_HOW_TO_GET}"
        )
    label, _, _, *texts = row
    if label not in ("0", "1", "0.0", "1.0"):
        raise UserError(f"{where}: label {label[:40]!r}; expected 0.0 or 1.0")
    for text in texts:
        if text[:2] not in ("b'", 'b"') or len(text) < 3 or text[-1] != text[1]:
            raise UserError(
                f"{where}: text {text[:20]!r}…{text[-20:]!r} is not a literal of Python's bytes, b'…'; is the file "
                f"truncated? {_HOW_TO_GET}"
            )
    first, second = (text[: MAX_LENGTH - 1] for text in texts)
    return int(float(label)), first, second


class Aan(PreparedOnce):
    """Stores `tokens1` and `tokens2`, (L,) uint8 without the end token, and `label`, 1 where one cites the other."""

    TITLE = TITLE
    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same files would give other data

    def _info(self) -> tfds.core.DatasetInfo:
        # As bytes: TFDS otherwise widens each token to an int64, which reads back more slowly.
        tokens = tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes")
        features = {"tokens1": tokens, "tokens2": tokens, "label": tfds.features.ClassLabel(num_classes=N_CLASSES)}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pairs of papers by characters: does one cite the other?",
            homepage="https://github.com/google-research/long-range-arena",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order of the files
        )

    def encode(self, example: Example) -> dict:
        return dict(zip(("tokens1", "tokens2", "label"), example, strict=True))


def load(data_dir: str | Path, release: Release, *, length: int = MAX_LENGTH, **examples: int) -> dict[str, Split]:
    """The splits "train", "validation" and "test", tokens (n, 2, length); prepared in `data_dir` if need be.

    Args:
        data_dir: folder of prepared datasets; what is kept there depends on the release alone.
        release: where the pairs come from.
        length: of the sequences; longer texts are cut, and all end with the end token.
        examples: train_examples, validation_examples, test_examples: at most this many, the first ones; 0: all.
    Raises:
        UserError: a bad length or number of examples; the files cannot be had; `data_dir` cannot be written; what was
            prepared there is damaged.
    """
    check_length(length, MAX_LENGTH, TITLE)
    prepared = preparation.load(Aan, data_dir, release, **examples)
    return {name: _as_split(prepared.pop(name), length, name) for name in SPLITS}


def _as_split(examples: list[dict], length: int, name: str) -> Split:
    texts = [ended(e[key], length) for e in examples for key in ("tokens1", "tokens2")]
    labels = np.array([e["label"] for e in examples], np.int32)
    flat = pad(texts, np.repeat(labels, 2), length, name=name)
    return Split(flat.x.reshape(-1, 2, length), flat.lengths.reshape(-1, 2), labels)
