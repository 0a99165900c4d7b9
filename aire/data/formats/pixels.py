"""Datasets of images that are read pixel by pixel: storing, splitting and conversion to sequences."""

import abc
import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.preparation import PreparedOnce, Source, compact
from aire.data.pipeline import Split
from aire.utils.errors import UserError

N_CLASSES = 10  # of every dataset
MIN_TRAIN_IMAGES = 12  # with fewer, a split would be empty

Labelled = tuple[np.ndarray, np.ndarray]  # images (n, *shape) uint8 and labels (n,)


class ImageSource(abc.ABC):
    """A source that reads all images into memory. Formats implement `config_name`, `read` and `is_validation`."""

    @abc.abstractmethod
    def config_name(self) -> str:
        """Identify the content of the files, so that changed files are prepared again."""

    @abc.abstractmethod
    def read(self) -> tuple[Labelled, Labelled]:
        """Return the training images, at least `MIN_TRAIN_IMAGES`, and the test images."""

    @abc.abstractmethod
    def is_validation(self, n: int) -> np.ndarray:
        """Return a mask (n,) of the validation images among n training images."""

    def sizes(self) -> dict[str, int]:
        return {name: len(labels) for name, (_, labels) in self._splits.items()}

    def splits(self) -> dict[str, Iterable[tuple[np.ndarray, int]]]:
        """Return the splits as pairs of image and label."""
        return {name: zip(images, labels.tolist(), strict=True) for name, (images, labels) in self._splits.items()}

    @cached_property
    def _splits(self) -> dict[str, Labelled]:
        train, test = self.read()
        validation = self.is_validation(len(train[1]))
        return {
            "train": tuple(array[~validation] for array in train),
            "validation": tuple(array[validation] for array in train),
            "test": test,
        }


class ImageDataset(PreparedOnce):
    """Store `image`, SHAPE uint8, and `label`."""

    DESCRIPTION = f"Images of {N_CLASSES} classes."
    SHAPE: ClassVar[tuple[int, ...]]

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"image": compact(self.SHAPE), "label": tfds.features.ClassLabel(num_classes=N_CLASSES)}


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Convert images (B, side, side) or (B, side, side, C) uint8 to sequences (B, L, C) float32, L = (side / pool)².

    Each step is the mean of a square, scaled to [0, 1], minus `mean`, divided by `std`.

    Attributes:
        side: of an image.
        pool: side of the squares.
        mean, std: one value for all channels, or one per channel.
        order: returns the permutation of the L steps. None means row by row.
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
            raise UserError(f"pool={self.pool}: expected a divisor of {self.side}, the side of an image")

    def __call__(self, images: np.ndarray) -> np.ndarray:
        side = self.side // self.pool
        squares = images.reshape(len(images), side, self.pool, side, self.pool, -1)
        values = squares.mean(axis=(2, 4), dtype=np.float32).reshape(len(images), side**2, -1) / 255
        x = (values - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return x if self.order is None else x[:, self.order(side**2)]


def load(
    dataset: type[ImageDataset],
    data_dir: str | Path,
    source: Source,
    sequences: Sequences,
    convert: Callable[[np.ndarray], np.ndarray] | None = None,
    /,
    **examples: int,
) -> dict[str, Split]:
    """Load the splits "train", "validation" and "test" into memory as bytes. Prepare them on the first call.

    Args:
        data_dir: folder of prepared datasets. They do not depend on the options below.
        source: the source of the images.
        sequences: decodes batches to model input.
        convert: applied once to all images after loading.
        **examples: train_examples, validation_examples, test_examples: use only the first so many; 0 means all.
    Raises:
        UserError: a negative number of examples; the files are unavailable; `data_dir` cannot be written; the
            prepared data is damaged.
    """
    splits = {}
    for name, chosen in preparation.load(dataset, data_dir, source, **examples).items():
        images = np.stack([example["image"] for example in chosen])
        labels = np.array([example["label"] for example in chosen], np.int32)
        lengths = np.full(len(labels), (sequences.side // sequences.pool) ** 2, np.int32)
        splits[name] = Split(convert(images) if convert else images, lengths, labels, sequences)
    return splits


def check_labels(where: str, labels: np.ndarray, minimum: int) -> None:
    """Raise UserError if there are fewer than `minimum` labels, or one is out of range."""
    if len(labels) < minimum:
        raise UserError(f"{where}: {len(labels)} labels; expected at least {minimum}")
    if labels.max() >= N_CLASSES:
        first = int(np.argmax(labels >= N_CLASSES))
        raise UserError(f"{where}: label {first} is {labels[first]}; expected 0 to {N_CLASSES - 1}")
