"""LRA Retrieval (AAN): decide from their characters whether one paper cites another.

The papers are from the ACL Anthology Network (Radev et al. 2013); the task is from Tay et al. 2021, arXiv 2011.04006.
The Long Range Arena released new_aan_pairs.train.tsv, .eval.tsv and .test.tsv with 147,086, 18,090 and 17,437 pairs.
The tab-separated columns are label, two ids and two texts.

A text is written as a Python bytes literal, such as b'caf\\xc3\\xa9\\n'. As in the references, the literal is not
evaluated: the input is its first 3,999 characters, including the b', with case preserved. The 95 printable ASCII
characters, padding, unknown and end of sequence make 98 tokens.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.characters import Vocabulary, append_eos, check_length
from aire.data.formats.preparation import SPLITS, PreparedOnce, compact
from aire.data.pipeline import Split, pad
from aire.utils import digests
from aire.utils.errors import MissingFileError, UserError
from aire.utils.files import reading

TITLE = "AAN"
N_CLASSES = 2
MAX_LENGTH = 4000  # of the task, including the end token
VOCAB_SIZE = 98

_STEMS = dict(zip(SPLITS, ("train", "eval", "test"), strict=True))
_SUBFOLDERS = (".", "tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data")  # searched in this order
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
    """The pairs from the Long Range Arena's release.

    Attributes:
        folder: the folder with the three files, or the unpacked release.
    Raises:
        UserError: (from methods) no folder is given, or a file is missing or damaged. The message names file and line.
    """

    folder: str | Path

    def config_name(self) -> str:
        """Identify the files by size and modification time, because they are too large to hash."""
        stats = ((path.name, path.stat()) for path in self._files.values())
        lines = [f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats]
        return f"release_{digests.of_text(''.join(lines))[:16]}"

    def sizes(self) -> dict[str, int]:
        return self._survey[0]

    def splits(self) -> dict[str, Iterator[Example]]:
        return {name: self._examples(path) for name, path in self._files.items()}

    @cached_property
    def _files(self) -> dict[str, Path]:
        if not self.folder:
            raise UserError(f"{TITLE}: no folder given; {_HOW_TO_GET}")
        names = {split: f"new_aan_pairs.{stem}.tsv" for split, stem in _STEMS.items()}
        candidates = (Path(self.folder, subfolder) for subfolder in _SUBFOLDERS)
        folder = next((f for f in candidates if (f / names["train"]).is_file()), None)
        paths = {split: (folder or Path(self.folder)) / name for split, name in names.items()}
        if missing := [path.name for path in paths.values() if not path.is_file()]:
            raise MissingFileError(f"{folder or self.folder}: missing {', '.join(missing)}; {_HOW_TO_GET}")
        return paths

    @cached_property
    def _survey(self) -> tuple[dict[str, int], Vocabulary]:
        """Count the pairs of each split and build the vocabulary of the training texts, in a first pass."""
        print(f"{TITLE}: counting pairs and characters in {self._files['train'].parent}", flush=True)
        counts: Counter[str] = Counter()
        sizes = dict.fromkeys(self._files, 0)
        for split, path in self._files.items():
            for _, *texts in read_tsv(path):
                sizes[split] += 1
                for text in texts if split == "train" else ():
                    counts.update(text)
        return sizes, Vocabulary.from_counts(counts, min_count=1, max_tokens=VOCAB_SIZE, title=TITLE)

    def _examples(self, path: Path) -> Iterator[Example]:
        _, vocabulary = self._survey
        for label, first, second in read_tsv(path):
            yield vocabulary.encode(first), vocabulary.encode(second), label


def read_tsv(path: Path) -> Iterator[Row]:
    """Yield the pairs of a file, with texts cut to the task's length.

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
        raise UserError(f"{path}: the file has no pairs; {_HOW_TO_GET}")


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
                f"{where}: text {text[:20]!r}…{text[-20:]!r} is not a Python bytes literal, b'…'; is the file "
                f"truncated? {_HOW_TO_GET}"
            )
    first, second = (text[: MAX_LENGTH - 1] for text in texts)
    return int(float(label)), first, second


class Aan(PreparedOnce):
    """Store `tokens1` and `tokens2`, (L,) uint8 without the end token, and `label`, 1 if one cites the other."""

    TITLE = TITLE
    DESCRIPTION = "Pairs of papers by characters: does one cite the other?"
    HOMEPAGE = "https://github.com/google-research/long-range-arena"

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        label = tfds.features.ClassLabel(num_classes=N_CLASSES)
        return {"tokens1": compact((None,)), "tokens2": compact((None,)), "label": label}


def load(data_dir: str | Path, release: Release, *, length: int = MAX_LENGTH, **examples: int) -> dict[str, Split]:
    """Load the splits "train", "validation" and "test" with tokens (n, 2, length). Prepare them on the first call.

    Args:
        data_dir: folder of prepared datasets. They do not depend on the options below.
        release: the source of the pairs.
        length: of the sequences. Longer texts are cut; all end with the end token.
        examples: train_examples, validation_examples, test_examples: use only the first so many; 0 means all.
    Raises:
        UserError: a bad length or number of examples; missing or damaged files; `data_dir` cannot be written; the
            prepared data is damaged.
    """
    check_length(length, MAX_LENGTH, TITLE)
    prepared = preparation.load(Aan, data_dir, release, **examples)
    return {name: _to_split(prepared.pop(name), length, name) for name in SPLITS}


def _to_split(examples: list[dict], length: int, name: str) -> Split:
    texts = [append_eos(e[key], length) for e in examples for key in ("tokens1", "tokens2")]
    labels = np.array([e["label"] for e in examples], np.int32)
    flat = pad(texts, np.repeat(labels, 2), length, name=name)
    return Split(flat.x.reshape(-1, 2, length), flat.lengths.reshape(-1, 2), labels)
