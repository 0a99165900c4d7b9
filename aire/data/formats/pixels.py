"""Datasets of pictures that are read pixel by pixel: how they are stored, split, and made sequences."""

import abc
import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.preparation import SPLITS, PreparedOnce, Source
from aire.data.pipeline import Split
from aire.utils.errors import UserError

N_CLASSES = 10  # of all of them
LEAST = 12  # training pictures, or some split would be empty

Labelled = tuple[np.ndarray, np.ndarray]  # pictures (n, *shape) uint8, and their labels (n,)


class Files(abc.ABC):
    """A source that reads all pictures into memory. A format adds `config_name`, `read` and `validates`."""

    @abc.abstractmethod
    def config_name(self) -> str:
        """Names the files' content, so that changed files are never taken for those that were read before."""

    @abc.abstractmethod
    def read(self) -> tuple[Labelled, Labelled]:
        """The published pictures for training, at least `LEAST`, and those for testing."""

    @abc.abstractmethod
    def validates(self, n: int) -> np.ndarray:
        """(n,) bool: which of n pictures for training are for validation instead."""

    def sizes(self) -> dict[str, int]:
        return {name: len(labels) for name, (_, labels) in self._splits.items()}

    def splits(self) -> dict[str, Iterable[tuple[np.ndarray, int]]]:
        """Pairs of a picture and its label."""
        return {name: zip(images, labels.tolist(), strict=True) for name, (images, labels) in self._splits.items()}

    @cached_property
    def _splits(self) -> dict[str, Labelled]:
        train, test = self.read()
        validation = self.validates(len(train[1]))
        return {
            "train": tuple(array[~validation] for array in train),
            "validation": tuple(array[validation] for array in train),
            "test": test,
        }


class Pictures(PreparedOnce, skip_registration=True):
    """Stores `image`, SHAPE uint8, and `label`. A dataset adds TITLE, VERSION, SHAPE and HOMEPAGE."""

    SHAPE: ClassVar[tuple[int, ...]]
    HOMEPAGE: ClassVar[str]

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            # As bytes: TFDS otherwise widens each value to an int64.
            "image": tfds.features.Tensor(shape=self.SHAPE, dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(num_classes=N_CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.TITLE}: pictures of {N_CLASSES} classes.",
            homepage=self.HOMEPAGE,
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order of the files
        )

    def encode(self, example: tuple[np.ndarray, int]) -> dict:
        return dict(zip(("image", "label"), example, strict=True))


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Makes pictures, (B, side, side) or (B, side, side, C) uint8, sequences (B, L, C) float32, L = (side / pool)².

    Row by row, from values scaled to [0, 1]: each square's mean, less `mean`, divided by `std`.

    Attributes:
        side: of a picture.
        pool: side of the squares that become one step.
        mean, std: of all channels, or of each.
        order: which step comes at each place, (L,), as a function of L; None: row by row.
    Raises:
        UserError: `pool` does not divide `side`.
    """

    side: int
    pool: int = 1
    mean: float | tuple[float, ...] = 0.0
    std: float | tuple[float, ...] = 1.0
    order: Callable[[int], np.ndarray] | None = None

    def __post_init__(self):
        if self.pool < 1 or self.side % self.pool:
            raise UserError(f"pool={self.pool}: expected a divisor of {self.side}, the side of a picture")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        side = self.side // self.pool
        squares = images.reshape(len(images), side, self.pool, side, self.pool, -1)
        values = squares.mean(axis=(2, 4), dtype=np.float32).reshape(len(images), side**2, -1) / 255
        x = (values - np.float32(self.mean)) / np.float32(self.std)
        return x if self.order is None else x[:, self.order(side**2)]


def load(
    dataset: type[Pictures],
    data_dir: str | Path,
    source: Source,
    sequences: Sequences,
    *,
    convert: Callable[[np.ndarray], np.ndarray] | None = None,
    train_examples: int = 0,
    validation_examples: int = 0,
    test_examples: int = 0,
) -> dict[str, Split]:
    """The splits "train", "validation" and "test", in memory as bytes; prepared in `data_dir` if need be.

    Args:
        data_dir: folder of prepared datasets; what is kept there depends on the files alone.
        source: the pictures.
        sequences: makes a batch the model's input.
        convert: what becomes of the pictures before that, once.
        train_examples, validation_examples, test_examples: at most this many, the first ones; 0: all.
    Raises:
        UserError: a negative number of examples; the files cannot be had; `data_dir` cannot be written; what was
            prepared there is damaged.
    """
    limits = dict(zip(SPLITS, (train_examples, validation_examples, test_examples), strict=True))
    for name, limit in limits.items():
        if limit < 0:
            raise UserError(f"{dataset.TITLE}: {name}_examples={limit}: expected at least 0, which means all")
    prepared = preparation.load(dataset, data_dir, source)
    splits = {}
    for name, examples in prepared.items():
        chosen = examples[: limits[name] or None]
        images = np.stack([example["image"] for example in chosen])
        labels = np.array([example["label"] for example in chosen], np.int32)
        lengths = np.full(len(labels), (sequences.side // sequences.pool) ** 2, np.int32)
        splits[name] = Split(convert(images) if convert else images, lengths, labels, sequences)
    return splits


def check_labels(where: str, labels: np.ndarray, least: int) -> None:
    """Raises UserError where there are fewer than `least`, or one is no class."""
    if len(labels) < least:
        raise UserError(f"{where}: {len(labels)} labels; expected at least {least}")
    if labels.max() >= N_CLASSES:
        first = int(np.argmax(labels >= N_CLASSES))
        raise UserError(f"{where}: label {first} is {labels[first]}; expected 0 to {N_CLASSES - 1}")
