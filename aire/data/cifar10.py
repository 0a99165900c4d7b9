"""CIFAR-10 pixel by pixel: in grey, LRA's task Image, or in colour, sequential CIFAR.

60,000 pixels of 32×32 pixels in 10 classes of equal size (A. Krizhevsky 2009), read row by row, and normalised as by
the references (S4's and S5's dataloaders/basic.py). Their validation split, 5,000 of the 50,000 pixels for training,
chosen by PyTorch from seed 42, is reproduced exactly.

A folder may hold the binary version, which is the one that is downloaded, or the Python version, which other programs
leave behind; each as its archive or unpacked. The latter's pickles are read without running them.
"""

import dataclasses
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import archives, pickled, pixels
from aire.data.formats.archives import Archive
from aire.data.formats.pixels import LEAST, Labelled, Pictures, Sequences
from aire.data.pipeline import Split
from aire.data.splits import held_out
from aire.utils.errors import UserError

SIDE = 32
VALUES = 3 * SIDE**2  # of a picture: all of red, row by row, then green, then blue
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

GREY_MEAN, GREY_STD = 122.6 / 255, 61.0 / 255
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261)  # of red, green, blue

BINARY = Archive(  # tensorflow-datasets 4.9.10, url_checksums/cifar10.txt
    title="CIFAR-10",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    sha256="c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    size=170_052_171,
    root="cifar-10-batches-bin",
    pattern=r"(data_batch_[1-5]|test_batch)\.bin",
)
PYTHON = Archive(  # Keras, datasets/cifar10.py; the size as its server states it
    title="CIFAR-10 (Python version)",
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    size=170_498_071,
    root="cifar-10-batches-py",
    pattern="data_batch_[1-5]|test_batch",
    advice=BINARY.how_to_get,
)


@dataclasses.dataclass(frozen=True)
class Files(pixels.Files):
    """The six batches, as published or from a folder.

    Attributes:
        data_dir: folder of prepared datasets; the download is kept below it.
        folder: holds either version, as its archive or unpacked; any pixels of the format are taken. Empty: the
            published binary version.
    Raises:
        UserError: (by its methods) the files are missing, damaged or cannot be downloaded.
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
            raise UserError(f"{self._where}: no {', '.join(missing)} in it; {BINARY.how_to_get}")
        *train, test = (batches[name] for name in BATCHES)
        images, labels = (np.concatenate(arrays) for arrays in zip(*train, strict=True))
        pixels.check_labels(f"{self._where}: data batches", labels, LEAST)
        pixels.check_labels(f"{self._where}: test_batch", test[1], 1)
        return (images, labels), test

    def validates(self, n: int) -> np.ndarray:
        return held_out(n)

    @property
    def _where(self) -> str | Path:
        return self.folder or BINARY.name

    @cached_property
    def _files(self) -> archives.Files:
        """The binary version unless the folder has the other one alone."""
        binary, python = (archives.Files(version, self.data_dir, self.folder) for version in (BINARY, PYTHON))
        return python if self.folder and not binary.is_in_folder() and python.is_in_folder() else binary


def parse_binary(content: bytes, where: str) -> Labelled:
    """Pictures (n, 32, 32, 3) and labels (n,), uint8, of a batch: for each a byte for the label, then its values.

    Raises:
        UserError: the bytes make no whole number of pixels.
    """
    if len(content) % (1 + VALUES):
        raise UserError(f"{where}: {len(content):,} bytes, no multiple of {1 + VALUES:,}: damaged; {BINARY.how_to_get}")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + VALUES)
    return _to_images(records[:, 1:]), records[:, 0]


def parse_pickle(content: bytes, where: str) -> Labelled:
    """The same, of a batch of the Python version: a dict whose `data` (n, 3072) are the pixels, with `labels`.

    Raises:
        UserError: it is something else.
    """
    try:
        batch = pickled.parse(content)
        values, labels = pickled.array(batch["data"]), np.array(batch["labels"], np.uint8)
        if values.shape != (len(labels), VALUES):
            raise ValueError(f"data of shape {values.shape} for {len(labels)} labels")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{where}: no batch of CIFAR-10 ({error}); {BINARY.how_to_get}") from error
    return _to_images(values), labels


def _to_images(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


class Cifar10(Pictures, skip_registration=True):  # TFDS has one of this name, which needs TensorFlow
    """Small pixels of animals and vehicles, in colour."""

    TITLE = BINARY.title
    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same files would give other data
    SHAPE = (SIDE, SIDE, 3)
    HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"


def to_grey(images: np.ndarray) -> np.ndarray:
    """(n, 32, 32, 3) uint8 to (n, 32, 32) uint8: ITU-R 601-2 luma, in the fixed-point numbers of Pillow's convert("L").

    Which is what torchvision's Grayscale, hence LRA's task in the references, does.
    """
    weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587 and 0.114 of 2**16
    return np.stack([((image @ weights + 2**15) >> 16).astype(np.uint8) for image in images])


def load(
    data_dir: str | Path, folder: str | Path = "", *, grey: bool, pool: int = 1, **limits: int
) -> dict[str, Split]:
    """The splits "train", "validation" and "test", normalised; prepared in `data_dir` if need be.

    Args:
        folder: of the batches, see `Files`; empty: the published ones.
        grey: one feature a step, the grey value; otherwise three: red, green, blue.
        pool: side of the squares of pixels that become one step, their mean: 1 gives L = 1024, 2 gives L = 256.
        **limits: numbers of examples, and what is raised: see `aire.data.formats.pixels.load`.
    """
    sequences = Sequences(SIDE, pool, GREY_MEAN, GREY_STD) if grey else Sequences(SIDE, pool, MEAN, STD)
    source = Files(data_dir, folder)
    return pixels.load(Cifar10, data_dir, source, sequences, convert=to_grey if grey else None, **limits)
