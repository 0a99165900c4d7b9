"""Read public archives without unpacking them: downloaded once and verified, or from a user's folder.

No member is written to disk, so no member's name can escape a folder. Absolute names and names with `..` are refused
anyway. Links and devices are ignored, because they hold no data. A wanted member that occurs twice is refused. So is an
archive that unpacks to much more than its own size (`aire.utils.limits`).
"""

import abc
import dataclasses
import gzip
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from time import perf_counter
from typing import Any

import pooch
import requests

from aire.utils import digests, limits
from aire.utils.errors import UserError
from aire.utils.files import locked, reading, writing
from aire.utils.limits import Bounded
from aire.utils.progress import Progress

MEGABYTE = 1_000_000
TIMEOUT = 60  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Archive:
    """A public file.

    Attributes:
        title: name in messages.
        url: address of the file; its last part is the file's name.
        sha256: checksum in hexadecimal.
        size: size in bytes.
        root: folder of the data in a tar file, such as "aclImdb", or "".
        pattern: regular expression for the names of the wanted members of a tar file, relative to `root`.
        advice: how to get the file by hand, as the end of a message. Empty: from `url`.
    """

    title: str
    url: str
    sha256: str
    size: int
    root: str = ""
    pattern: str = ".*"
    advice: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def how_to_get(self) -> str:
        """How to get the file without a network connection, as the end of a message."""
        return self.advice or (
            f"needed: {self.name}, {megabytes(self.size)}; get it from {self.url} "
            "and name its folder with --config.data.folder=FOLDER"
        )


@dataclasses.dataclass(frozen=True)
class Files:
    """The files in a tar archive: the published one, or a user's.

    Attributes:
        archive: the archive.
        data_dir: folder of prepared datasets. The published archive is stored in its folder `downloads`.
        folder: the archive, a folder that contains it, or its extracted tree. Contents are not checksummed. Empty: the
            published archive, downloaded at the first read.
    Raises:
        UserError: (by the methods) the archive is missing or damaged, or cannot be downloaded.
    """

    archive: Archive
    data_dir: str | Path
    folder: str | Path = ""

    def config_name(self) -> str:
        """A name that changes with the files, so that data prepared from other files is not reused.

        For an extracted tree it depends on names, sizes and times only, because there may be 100,000 files.
        """
        if not self.folder:
            return "published"
        path = self._path()
        if path.is_dir():
            stats = ((name, file.stat()) for name, file in self._tree(path))
            seen = [f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats]
            digest = digests.of_text("".join(seen))
        else:
            digest = digests.of_file(path)
        return "published" if digest == self.archive.sha256 else f"folder_{digest[:16]}"

    def is_in_folder(self) -> bool:
        """Whether the user's folder contains the archive or some of its extracted files."""
        path = self._path()
        return any(True for _ in self._tree(path)) if path.is_dir() else path.name == self.archive.name

    def members(self) -> Iterator[tuple[str, bytes]]:
        """Yield names, relative to `archive.root`, and contents of all wanted files, one at a time.

        In the order of the archive, or sorted by name from a folder.
        """
        path = self._path()
        found = False
        for name, content in self._unpacked(path) if path.is_dir() else self._packed(path):
            found = True
            yield name, content
        if not found:
            raise UserError(f"{path}: no files of {self.archive.title} in it; {self.archive.how_to_get}")

    def _path(self) -> Path:
        """The archive, or the folder that corresponds to its `root`."""
        if not self.folder:
            return download(self.archive, Path(self.data_dir, "downloads"))
        folder = Path(self.folder)
        if folder.is_file():
            return folder
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; {self.archive.how_to_get}")
        if (folder / self.archive.name).is_file():
            return folder / self.archive.name
        parts = PurePosixPath(self.archive.root).parts  # the user's folder may be any of them
        below = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
        return next(filter(Path.is_dir, below), folder)

    def _tree(self, root: Path) -> Iterator[tuple[str, Path]]:
        """Names and paths of all wanted files, sorted by name."""
        with reading(root):
            files = [Path(folder, file) for folder, _, names in os.walk(root) for file in names]
            named = sorted((file.relative_to(root).as_posix(), file) for file in files)
            yield from ((name, file) for name, file in named if self._wants(name) and file.is_file())

    def _unpacked(self, root: Path) -> Iterator[tuple[str, bytes]]:
        for name, file in self._tree(root):
            with reading(file):
                content = file.read_bytes()
            yield name, content

    def _packed(self, path: Path) -> Iterator[tuple[str, bytes]]:
        try:
            with _unzipped(path) as file, tarfile.open(fileobj=file, mode="r|") as tar:
                yield from self._wanted(tar, path)
                while file.read(MEGABYTE):  # read to the end, where gzip's checksum is
                    pass
        except UserError:
            raise
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: damaged or not a tar archive ({error}); {self.archive.how_to_get}") from error

    def _wanted(self, tar: tarfile.TarFile, path: Path) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the wanted members. Raise UserError if the archive could fill the memory."""
        seen: set[str] = set()
        for count, member in enumerate(tar, 1):
            limits.check_members(count, path)
            limits.check_unpacked(member.size, path.stat().st_size, path)
            name = self._below_root(member.name, path)
            if name is not None and self._wants(name) and member.isreg():
                if name in seen:
                    raise UserError(f"{path}: refused, because its member {name[:200]!r} occurs twice; get it again")
                seen.add(name)
                content = tar.extractfile(member)
                assert content is not None  # it is a regular file
                yield name, content.read()
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every member otherwise

    def _below_root(self, member: str, path: Path) -> str | None:
        """A member's name relative to `root`; None if it is elsewhere."""
        name = PurePosixPath(member)
        if name.is_absolute() or ".." in name.parts:
            reason = f"its member {member[:200]!r} leads outside"
            raise UserError(f"{path}: refused, because {reason}; {self.archive.how_to_get}")
        root = PurePosixPath(self.archive.root)
        return name.relative_to(root).as_posix() if name.is_relative_to(root) else None

    def _wants(self, name: str) -> bool:
        return re.fullmatch(self.archive.pattern, name) is not None


