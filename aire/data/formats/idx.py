"""Pictures and labels in four idx files, the format of MNIST: 28×28 grey values, one byte each."""

import dataclasses
import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

import numpy as np

from aire.data.formats import pixels
from aire.data.formats.archives import Archive, download
from aire.data.formats.pixels import LEAST, Labelled
from aire.utils.errors import UserError
from aire.utils.files import reading

SIDE = 28


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


@dataclasses.dataclass(frozen=True)
class Checksums:
    """A published file: its size, packed by gzip, and the SHA-256 of that and of what it holds.

    Both are needed: who packs the same bytes again gets another header.
    """

    size: int
    packed: str
    unpacked: str


@dataclasses.dataclass(frozen=True)
class Published:
    """A dataset of four files.

    Attributes:
        title: its name in messages.
        url: the address of their folder, with a slash at the end.
        files: each one's checksums by its name, without .gz.
        package: folder of a Debian package that holds the same; None: there is none.
    """

    title: str
    url: str
    files: Mapping[str, Checksums]
    package: Path | None = None

    @property
    def how_to_get(self) -> str:
        """What a user can do without a network, as the end of a message."""
        size = sum(file.size for file in self.files.values()) / 1e6
        by_hand = (
            f"get {', '.join(f'{name}.gz' for name in self.files)}, {size:.0f} MB, from {self.url} "
            "and name their folder with --config.data.folder=FOLDER"
        )
        return f"install Debian's package dataset-{self.package.name}, or {by_hand}" if self.package else by_hand

    def archive(self, name: str) -> Archive:
        """What to download for the file of this name."""
        file = self.files[name]
        return Archive(self.title, f"{self.url}{name}.gz", file.packed, file.size, advice=self.how_to_get)


@dataclasses.dataclass(frozen=True)
class Files(pixels.Files):
    """The four files, as published or from a folder.

    Attributes:
        published: the dataset.
        held_out: which of n training pixels are for validation, (n,) bool, as a function of n.
        data_dir: folder of prepared datasets; downloads are kept below it.
        folder: holds the four, each with .gz or without; any pixels of their format are taken. Empty: the published
            ones, from Debian's package where that is installed and else downloaded; their checksums are verified.
    Raises:
        UserError: (by its methods) a file is missing, damaged, not the published one, or cannot be downloaded.
    """

    published: Published
    held_out: Callable[[int], np.ndarray]
    data_dir: str | Path
    folder: str | Path = ""

    def config_name(self) -> str:
        if not self.folder:
            return "published"
        digests = {name: file.digest for name, file in self.contents.items()}
        whole = hashlib.sha256("".join(digests.values()).encode()).hexdigest()
        is_published = digests == {name: file.unpacked for name, file in self.published.files.items()}
        return "published" if is_published else f"folder_{whole[:16]}"

    def read(self) -> tuple[Labelled, Labelled]:
        return self._pair("train", least=LEAST), self._pair("t10k", least=1)

    def validates(self, n: int) -> np.ndarray:
        return self.held_out(n)

    @cached_property
    def contents(self) -> dict[str, IdxFile]:
        """The files by their names."""
        return self._from_folder(Path(self.folder)) if self.folder else self._as_published()

    def _pair(self, stem: str, least: int) -> Labelled:
        """The pixels and labels of two files that belong together, at least `least`."""
        first, second = self.contents[f"{stem}-images-idx3-ubyte"], self.contents[f"{stem}-labels-idx1-ubyte"]
        images, labels = first.parse((SIDE, SIDE)), second.parse(())
        if len(images) != len(labels):
            raise UserError(f"{second.where}: {len(labels):,} labels for the {len(images):,} of {first.where}")
        pixels.check_labels(second.where, labels, least)
        return images, labels

    def _from_folder(self, folder: Path) -> dict[str, IdxFile]:
        names = self.published.files
        paths = {name: next(filter(Path.is_file, (folder / f"{name}.gz", folder / name)), None) for name in names}
        missing = [name for name, path in paths.items() if path is None]
        if missing:
            raise UserError(
                f"{folder}: no {', '.join(missing)} there, with .gz or without; {self.published.how_to_get}"
            )
        return {name: _read(path) for name, path in paths.items()}

    def _as_published(self) -> dict[str, IdxFile]:
        """The files as published, verified. Debian's first: no wait for a download, and the bytes are the same."""
        package = self.published.package
        if package and package.is_dir():
            print(f"{self.published.title}: taking the files of Debian's package, {package}", flush=True)
            files = self._from_folder(package)
        else:
            downloads = Path(self.data_dir, "downloads", self.published.title)  # the names are MNIST's for all of them
            files = {name: _read(download(self.published.archive(name), downloads)) for name in self.published.files}
        for name, file in files.items():
            if file.digest != (expected := self.published.files[name].unpacked):
                raise UserError(
                    f"{file.where}: not the published file: SHA-256 of what it holds is {file.digest}, "
                    f"expected {expected}; {self.published.how_to_get}"
                )
        return files


def _read(path: Path) -> IdxFile:
    with reading(path):
        return unpack(path.read_bytes(), str(path))
