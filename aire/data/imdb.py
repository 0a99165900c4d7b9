"""LRA Text: is a film review positive? IMDB's reviews (Maas et al. 2011) by characters (Tay et al. 2021, 2011.04006).

The archive holds 25,000 reviews for training, as many for testing, half of each positive, and 50,000 without labels,
which are left out. Characters are UTF-8 code points, case kept, a review's first 4,095; the vocabulary is what occurs
at least 15 times in the training reviews: 131 characters, with padding, unknown and end 134 tokens. The references
make the inputs 135 wide, so one of them is always zero.

There is no validation split, and the references validate on test. Here the last tenth of each class in training, by
the reviews' numbers, goes into one: reviews of a film stand together, so that two thirds of these are of films which
the training reviews do not know, as all of test's are. The vocabulary counts them as training reviews.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.archives import Archive, Files
from aire.data.formats.characters import Vocabulary, check_length, ended
from aire.data.formats.preparation import PreparedOnce
from aire.data.pipeline import Split, pad
from aire.utils.errors import UserError

CLASSES = ("neg", "pos")
MAX_LENGTH = 4096  # of the task, the end token included
VOCAB_SIZE = 135  # width of the one-hot inputs, as in the references; 134 of them are used
LEAST_COUNT = 15
VALIDATION_SHARE = 10  # one review in this many

ARCHIVE = Archive(
    title="IMDB",
    url="http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    sha256="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",  # as in TensorFlow Datasets
    size=84_125_825,
    root="aclImdb",
    pattern=r"(train|test)/(neg|pos)/\d+_\d+\.txt",
)

Example = tuple[np.ndarray, int]  # tokens (L,) uint8 without the end token, and the class


@dataclasses.dataclass(frozen=True)
class Reviews:
    """The labelled reviews of the archive, by number, the classes in turn.

    Raises:
        UserError: (by its methods) the archive cannot be had or is damaged, a review is not UTF-8, too few reviews of
            a class, or more characters than the vocabulary has place for.
    """

    files: Files

    def config_name(self) -> str:
        return self.files.config_name()

    def sizes(self) -> dict[str, int]:
        return {name: len(examples) for name, examples in self._examples.items()}

    def splits(self) -> dict[str, Iterable[Example]]:
        return self._examples

    @cached_property
    def _examples(self) -> dict[str, list[Example]]:
        train, test = (self._reviews(name, least) for name, least in (("train", VALIDATION_SHARE), ("test", 1)))
        vocabulary = self._vocabulary(text for texts in train for _, text in texts)
        held_out = [len(texts) // VALIDATION_SHARE for texts in train]
        parts = {
            "train": [texts[:-n] for texts, n in zip(train, held_out, strict=True)],
            "validation": [texts[-n:] for texts, n in zip(train, held_out, strict=True)],
            "test": test,
        }
        return {name: _encode(part, vocabulary) for name, part in parts.items()}

    def _reviews(self, split: str, least: int) -> list[list[tuple[int, str]]]:
        """Number and text of the reviews of each class, by number; at least `least` of each."""
        found = [sorted(self._texts.get(f"{split}/{name}", [])) for name in CLASSES]
        for name, texts in zip(CLASSES, found, strict=True):
            if len(texts) < least:
                raise UserError(
                    f"{ARCHIVE.title}: {len(texts)} reviews in {split}/{name}; expected at least {least}; "
                    f"{ARCHIVE.how_to_get}"
                )
        return found

    @cached_property
    def _texts(self) -> dict[str, list[tuple[int, str]]]:
        """Number and text of all reviews by folder, in any order; only what the task reads of a text."""
        texts: dict[str, list[tuple[int, str]]] = {}
        for name, content in self.files.members():
            folder, number = re.fullmatch(r"(.*)/(\d+)_\d+\.txt", name).groups()
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{ARCHIVE.title}: {name} is not UTF-8 ({error}); {ARCHIVE.how_to_get}") from error
            texts.setdefault(folder, []).append((int(number), text[: MAX_LENGTH - 1]))
        return texts

    def _vocabulary(self, texts: Iterable[str]) -> Vocabulary:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return Vocabulary.of(counts, least=LEAST_COUNT, most=VOCAB_SIZE, title=ARCHIVE.title)


def _encode(classes: list[list[tuple[int, str]]], vocabulary: Vocabulary) -> list[Example]:
    """By number, the classes in turn, so that the first ones are of both."""
    labelled = sorted((number, label, text) for label, texts in enumerate(classes) for number, text in texts)
    return [(vocabulary.encode(text), label) for _, label, text in labelled]


class Imdb(PreparedOnce):
    """Stores `tokens` (L,) uint8, without the end token, and `label`."""

    TITLE = ARCHIVE.title
    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same files would give other data

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            # As bytes: TFDS otherwise widens each token to an int64, which reads back more slowly.
            "tokens": tfds.features.Tensor(shape=(None,), dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Film reviews by characters: positive or negative.",
            homepage="https://ai.stanford.edu/~amaas/data/sentiment/",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # both classes in turn already
        )

    def encode(self, example: Example) -> dict:
        return dict(zip(("tokens", "label"), example, strict=True))


def load(
    data_dir: str | Path, reviews: Reviews, *, length: int = MAX_LENGTH, validate_on_test: bool = False, **examples: int
) -> dict[str, Split]:
    """The splits "train", "validation" and "test", tokens (n, length); prepared in `data_dir` if need be.

    Args:
        data_dir: folder of prepared datasets; what is kept there depends on the reviews alone.
        reviews: where they come from.
        length: of the sequences; longer texts are cut, and all end with the end token.
        validate_on_test: as the references do: train on all training reviews, and "validation" is "test".
        examples: train_examples, validation_examples, test_examples: at most this many, the first ones; 0: all.
    Raises:
        UserError: a bad length or number of examples; the archive cannot be had; `data_dir` cannot be written; what
            was prepared there is damaged.
    """
    check_length(length, MAX_LENGTH, ARCHIVE.title)
    prepared = preparation.load(Imdb, data_dir, reviews, **examples)
    if validate_on_test:
        prepared["train"] += prepared["validation"]
        prepared["validation"] = prepared["test"]
    return {
        name: pad([ended(e["tokens"], length) for e in split], [e["label"] for e in split], length, name=name)
        for name, split in prepared.items()
    }
