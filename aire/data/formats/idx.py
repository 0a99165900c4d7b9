"""Images and labels in four idx files, the format of MNIST: 28×28 grey values, one byte each."""

import dataclasses
import gzip
import io
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from aire.data.formats import pixels
from aire.data.formats.archives import Archive, download, is_gzip
from aire.data.formats.pixels import MIN_TRAIN_IMAGES, ImageSource, Labelled
from aire.utils import digests
from aire.utils.errors import MissingFileError, UserError
from aire.utils.files import reading
from aire.utils.limits import Bounded

SIDE = 28


@dataclasses.dataclass(frozen=True)
class IdxFile:
    """An unpacked file. `where` is its origin, used in error messages."""

    where: str
    content: bytes

    @property
    def digest(self) -> str:
        """SHA-256, hexadecimal."""
        return digests.of_bytes(self.content)

    def parse(self, item: tuple[int, ...]) -> np.ndarray:
        """Decode items of a given shape, (n, *item) uint8.

        The format is described on Y. LeCun's MNIST page: two zero bytes, the type (8: unsigned bytes), the number of
        axes, the size of each axis (32 bits, big-endian), then the values, last axis fastest.

        Raises:
            UserError: the format, the shape of the items or the number of bytes is wrong.
        """
        magic = bytes((0, 0, 8, 1 + len(item)))
        header = 4 + 4 * magic[-1]
        if self.content[:4] != magic:
            found = self.content[:4].hex(" ") or "nothing"
            raise UserError(
                f"{self.where}: begins with {found}; expected an idx file that begins with {magic.hex(' ')}"
            )
        if len(self.content) < header:
            raise UserError(f"{self.where}: {len(self.content)} bytes, but the header needs {header}: truncated")
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
    """Decompress `data` if it is a gzip file.

    Raises:
        UserError: the gzip data is damaged, or unpacks to much more than its size.
    """
    if not is_gzip(data):
        return IdxFile(where, data)
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return IdxFile(where, Bounded(file, len(data), where).read())
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: cannot be unpacked ({error}); it is damaged, get it again") from error


@dataclasses.dataclass(frozen=True)
class Checksums:
    """Size of a published gzip file, and the SHA-256 of the gzip file and of its content.

    Both checksums are needed, because gzip headers differ between files with the same content.
    """

    size: int
    packed: str
    unpacked: str


@dataclasses.dataclass(frozen=True)
class Published:
    """A published dataset of four files.

    Attributes:
        title: the name of the dataset in messages.
        url: the address of the folder, with a trailing slash.
        files: checksums by file name without .gz.
        package: folder of a Debian package with the same files, if there is one.
    """

    title: str
    url: str
    files: Mapping[str, Checksums]
    package: Path | None = None

    @property
    def how_to_get(self) -> str:
        """How to get the files manually, as the end of a message."""
        size = sum(file.size for file in self.files.values()) / 1e6
        manually = (
            f"get {', '.join(f'{name}.gz' for name in self.files)}, {size:.0f} MB, from {self.url} "
            "and name their folder with --config.data.folder=FOLDER"
        )
        return f"install Debian's package dataset-{self.package.name}, or {manually}" if self.package else manually

    def archive(self, name: str) -> Archive:
        """Return the download of the file with this name."""
        file = self.files[name]
        return Archive(self.title, f"{self.url}{name}.gz", file.packed, file.size, advice=self.how_to_get)


@dataclasses.dataclass(frozen=True)
class IdxSource(ImageSource):
    """The four files of a dataset, downloaded or from a folder.

    Attributes:
        published: the dataset.
        held_out: returns a mask (n,) of the validation images among n training images.
        data_dir: folder of prepared datasets. Downloads are stored in it.
        folder: contains the files, each with or without .gz. Contents are not compared with the published ones. If
            empty, the published files are used: from Debian's package if it is installed, otherwise downloaded. Their
            checksums are verified.
    Raises:
        UserError: (from methods) a file is missing, damaged, not the published one, or cannot be downloaded.
    """

    published: Published
    held_out: Callable[[int], np.ndarray]
    data_dir: str | Path
    folder: str | Path = ""

    def config_name(self) -> str:
        if not self.folder:
            return "published"
        found = {name: file.digest for name, file in self.contents.items()}
        digest = digests.of_text("".join(found.values()))
        is_published = found == {name: file.unpacked for name, file in self.published.files.items()}
        return "published" if is_published else f"folder_{digest[:16]}"

    def read(self) -> tuple[Labelled, Labelled]:
        return self._pair("train", MIN_TRAIN_IMAGES), self._pair("t10k", 1)

    def is_validation(self, n: int) -> np.ndarray:
        return self.held_out(n)

    @cached_property
    def contents(self) -> dict[str, IdxFile]:
        """The files by name."""
        return self._from_folder(Path(self.folder)) if self.folder else self._as_published()

    def _pair(self, stem: str, minimum: int) -> Labelled:
        """Decode the images and labels of a split; raise if there are fewer than `minimum`."""
        first, second = self.contents[f"{stem}-images-idx3-ubyte"], self.contents[f"{stem}-labels-idx1-ubyte"]
        images, labels = first.parse((SIDE, SIDE)), second.parse(())
        if len(images) != len(labels):
            raise UserError(f"{second.where}: {len(labels):,} labels for the {len(images):,} images in {first.where}")
        pixels.check_labels(second.where, labels, minimum)
        return images, labels

    def _from_folder(self, folder: Path) -> dict[str, IdxFile]:
        names = self.published.files
        paths = {name: path for name in names for path in (folder / name, folder / f"{name}.gz") if path.is_file()}
        if missing := [name for name in names if name not in paths]:
            raise MissingFileError(
                f"{folder}: missing {', '.join(missing)} (with or without .gz); {self.published.how_to_get}"
            )
        return {name: _read(path) for name, path in paths.items()}

    def _as_published(self) -> dict[str, IdxFile]:
        """Read and verify the published files, preferably from Debian's package, which has the same bytes."""
        package = self.published.package
        if package and package.is_dir():
            print(f"{self.published.title}: using the files of Debian's package, {package}", flush=True)
            files = self._from_folder(package)
        else:
            downloads = Path(self.data_dir, "downloads", self.published.title)  # all datasets use MNIST's file names
            files = {name: _read(download(self.published.archive(name), downloads)) for name in self.published.files}
        for name, file in files.items():
            if file.digest != (expected := self.published.files[name].unpacked):
                raise UserError(
                    f"{file.where}: not the published file: the SHA-256 of its content is {file.digest}, "
                    f"expected {expected}; {self.published.how_to_get}"
                )
        return files


def _read(path: Path) -> IdxFile:
    with reading(path):
        return unpack(path.read_bytes(), str(path))
