"""Pathfinder and Path-X of the Long Range Arena (Tay et al. 2021, arXiv 2011.04006): images, one grey value per step.

The question is whether one dashed contour connects the two dots. Pathfinder has 32×32 pixels, read row by row
(L = 1024), and Path-X has 128×128 (L = 16384). The images are generated (`aire.data.contours`) or read from the Long
Range Arena's release. In both cases a TFDS builder writes them once, and later runs read the prepared data.
"""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from aire.data import contours
from aire.data.contours import DESIGNS
from aire.data.formats import preparation
from aire.data.formats.preparation import SPLITS, OneSplit, PreparedOnce, compact
from aire.data.pipeline import Split
from aire.data.splits import torch_permutation
from aire.utils import digests
from aire.utils.errors import MissingFileError, UserError
from aire.utils.files import reading

N_CLASSES = 2

Example = tuple[np.ndarray, int]  # an image, (side, side) uint8, and whether its dots are connected


# Generating ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Generated:
    """Images generated from a seed. Each depends only on seed, split and index; every second one is connected.

    Attributes:
        design: a name in `aire.data.contours.DESIGNS`. The first two are the Long Range Arena's.
        train_examples, validation_examples, test_examples: sizes of the splits.
        seed: of the images.
    Raises:
        UserError: the design is unknown or a value is out of range.
    """

    design: str = "lra32"
    train_examples: int = 160_000
    validation_examples: int = 20_000
    test_examples: int = 20_000
    seed: int = 0

    def __post_init__(self):
        if self.design not in DESIGNS:
            raise UserError(f"Pathfinder: unknown design {self.design!r}: expected one of {sorted(DESIGNS)}")
        minimum = {"train_examples": 1, "validation_examples": 1, "test_examples": 1, "seed": 0}
        for name, value in minimum.items():
            if getattr(self, name) < value:
                raise UserError(f"Pathfinder: {name}={getattr(self, name)}: expected at least {value}")

    @property
    def side(self) -> int:
        return DESIGNS[self.design].side

    def config_name(self) -> str:
        """Name every option, because different options give different images."""
        sizes = "-".join(str(self.sizes()[name]) for name in SPLITS)
        return f"generated_{self.design}_n{sizes}_seed{self.seed}"

    def sizes(self) -> dict[str, int]:
        return dict(zip(SPLITS, (self.train_examples, self.validation_examples, self.test_examples), strict=True))

    def splits(self) -> dict[str, Iterator[Example]]:
        return {name: self._examples(name, size) for name, size in self.sizes().items()}

    def _examples(self, split: str, size: int) -> Iterator[Example]:
        for index in range(size):
            connected = index % 2 == 1
            scene = contours.draw(DESIGNS[self.design], connected, f"{self.seed} {split} {index}")
            yield scene.image(), int(connected)


@dataclasses.dataclass(frozen=True)
class Further(OneSplit, Generated):
    """One split of further images, prepared apart from the others."""

    def config_name(self) -> str:
        return f"generated_{self.design}_{self.split}{self.examples}_seed{self.seed}"


# Reading the release -------------------------------------------------------------------------------------------------

_DIFFICULTY = "curv_contour_length_14"  # the one used by the benchmark


