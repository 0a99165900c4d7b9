"""Pathfinder and Path-X of the Long Range Arena (Tay et al. 2021, arXiv 2011.04006): pictures, a grey value a step.

Does one dashed contour join the two dots, or does each end another? Pathfinder has 32×32 pixels, read row by row
(L = 1024), Path-X 128×128 (L = 16384). The pictures are drawn here (`aire.data.contours`) or those that the Long Range
Arena released. Either way a TFDS builder writes them once; later runs read what it wrote.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data import contours, preparation
from aire.data.contours import DESIGNS
from aire.data.pipeline import Split
from aire.data.preparation import SPLITS, PreparedOnce
from aire.errors import UserError

N_CLASSES = 2

Example = tuple[np.ndarray, int]  # a picture, (side, side) uint8, and whether its dots are connected


# Drawing -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Generated:
    """Pictures drawn from a seed. Each depends on the seed, its split and its number alone; every other is connected.

    Attributes:
        design: what they look like, a name in `aire.data.contours.DESIGNS`; the first two are the Long Range Arena's.
        train_examples, validation_examples, test_examples: sizes of the splits.
        seed: of the pictures.
    Raises:
        UserError: an unknown design, or a value out of its range.
    """

    design: str = "lra32"
    train_examples: int = 160_000
    validation_examples: int = 20_000
    test_examples: int = 20_000
    seed: int = 0

    def __post_init__(self):
        if self.design not in DESIGNS:
            raise UserError(f"Pathfinder: unknown design {self.design!r}: expected one of {sorted(DESIGNS)}")
        least = {"train_examples": 1, "validation_examples": 1, "test_examples": 1, "seed": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UserError(f"Pathfinder: {name}={getattr(self, name)}: expected at least {value}")

    @property
    def side(self) -> int:
        return DESIGNS[self.design].side

    def config_name(self) -> str:
        """Names every option, so that pictures drawn with others are never taken for them."""
        sizes = "-".join(str(self.sizes()[name]) for name in SPLITS)
        return f"generated_{self.design}_n{sizes}_seed{self.seed}"

    def sizes(self) -> dict[str, int]:
        return dict(zip(SPLITS, (self.train_examples, self.validation_examples, self.test_examples), strict=True))

    def splits(self) -> dict[str, Iterator[Example]]:
        return {name: self._examples(name, size) for name, size in self.sizes().items()}

    def _examples(self, split: str, size: int) -> Iterator[Example]:
        for index in range(size):
            connected = index % 2 == 1
            picture = contours.draw(DESIGNS[self.design], connected, f"{self.seed} {split} {index}")
            yield picture.image(), int(connected)


# Preparing once, loading ---------------------------------------------------------------------------------------------


class Pathfinder(PreparedOnce):
    """Stores `image` (side, side) uint8 and `label`, 1 where the dots are connected."""

    TITLE = "Pathfinder"
    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same options would give other data

    def _info(self) -> tfds.core.DatasetInfo:
        side = self.builder_config.source.side
        features = {
            # As bytes: TFDS otherwise widens each grey value to an int64.
            "image": tfds.features.Tensor(shape=(side, side), dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(num_classes=N_CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pathfinder: are two dots the ends of one dashed contour?",
            homepage="https://github.com/google-research/long-range-arena",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the source's order
        )

    def encode(self, example: Example) -> dict:
        return dict(zip(("image", "label"), example, strict=True))


def load(data_dir: str | Path, source: Generated) -> dict[str, Split]:
    """The splits "train", "validation" and "test", pictures as bytes; prepared in `data_dir` if not there yet."""
    return {name: _as_split(examples) for name, examples in preparation.load(Pathfinder, data_dir, source).items()}


def _as_split(examples: list[dict]) -> Split:
    labels = np.array([e["label"] for e in examples], np.int32)
    images = np.stack([e["image"] for e in examples])
    return Split(images, np.full(len(labels), images[0].size, np.int32), labels, decode=to_sequences)


def to_sequences(images: np.ndarray) -> np.ndarray:
    """(B, side, side) uint8 to (B, L, 1) float32, L = side²: row by row, from -1 (black) to 1, as the S5 reference."""
    return (images.astype(np.float32) / 127.5 - 1).reshape(len(images), -1, 1)
