"""Pathfinder and Path-X of the Long Range Arena (Tay et al. 2021, arXiv 2011.04006): pictures, a grey value a step.

Does one dashed contour join the two dots, or does each end another? Pathfinder has 32×32 pixels, read row by row
(L = 1024), Path-X 128×128 (L = 16384). The pictures are drawn here (`aire.data.contours`) or those that the Long Range
Arena released. Either way a TFDS builder writes them once; later runs read what it wrote.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from aire.data import contours
from aire.data.contours import DESIGNS
from aire.data.formats import preparation
from aire.data.formats.preparation import SPLITS, PreparedOnce
from aire.data.pipeline import Split
from aire.utils.errors import UserError
from aire.utils.files import reading

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


# Reading the release -------------------------------------------------------------------------------------------------

_DIFFICULTY = "curv_contour_length_14"  # the one that the benchmark takes


@dataclasses.dataclass(frozen=True)
class Release:
    """The Long Range Arena's pictures with contours of 14 dashes, in its folder pathfinder32 or pathfinder128.

    The same pictures as in the S5 reference are for training, validation and testing, 80, 10 and 10 %. The release's
    one empty picture, which that reference leaves out, is in curv_baseline and so not among them.

    Attributes:
        folder: holds curv_contour_length_14/imgs/N/*.png and curv_contour_length_14/metadata/N.npy, which is text.
        side: of its pictures.
    Raises:
        UserError: (by its methods) a file is missing or damaged; it is named, and the line.
    """

    folder: str | Path
    side: int

    def config_name(self) -> str:
        """Names the lists and the sizes of the files, so that others are never taken for those that were read before.

        Not what is in the pictures, for to read 200,000 of them takes minutes.
        """
        digest = hashlib.sha256()
        for path, label in self._listed:
            digest.update(f"{path.relative_to(self.folder)} {label} {_size(path)}\n".encode())
        return f"release{self.side}_{digest.hexdigest()[:16]}"

    def sizes(self) -> dict[str, int]:
        n = len(self._listed)
        return dict(zip(SPLITS, (n - 2 * (n // 10), n // 10, n // 10), strict=True))

    def splits(self) -> dict[str, Iterator[Example]]:
        order, splits = iter(_torch_permutation(len(self._listed))), {}
        for name, size in self.sizes().items():
            chosen = [self._listed[index] for _, index in zip(range(size), order, strict=False)]
            splits[name] = ((read_png(path, self.side), label) for path, label in chosen)
        return splits

    @cached_property
    def _listed(self) -> list[tuple[Path, int]]:
        """The pictures' files and labels, list after list."""
        folder = Path(self.folder, _DIFFICULTY)
        lists = sorted(folder.glob("metadata/*.npy"), key=lambda path: (len(path.stem), path.stem))  # 2 before 10
        if not lists:
            raise UserError(
                f"{folder}: no metadata/*.npy there; expected the folder pathfinder{self.side} of the Long Range "
                "Arena's release: the archive lra_release.gz that github.com/google-research/long-range-arena links to"
            )
        listed = [example for path in lists for example in read_list(path)]
        if len(listed) < 10:
            raise UserError(f"{folder / 'metadata'}: {len(listed)} pictures listed; expected at least 10")
        return listed


def read_list(path: Path) -> list[tuple[Path, int]]:
    """Files and labels of the pictures in one list of the release: lines such as `imgs/0 sample_7.png 7 1 1.0 14 …`.

    The list is at curv_contour_length_14/metadata/N.npy. In spite of that name it is text.

    Raises:
        UserError: the file cannot be read, or a line is not as expected; file and line are named.
    """
    with reading(path):
        content = path.read_bytes()
    if not content.isascii():
        raise UserError(f"{path}: not text; expected the list as in the release; arrays and pickles are not read")
    listed = []
    for number, line in enumerate(content.decode().splitlines(), 1):
        match line.split():
            case [folder, name, _, "0" | "1" as label, *_] if not {"", ".."} & {*folder.split("/"), *name.split("/")}:
                listed.append((path.parent.parent / folder / name, int(label)))
            case _:
                raise UserError(
                    f"{path}, line {number}: expected folder, file, number and label (0 or 1) of a picture, "
                    f"found {line[:80]!r}; get the file again"
                )
    return listed


def _size(path: Path) -> int:
    """A picture's bytes. Raises UserError where it is missing or empty."""
    with reading(path):
        size = path.stat().st_size
    if not size:
        raise UserError(f"{path}: an empty file; get the archive again")
    return size


def read_png(path: Path, side: int) -> np.ndarray:
    """A grey picture, (side, side) uint8.

    Raises:
        UserError: the file cannot be read, is no PNG, is damaged, or has another size.
    """
    try:
        with reading(path), Image.open(path, formats=["PNG"]) as picture:
            if picture.size != (side, side):
                raise UserError(f"{path}: {picture.width}×{picture.height} pixels; expected {side}×{side}")
            return np.asarray(picture.convert("L"))
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, for damaged files
        raise UserError(f"{path}: damaged ({error}); get the archive again") from error


def _torch_permutation(n: int) -> list[int]:
    """0 to n-1 as torch.randperm orders them with the seed 42: the references split the list in that order."""
    draws = np.random.RandomState(42).randint(0, 2**32, n, np.uint32).tolist()  # PyTorch's own 32-bit numbers
    order = list(range(n))
    for i, draw in enumerate(draws):
        j = i + draw % (n - i)
        order[i], order[j] = order[j], order[i]
    return order


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


def load(data_dir: str | Path, source: Generated | Release) -> dict[str, Split]:
    """The splits "train", "validation" and "test", (n, side, side) uint8 decoded batch by batch to (B, side², 1)
    float32; prepared in `data_dir` if not there yet.

    Raises:
        UserError: the release's files are missing or damaged; `data_dir` cannot be written; what was prepared there is
            damaged.
    """
    return {name: _as_split(examples) for name, examples in preparation.load(Pathfinder, data_dir, source).items()}


def _as_split(examples: list[dict]) -> Split:
    labels = np.array([e["label"] for e in examples], np.int32)
    images = np.stack([e["image"] for e in examples])
    return Split(images, np.full(len(labels), images[0].size, np.int32), labels, decode=to_sequences)


def to_sequences(images: np.ndarray) -> np.ndarray:
    """(B, side, side) uint8 to (B, L, 1) float32, L = side²: row by row, from -1 (black) to 1, as the S5 reference."""
    return (images.astype(np.float32) / 127.5 - 1).reshape(len(images), -1, 1)