@dataclasses.dataclass(frozen=True)
class Release:
    """The images with contours of 14 dashes in the Long Range Arena's folder pathfinder32 or pathfinder128.

    They are split 80/10/10 % into training, validation and test like in the S5 reference. That reference skips the one
    empty image of the release, which is in curv_baseline and so not used here.

    Attributes:
        folder: contains curv_contour_length_14/imgs/N/*.png and curv_contour_length_14/metadata/N.npy (text files).
        side: of the images.
    Raises:
        UserError: (from methods) a file is missing or damaged. The message names file and line.
    """

    folder: str | Path
    side: int

    def config_name(self) -> str:
        """Identify the files by their lists and sizes, because reading 200,000 images takes minutes."""
        lines = [f"{path.relative_to(self.folder)} {label} {_size(path)}\n" for path, label in self._listed]
        return f"release{self.side}_{digests.of_text(''.join(lines))[:16]}"

    def sizes(self) -> dict[str, int]:
        n = len(self._listed)
        return dict(zip(SPLITS, (n - 2 * (n // 10), n // 10, n // 10), strict=True))

    def splits(self) -> dict[str, Iterator[Example]]:
        order = iter(torch_permutation(len(self._listed), seed=42))  # as the references
        splits: dict[str, Iterator[Example]] = {}
        for name, size in self.sizes().items():
            chosen = [self._listed[index] for _, index in zip(range(size), order, strict=False)]
            splits[name] = ((read_png(path, self.side), label) for path, label in chosen)
        return splits

    @cached_property
    def _listed(self) -> list[tuple[Path, int]]:
        """Files and labels of the images, list after list."""
        folder = Path(self.folder, _DIFFICULTY)
        lists = sorted(folder.glob("metadata/*.npy"), key=lambda path: (len(path.stem), path.stem))  # 2 before 10
        if not lists:
            raise MissingFileError(
                f"{folder}: missing metadata/*.npy; expected the folder pathfinder{self.side} of the Long Range "
                "Arena's release: the archive lra_release.gz that github.com/google-research/long-range-arena links to"
            )
        listed = [example for path in lists for example in read_list(path)]
        if len(listed) < 10:
            raise UserError(f"{folder / 'metadata'}: {len(listed)} images listed; expected at least 10")
        return listed


def read_list(path: Path) -> list[tuple[Path, int]]:
    """Read image files and labels from a list of the release, with lines such as `imgs/0 sample_7.png 7 1 1.0 14 …`.

    The list is curv_contour_length_14/metadata/N.npy. Despite its name it is a text file.

    Raises:
        UserError: the file cannot be read or a line is invalid. The message names file and line.
    """
    with reading(path):
        content = path.read_bytes()
    if not content.isascii():
        raise UserError(f"{path}: not text; expected a list as in the release; arrays and pickles are not supported")
    listed = []
    for number, line in enumerate(content.decode().splitlines(), 1):
        match line.split():
            case [folder, name, _, "0" | "1" as label, *_] if not {"", ".."} & {*folder.split("/"), *name.split("/")}:
                listed.append((path.parent.parent / folder / name, int(label)))
            case _:
                raise UserError(
                    f"{path}, line {number}: expected folder, file, number and label (0 or 1) of an image, "
                    f"found {line[:80]!r}; get the file again"
                )
    return listed


def _size(path: Path) -> int:
    """Return the size of a file in bytes. Raise UserError if it is missing or empty."""
    with reading(path):
        size = path.stat().st_size
    if not size:
        raise UserError(f"{path}: the file is empty; get the archive again")
    return size


def read_png(path: Path, side: int) -> np.ndarray:
    """Read a grey image, (side, side) uint8.

    Raises:
        UserError: the file cannot be read, is not a PNG, is damaged, or has another size.
    """
    try:
        with reading(path), Image.open(path, formats=["PNG"]) as image:
            if image.size != (side, side):
                raise UserError(f"{path}: {image.width}×{image.height} pixels; expected {side}×{side}")
            return np.asarray(image.convert("L"))
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # raised by Pillow for damaged files
        raise UserError(f"{path}: damaged ({error}); get the archive again") from error


# Preparing and loading -----------------------------------------------------------------------------------------------


class Pathfinder(PreparedOnce):
    """Store `image` (side, side) uint8 and `label`, 1 if the dots are connected."""

    TITLE = "Pathfinder"
    DESCRIPTION = "Pathfinder: are two dots the ends of one dashed contour?"
    HOMEPAGE = "https://github.com/google-research/long-range-arena"

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        side = self.builder_config.source.side
        return {"image": compact((side, side)), "label": tfds.features.ClassLabel(num_classes=N_CLASSES)}


def load(data_dir: str | Path, source: Generated | Release) -> dict[str, Split]:
    """Load the splits "train", "validation" and "test". Prepare them in `data_dir` on the first call.

    Images (n, side, side) uint8 stay in memory. Batches are decoded to (B, side², 1) float32.

    Raises:
        UserError: the release's files are missing or damaged; `data_dir` cannot be written; the prepared data is
            damaged.
    """
    return {name: _to_split(examples) for name, examples in preparation.load(Pathfinder, data_dir, source).items()}


def load_further(data_dir: str | Path, source: Further) -> Split:
    """Load further images. Prepare them in `data_dir` on the first call."""
    return _to_split(preparation.load_split(Pathfinder, data_dir, source, source.split))


def _to_split(examples: list[dict]) -> Split:
    labels = np.array([e["label"] for e in examples], np.int32)
    images = np.stack([e["image"] for e in examples])
    return Split(images, np.full(len(labels), images[0].size, np.int32), labels, decode=to_sequences)


def to_sequences(images: np.ndarray) -> np.ndarray:
    """Convert (B, side, side) uint8 to (B, L, 1) float32 with L = side².

    Pixels are read row by row and scaled to [-1, 1] with black at -1, like in the S5 reference.
    """
    return (images.astype(np.float32) / 127.5 - 1).reshape(len(images), -1, 1)
