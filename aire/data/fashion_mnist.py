"""Sequential Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): pictures of clothes, a grey value a step.

The data is four idx files: 60,000 pictures and labels for training, 10,000 for testing, 28×28 grey values, 10 classes
of equal size, read row by row. There is no validation split in them: every twelfth training picture (5,000 of 60,000)
goes into one, which is the same choice everywhere and takes from all classes even where files are sorted by class.
"""

import dataclasses
import gzip
import hashlib
import http.client
import math
import struct
import urllib.request
import zlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data import preparation
from aire.data.pipeline import Split
from aire.data.preparation import SPLITS, PreparedOnce
from aire.errors import UserError
from aire.files import reading

SIDE = 28
N_CLASSES = 10
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training pictures' grey values, scaled to [0, 1]
VALIDATION_EVERY = 12

URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
# Of the unpacked files: the publisher's .gz and Debian's hold the same bytes but differ themselves, in their headers.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_HOW_TO_GET = (
    f"install Debian's package dataset-fashion-mnist, or get {', '.join(f'{name}.gz' for name in SHA256)} from {URL} "
    "and name their folder with --config.data.folder=FOLDER"
)


# The idx files -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class IdxFile:
    """An unpacked file: its content, and where that is from, for messages."""

    where: str
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal."""
        return hashlib.sha256(self.content).hexdigest()

    def parse(self, item: tuple[int, ...]) -> np.ndarray:
        """(n, *item) uint8.

        The format, as Y. LeCun's MNIST page describes it: two zero bytes, the type (8: unsigned bytes), the number of
        axes, each axis' size (32 bits, big-endian), then the values, last axis fastest.

        Raises:
            UserError: another format, items of another shape, or more or fewer bytes than the sizes say.
        """
        magic = bytes((0, 0, 8, 1 + len(item)))
        header = 4 + 4 * magic[-1]
        if self.content[:4] != magic:
            found = self.content[:4].hex(" ") or "nothing"
            raise UserError(
                f"{self.where}: begins with {found}; expected an idx file that begins with {magic.hex(' ')}"
            )
        if len(self.content) < header:
            raise UserError(f"{self.where}: {len(self.content)} bytes, its header alone has {header}: truncated")
        n, *shape = struct.unpack_from(f">{magic[-1]}I", self.content, 4)
        if tuple(shape) != item:
            raise UserError(f"{self.where}: items of shape {tuple(shape)}; expected {item}")
        if len(self.content) != (expected := header + n * math.prod(item)):
            raise UserError(
                f"{self.where}: expected {expected:,} bytes for {n:,} items, found {len(self.content):,}; "
                "it is damaged, get it again"
            )
        return np.frombuffer(self.content, np.uint8, offset=header).reshape(n, *item)


def unpack(data: bytes, where: str) -> IdxFile:
    """The file that `data`, packed by gzip or not, holds: told by its content, for browsers unpack and keep the name.

    Raises:
        UserError: damaged gzip data.
    """
    if not data.startswith(b"\x1f\x8b"):
        return IdxFile(where, data)
    try:
        return IdxFile(where, gzip.decompress(data))
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: cannot be unpacked ({error}); it is damaged, get it again") from error


# Where they come from ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Files:
    """The four files, as published or from a folder.

    Attributes:
        folder: holds the four, each with .gz or without; any pictures of their format are taken. Empty: the published
            ones, from Debian's package where that is installed and else downloaded; their checksums are verified.
    Raises:
        UserError: (by its methods) a file is missing, damaged, not the published one, or cannot be downloaded.
    """

    folder: str | Path = ""

    def config_name(self) -> str:
        """Names the files' content, so that changed files are never taken for those that were read before."""
        if not self.folder:
            return "published"
        digests = {name: file.digest for name, file in self._files.items()}
        whole = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
        return "published" if digests == SHA256 else f"folder_{whole[:16]}"

    def sizes(self) -> dict[str, int]:
        return {name: len(labels) for name, (_, labels) in self._arrays.items()}

    def splits(self) -> dict[str, Iterable[tuple[np.ndarray, int]]]:
        """Pairs of a picture, (28, 28) uint8, and its label."""
        return {name: zip(images, labels.tolist(), strict=True) for name, (images, labels) in self._arrays.items()}

    @cached_property
    def _files(self) -> dict[str, IdxFile]:
        return _from_folder(Path(self.folder)) if self.folder else _published()

    @cached_property
    def _arrays(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Pictures and labels of each split."""
        train, test = self._pair("train", least=VALIDATION_EVERY), self._pair("t10k", least=1)
        validation = np.arange(len(train[1])) % VALIDATION_EVERY == VALIDATION_EVERY - 1
        return {
            "train": tuple(array[~validation] for array in train),
            "validation": tuple(array[validation] for array in train),
            "test": test,
        }

    def _pair(self, stem: str, least: int) -> tuple[np.ndarray, np.ndarray]:
        """The pictures (n, 28, 28) and labels (n,) of two files that belong together, n at least `least`."""
        pictures, classes = self._files[f"{stem}-images-idx3-ubyte"], self._files[f"{stem}-labels-idx1-ubyte"]
        images, labels = pictures.parse((SIDE, SIDE)), classes.parse(())
        if len(images) != len(labels):
            raise UserError(f"{classes.where}: {len(labels):,} labels for the {len(images):,} of {pictures.where}")
        if len(labels) < least:
            raise UserError(f"{classes.where}: {len(labels)} labels; expected at least {least}")
        if labels.max() >= N_CLASSES:
            first = int(np.argmax(labels >= N_CLASSES))
            raise UserError(f"{classes.where}: label {first} is {labels[first]}; expected 0 to {N_CLASSES - 1}")
        return images, labels


def _from_folder(folder: Path) -> dict[str, IdxFile]:
    paths = {name: next(filter(Path.is_file, (folder / f"{name}.gz", folder / name)), None) for name in SHA256}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise UserError(f"{folder}: no {', '.join(missing)} there, with .gz or without; {_HOW_TO_GET}")
    files = {}
    for name, path in paths.items():
        with reading(path):
            files[name] = unpack(path.read_bytes(), str(path))
    return files


def _published() -> dict[str, IdxFile]:
    """The four files as published, verified. Debian's first: 30 MB less to wait for, and the bytes are the same."""
    if DEBIAN_FOLDER.is_dir():
        print(f"Fashion-MNIST: taking the files of Debian's package, {DEBIAN_FOLDER}", flush=True)
        files = _from_folder(DEBIAN_FOLDER)
    else:
        files = {name: unpack(_download(f"{URL}{name}.gz"), f"{URL}{name}.gz") for name in SHA256}
    for name, file in files.items():
        if file.digest != SHA256[name]:
            raise UserError(
                f"{file.where}: not the published file: SHA-256 of what it holds is {file.digest}, "
                f"expected {SHA256[name]}; {_HOW_TO_GET}"
            )
    return files


def _download(url: str) -> bytes:
    print(f"Fashion-MNIST: downloading {url}", flush=True)
    try:
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"cannot download {url} ({getattr(error, 'reason', error)}); {_HOW_TO_GET}") from error


