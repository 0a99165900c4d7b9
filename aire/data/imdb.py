"""LRA Text: classify film reviews by their characters (Tay et al. 2021, arXiv 2011.04006).

The reviews are from IMDB (Maas et al. 2011). The archive has 25,000 training and 25,000 test reviews, half of each
positive. It also has 50,000 reviews without labels, which are not used. The input is the first 4,095 code points of a
review, with case preserved. The vocabulary is the 131 characters that occur at least 15 times in the training reviews;
with padding, unknown and end of sequence this makes 134 tokens. The references use inputs of width 135, so one input
is always zero.

There is no validation split, and the references validate on the test split. Here the last tenth of each training class
becomes the validation split. Reviews are numbered film by film, so two thirds of the validation reviews are about
films that are not in the training split, as are all test reviews. The vocabulary counts validation reviews as training
reviews.
"""

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.archives import Archive, ArchiveSource
from aire.data.formats.characters import Vocabulary, append_eos, check_length
from aire.data.formats.preparation import PreparedOnce, compact
from aire.data.pipeline import Split, pad
from aire.utils.errors import UserError

CLASSES = ("neg", "pos")
MAX_LENGTH = 4096  # of the task, including the end token
VOCAB_SIZE = 135  # width of the one-hot inputs, as in the references; 134 are used
MIN_COUNT = 15
VALIDATION_SHARE = 10  # one review in this many

ARCHIVE = Archive(
    title="IMDB",
    url="http://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
    sha256="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fde7008942e91923d1658fe",  # as in TensorFlow Datasets
    size=84_125_825,
    root="aclImdb",
    pattern=r"(train|test)/(neg|pos)/[0-9]{1,9}_[0-9]{1,9}\.txt",
)

Example = tuple[np.ndarray, int]  # tokens (L,) uint8 without the end token, and the class


class Reviews(ArchiveSource):
    """The labelled reviews of the archive, ordered by number, with alternating classes.

    Raises:
        UserError: (from methods) the archive is unavailable or damaged, a review is not UTF-8, a class has too few
            reviews, or there are too many characters for the vocabulary.
    """

    def read(self) -> dict[str, list[Example]]:
        train, test = (self._reviews(name, minimum) for name, minimum in (("train", VALIDATION_SHARE), ("test", 1)))
        vocabulary = self._vocabulary(text for texts in train for _, text in texts)
        held_out = [len(texts) // VALIDATION_SHARE for texts in train]
        parts = {
            "train": [texts[:-n] for texts, n in zip(train, held_out, strict=True)],
            "validation": [texts[-n:] for texts, n in zip(train, held_out, strict=True)],
            "test": test,
        }
        return {name: _encode(part, vocabulary) for name, part in parts.items()}

    def _reviews(self, split: str, minimum: int) -> list[list[tuple[int, str]]]:
        """Return (number, text) of the reviews of each class in order; raise if a class has fewer than `minimum`."""
        found = [sorted(self._texts.get(f"{split}/{name}", [])) for name in CLASSES]
        for name, texts in zip(CLASSES, found, strict=True):
            if len(texts) < minimum:
                raise UserError(
                    f"{ARCHIVE.title}: {len(texts)} reviews in {split}/{name}; expected at least {minimum}; "
                    f"{ARCHIVE.how_to_get}"
                )
        return found

    @cached_property
    def _texts(self) -> dict[str, list[tuple[int, str]]]:
        """Read (number, text) of all reviews by folder, unordered, with texts cut to the task's length."""
        texts: dict[str, list[tuple[int, str]]] = {}
        for name, content in self.files.members():
            folder, file = name.rsplit("/", 1)
            try:
                text = content.decode()
            except UnicodeDecodeError as error:
                raise UserError(f"{ARCHIVE.title}: {name} is not UTF-8 ({error}); {ARCHIVE.how_to_get}") from error
            texts.setdefault(folder, []).append((int(file.partition("_")[0]), text[: MAX_LENGTH - 1]))
        return texts

    def _vocabulary(self, texts: Iterable[str]) -> Vocabulary:
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        return Vocabulary.from_counts(counts, min_count=MIN_COUNT, max_tokens=VOCAB_SIZE, title=ARCHIVE.title)


def _encode(classes: list[list[tuple[int, str]]], vocabulary: Vocabulary) -> list[Example]:
    """Encode reviews in the order of their numbers. Classes alternate, so any first few examples include both."""
    labelled = sorted((number, label, text) for label, texts in enumerate(classes) for number, text in texts)
    return [(vocabulary.encode(text), label) for _, label, text in labelled]


class Imdb(PreparedOnce):
    """Store `tokens` (L,) uint8, without the end token, and `label`."""

    TITLE = ARCHIVE.title
    DESCRIPTION = "Film reviews by characters: positive or negative."
    HOMEPAGE = "https://ai.stanford.edu/~amaas/data/sentiment/"

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"tokens": compact((None,)), "label": tfds.features.ClassLabel(names=CLASSES)}


def load(
    data_dir: str | Path, reviews: Reviews, *, length: int = MAX_LENGTH, validate_on_test: bool = False, **examples: int
) -> dict[str, Split]:
    """Load the splits "train", "validation" and "test" with tokens (n, length). Prepare them on the first call.

    Args:
        data_dir: folder of prepared datasets. They do not depend on the options below.
        reviews: the source of the reviews.
        length: of the sequences. Longer texts are cut; all end with the end token.
        validate_on_test: train on all training reviews and use "test" as "validation", like the references.
        examples: train_examples, validation_examples, test_examples: use only the first so many; 0 means all.
    Raises:
        UserError: a bad length or number of examples; the archive is unavailable; `data_dir` cannot be written; the
            prepared data is damaged.
    """
    check_length(length, MAX_LENGTH, ARCHIVE.title)
    prepared = preparation.load(Imdb, data_dir, reviews, **examples)
    if validate_on_test:
        prepared["train"] += prepared["validation"]
        prepared["validation"] = prepared["test"]
    return {
        name: pad([append_eos(e["tokens"], length) for e in split], [e["label"] for e in split], length, name=name)
        for name, split in prepared.items()
    }