def is_gzip(content: bytes) -> bool:
    """Whether the content is compressed. The name is no evidence, because browsers may decompress without renaming."""
    return content.startswith(b"\x1f\x8b")


@contextmanager
def _unzipped(path: Path) -> Iterator:
    """Open a file for reading, through gzip if it is compressed. Unpacked content is bounded."""
    with open(path, "rb") as file:
        if is_gzip(file.peek(2)):
            with gzip.open(file) as unzipped:
                yield Bounded(unzipped, path.stat().st_size, path)
            return
        # A tar file ends with zeros. Without them it is truncated, which tarfile does not notice; gzip has a checksum.
        file.seek(-min(512, path.stat().st_size), os.SEEK_END)
        if any(file.read()):
            raise EOFError("no end of archive")
        file.seek(0)
        yield file


@dataclasses.dataclass(frozen=True)
class ArchiveSource(abc.ABC):
    """A source (see `preparation.Source`) that reads all examples of an archive into memory. A dataset defines `read`.

    Attributes:
        files: the files in the archive.
    """

    files: Files

    @abc.abstractmethod
    def read(self) -> Mapping[str, Sequence]:
        """Return the examples of each split."""

    def config_name(self) -> str:
        return self.files.config_name()

    def sizes(self) -> dict[str, int]:
        return {name: len(examples) for name, examples in self.splits().items()}

    def splits(self) -> Mapping[str, Sequence]:
        return self._splits

    @cached_property
    def _splits(self) -> Mapping[str, Sequence]:
        return self.read()


# Downloading ---------------------------------------------------------------------------------------------------------


def download(archive: Archive, folder: Path) -> Path:
    """Download the published file to `folder`, unless a valid copy exists. Return its path.

    If several processes need it at once, one downloads it and the others wait.

    Raises:
        UserError: the file cannot be downloaded or written, or differs from the published one.
    """
    path = folder / archive.name
    pooch.get_logger().setLevel("WARNING")  # `_fetch` reports instead
    with writing(path), locked(folder, f"downloads to {folder}"):
        for leftover in folder.glob("tmp*"):  # from a killed process, because this one holds the lock
            leftover.unlink()
        try:
            pooch.retrieve(archive.url, archive.sha256, archive.name, folder, downloader=partial(_fetch, archive))
        except requests.RequestException as error:
            raise UserError(f"cannot download {archive.url} ({error}); {archive.how_to_get}") from error
        except ValueError as error:  # the hash differs
            reason = str(error).partition(". ")[0]
            raise UserError(f"{archive.url}: not the published file: {reason}; {archive.how_to_get}") from error
    return path


def _fetch(archive: Archive, url: str, temporary: str, _: object) -> None:
    """Download for pooch, with progress."""
    print(f"{archive.title}: downloading {megabytes(archive.size)} from {url}", flush=True)
    os.remove(temporary)  # readable by this user only, but other users may share the folder
    total = -(-archive.size // MEGABYTE)
    with (
        Progress(f"downloading {archive.name}", total, unit="megabyte") as progress,
        _Received(io.FileIO(temporary, "wb"), archive.size, progress) as file,
    ):
        options = {"timeout": TIMEOUT, "headers": {"Accept-Encoding": "identity"}}  # the published bytes
        pooch.HTTPDownloader(chunk_size=MEGABYTE, **options)(url, file, None)


class _Received(io.BufferedWriter):
    """A file that reports progress and refuses to grow beyond `most` bytes."""

    def __init__(self, raw: io.RawIOBase, most: int, progress: Progress):
        super().__init__(raw)
        self.most, self.progress, self.start = most, progress, perf_counter()

    def write(self, chunk: Any) -> int:
        if (received := self.tell() + len(chunk)) > self.most:
            raise ValueError(f"more than its {self.most:,} bytes")
        self.progress.update(1, **{"MB/s": received / MEGABYTE / (perf_counter() - self.start)})
        return super().write(chunk)


def megabytes(size: int) -> str:
    """170052171 -> "170.1 MB", 4542 -> "5 kB"."""
    return f"{size / MEGABYTE:,.1f} MB" if size >= MEGABYTE / 10 else f"{size / 1000:,.0f} kB"
