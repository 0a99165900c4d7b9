"""CIFAR-10 pixel by pixel: LRA Image (greyscale) and sequential CIFAR (colour).

The dataset has 60,000 images of 32×32 pixels in 10 classes of equal size (A. Krizhevsky 2009). They are read row by
row and normalised as in the references (dataloaders/basic.py of S4 and S5). The references' validation split is
reproduced exactly: PyTorch chooses 5,000 of the 50,000 training images from seed 42.

A folder may contain the binary version, which is the one downloaded by default, or the Python version, which other
programs use; each as an archive or unpacked. Pickles of the Python version are parsed without executing them.
"""

import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np

from aire.data.formats import archives, pickled, pixels
from aire.data.formats.archives import Archive
from aire.data.formats.pixels import MIN_TRAIN_IMAGES, ImageDataset, ImageSource, Labelled, Sequences
from aire.data.pipeline import Split
from aire.data.splits import held_out
from aire.utils.errors import UserError

SIDE = 32
VALUES = 3 * SIDE**2  # per image: red row by row, then green, then blue
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

GREY_MEAN, GREY_STD = 122.6 / 255, 61.0 / 255
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)  # red, green, blue

BINARY = Archive(  # tensorflow-datasets 4.9.10, url_checksums/cifar10.txt
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size=170_052_171,
    root="cifar-10-batches-bin",
    pattern=r"(data_batch_[1-5]|test_batch)\.bin",
)
PYTHON = Archive(  # Keras, datasets/cifar10.py; the size is the server's Content-Length
    title="CIFAR-10 (Python version)",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    size=170_498_071,
    root="cifar-10-batches-py",
    pattern="data_batch_[1-5]|test_batch",
    advice=BINARY.how_to_get,
)


@dataclasses.dataclass(frozen=True)
class CifarSource(ImageSource):
    """The six batches, downloaded or from a folder.

    Attributes:
        data_dir: folder of prepared datasets. Downloads are stored in it.
        folder: contains either version, as an archive or unpacked. Contents are not compared with the published ones.
            If empty, the published binary version is used.
    Raises:
        UserError: (from methods) the files are missing, damaged or cannot be downloaded.
    """

    data_dir: str | Path
    folder: str | Path = ""

    def config_name(self) -> str:
        name = self._files.config_name()
        return name if self._files.archive is BINARY else f"python_{name}"

    def read(self) -> tuple[Labelled, Labelled]:
        parse = parse_binary if self._files.archive is BINARY else parse_pickle
        batches = {name.removesuffix(".bin"): parse(content, name) for name, content in self._files.members()}
        if missing := [name for name in BATCHES if name not in batches]:
            raise UserError(f"{self._where}: missing {', '.join(missing)}; {BINARY.how_to_get}")
        *train, test = (batches[name] for name in BATCHES)
        images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
        pixels.check_labels(f"{self._where}: data batches", labels, MIN_TRAIN_IMAGES)
        pixels.check_labels(f"{self._where}: test_batch", test[1], 1)
        return (images, labels), test

    def is_validation(self, n: int) -> np.ndarray:
        return held_out(n)

    @property
    def _where(self) -> str | Path:
        return self.folder or BINARY.name

    @cached_property
    def _files(self) -> archives.Files:
        """The Python version if the folder has only that one, else the binary version."""
        binary, python = (archives.Files(version, self.data_dir, self.folder) for version in (BINARY, PYTHON))
        return python if self.folder and not binary.is_in_folder() and python.is_in_folder() else binary


def parse_binary(content: bytes, where: str) -> Labelled:
    """Return images (n, 32, 32, 3) and labels (n,), uint8, of a batch. Each record is a label byte and its pixels.

    Raises:
        UserError: the size is not a multiple of the size of a record.
    """
    if len(content) % (1 + VALUES):
        size = f"{len(content):,} bytes, not a multiple of {1 + VALUES:,}"
        raise UserError(f"{where}: {size}: the file is damaged; {BINARY.how_to_get}")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + VALUES)
    return _to_images(records[:, 1:]), records[:, 0]


def parse_pickle(content: bytes, where: str) -> Labelled:
    """Return images and labels like `parse_binary`, from the Python version: a dict with `data` (n, 3072) and `labels`.

    Raises:
        UserError: the content is not such a pickle.
    """
    try:
        batch = pickled.parse(content)
        values, labels = pickled.array(batch["data"]), _labels(batch["labels"])
        if values.shape != (len(labels), VALUES):
            raise ValueError(f"data of shape {values.shape} for {len(labels)} labels")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: not a batch of CIFAR-10 ({error}); {BINARY.how_to_get}") from error
    return _to_images(values), labels


def _labels(values: object) -> np.ndarray:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError("its labels are not a list of integers")
    return np.array(values, np.uint8)


def _to_images(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


class Cifar10(ImageDataset):
    """Small colour images of animals and vehicles."""

    TITLE = BINARY.title
    SHAPE = (SIDE, SIDE, 3)
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def to_grey(images: np.ndarray) -> np.ndarray:
    """Convert (n, 32, 32, 3) uint8 to ITU-R 601-2 luma (n, 32, 32) uint8.

    Uses the fixed-point weights of Pillow's convert("L"), like torchvision's Grayscale in the references.
    """
    weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587 and 0.114 of 2**16
    return np.stack([((image @ weights + 2**15) >> 16).astype(np.uint8) for image in images])


def load(
    data_dir: str | Path, folder: str | Path = "", *, grey: bool, pool: int = 1, **limits: int
) -> dict[str, Split]:
    """Load the normalised splits "train", "validation" and "test". Prepare them in `data_dir` on the first call.

    Args:
        folder: of the batches, see `CifarSource`; empty for the published ones.
        grey: use one feature per step, the grey value, instead of red, green and blue.
        pool: average squares of this side into one step: 1 gives L = 1024, 2 gives L = 256.
        **limits: numbers of examples, see `aire.data.formats.pixels.load`, which also lists the errors.
    """
    sequences = Sequences(SIDE, pool, GREY_MEAN, GREY_STD) if grey else Sequences(SIDE, pool, MEAN, STD)
    source = CifarSource(data_dir, folder)
    return pixels.load(Cifar10, data_dir, source, sequences, to_grey if grey else None, **limits)