# Preparing once, loading ---------------------------------------------------------------------------------------------


class FashionMnist(PreparedOnce, skip_registration=True):  # TFDS has one of this name, which needs TensorFlow
    """Stores `image` (28, 28) uint8 and `label`."""

    TITLE = "Fashion-MNIST"
    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same files would give other data

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            # As bytes: TFDS otherwise widens each grey value to an int64.
            "image": tfds.features.Tensor(shape=(SIDE, SIDE), dtype=np.uint8, encoding="bytes"),
            "label": tfds.features.ClassLabel(num_classes=N_CLASSES),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Fashion-MNIST: grey pictures of ten kinds of clothes.",
            homepage="https://github.com/zalandoresearch/fashion-mnist",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the order of the files
        )

    def encode(self, example: tuple[np.ndarray, int]) -> dict:
        return dict(zip(("image", "label"), example, strict=True))


def load(
    data_dir: str | Path,
    files: Files,
    *,
    pool: int = 1,
    train_examples: int = 0,
    validation_examples: int = 0,
    test_examples: int = 0,
) -> dict[str, Split]:
    """The splits "train", "validation" and "test", normalised, (n, L, 1) float32; prepared in `data_dir` if need be.

    Args:
        data_dir: folder of prepared datasets; what is kept there depends on the files alone.
        files: the pictures.
        pool: side of the squares of grey values that become one step, their mean: 1 gives L = 784, 2 gives L = 196.
        train_examples, validation_examples, test_examples: at most this many, the first ones; 0: all.
    Raises:
        UserError: `pool` does not divide 28; a negative number of examples; the files cannot be had; `data_dir` cannot
            be written; what was prepared there is damaged.
    """
    limits = dict(zip(SPLITS, (train_examples, validation_examples, test_examples), strict=True))
    if pool < 1 or SIDE % pool:
        raise UserError(f"Fashion-MNIST: pool={pool}: expected a divisor of {SIDE}, the side of a picture")
    for name, limit in limits.items():
        if limit < 0:
            raise UserError(f"Fashion-MNIST: {name}_examples={limit}: expected at least 0, which means all")
    prepared = preparation.load(FashionMnist, data_dir, files)
    return {name: _as_split(examples[: limits[name] or None], pool) for name, examples in prepared.items()}


def _as_split(examples: list[dict], pool: int) -> Split:
    labels = np.array([e["label"] for e in examples], np.int32)
    x = to_sequences(np.stack([e["image"] for e in examples]), pool)
    return Split(x, np.full(len(labels), x.shape[1], np.int32), labels)


def to_sequences(images: np.ndarray, pool: int) -> np.ndarray:
    """(n, 28, 28) uint8 to (n, L, 1) float32, L = (28 / pool)²: mean-pooled, row by row, normalised by MEAN and STD."""
    squares = images.reshape(len(images), SIDE // pool, pool, SIDE // pool, pool)
    grey = squares.mean(axis=(2, 4), dtype=np.float32) / 255
    return ((grey - MEAN) / STD).reshape(len(images), -1, 1)
