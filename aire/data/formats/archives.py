"""Public archives: downloaded once and verified, or taken from a folder; read as they are, never unpacked.

Nothing that an archive names is written anywhere, so no name in it can lead outside. Absolute names and names with `..`
are refused all the same; links and devices are ignored, since they hold no data.
"""

import dataclasses
import gzip
import hashlib
import io
import os
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from time import perf_counter

import pooch
import requests

from aire.utils.errors import UserError
from aire.utils.files import locked, reading, sha256, writing
from aire.utils.progress import Progress

MEGABYTE = 1_000_000
TIMEOUT = 60  # seconds without a byte


@dataclasses.dataclass(frozen=True)
class Archive:
    """A public file.

    Attributes:
        title: its name in messages.
        url: where it is published; the last part is the file's name.
        sha256: its checksum, hexadecimal.
        size: bytes.
        root: of a tar file, the folder in it that holds the data, such as "aclImdb"; "" if there is none.
        pattern: of a tar file, a regular expression that the whole names of the wanted members match, below `root`.
        advice: how else to get it, as the end of a message; empty: from `url` by hand.
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
        """Of the file."""
        return self.url.rpartition("/")[2]

    @property
    def how_to_get(self) -> str:
        """What a user can do without a network, as the end of a message."""
        return self.advice or (
            f"needed: {self.name}, {megabytes(self.size)}; get it from {self.url} "
            "and name its folder with --config.data.folder=FOLDER"
        )


@dataclasses.dataclass(frozen=True)
class Files:
    """The files in a tar archive: as published, or from a folder of the user's.

    Attributes:
        archive: which one.
        data_dir: folder of prepared datasets; the published archive is kept in `downloads` below it.
        folder: holds the archive, or what it unpacks to; the archive itself will do. Whatever has its format is taken.
            Empty: the published one, downloaded when first read.
    Raises:
        UserError: (by its methods) the archive is missing, damaged or cannot be downloaded.
    """

    archive: Archive
    data_dir: str | Path
    folder: str | Path = ""

    def config_name(self) -> str:
        """Names the files, so that changed ones are never taken for those that were read before.

        Unpacked files are told apart by names, sizes and times, for there may be 100,000 of them.
        """
        if not self.folder:
            return "published"
        path = self._path()
        if path.is_dir():
            stats = ((name, file.stat()) for name, file in self._tree(path))
            seen = [f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats]
            digest = hashlib.sha256("".join(seen).encode(errors="surrogateescape")).hexdigest()
        else:
            digest = sha256(path)
        return "published" if digest == self.archive.sha256 else f"folder_{digest[:16]}"

    def is_in_folder(self) -> bool:
        """Whether the user's folder has the archive by its name, or some of what it unpacks to."""
        path = self._path()
        return any(True for _ in self._tree(path)) if path.is_dir() else path.name == self.archive.name

    def members(self) -> Iterator[tuple[str, bytes]]:
        """Names below `archive.root` and contents of all wanted files, one in memory at a time.

        They come as an archive has them, and sorted by name from a folder.
        """
        path = self._path()
        found = False
        for name, content in self._unpacked(path) if path.is_dir() else self._packed(path):
            found = True
            yield name, content
        if not found:
            raise UserError(f"{path}: no files of {self.archive.title} in it; {self.archive.how_to_get}")

    def _path(self) -> Path:
        """The archive, or the folder that stands for its `root`."""
        if not self.folder:
            return download(self.archive, Path(self.data_dir, "downloads"))
        folder = Path(self.folder)
        if folder.is_file():
            return folder
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; {self.archive.how_to_get}")
        if (folder / self.archive.name).is_file():
            return folder / self.archive.name
        parts = PurePosixPath(self.archive.root).parts  # of which the user's folder may be any
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
                for member in tar:
                    name = self._below_root(member.name, path)
                    if name is not None and member.isreg() and self._wants(name):
                        yield name, tar.extractfile(member).read()
                    tar.members.clear()  # it would keep them all
                while file.read(MEGABYTE):  # to gzip's checksum, at the very end
                    pass
        except UserError:
            raise
        except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, OverflowError) as error:
            raise UserError(f"{path}: damaged or no tar archive ({error}); {self.archive.how_to_get}") from error

    def _below_root(self, member: str, path: Path) -> str | None:
        """A member's name below `root`; None where it lies elsewhere."""
        name = PurePosixPath(member)
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{path}: refused, for its member {member!r} leads outside; {self.archive.how_to_get}")
        root = PurePosixPath(self.archive.root)
        return name.relative_to(root).as_posix() if name.is_relative_to(root) else None

    def _wants(self, name: str) -> bool:
        return re.fullmatch(self.archive.pattern, name) is not None


def is_gzip(content: bytes) -> bool:
    """Whether a file is packed: its name does not tell, because browsers unpack and keep the name."""
    return content.startswith(b"\x1f\x8b")


@contextmanager
def _unzipped(path: Path) -> Iterator:
    """A file for reading, through gzip where it is packed."""
    with open(path, "rb") as file:
        if is_gzip(file.peek(2)):
            with gzip.open(file) as unzipped:
                yield unzipped
            return
        # gzip ends with a checksum; a bare tar file, with zeros: without them it is cut, and tarfile would not notice.
        file.seek(-min(512, path.stat().st_size), os.SEEK_END)
        if any(file.read()):
            raise EOFError("no end of archive")
        file.seek(0)
        yield file


# Downloading ---------------------------------------------------------------------------------------------------------


def download(archive: Archive, folder: Path) -> Path:
    """The published file, in `folder`; downloaded unless a good one is there.

    Of several processes that need it at once, one downloads it and the others wait.

    Raises:
        UserError: it cannot be downloaded, is not what was published, or cannot be written.
    """
    path = folder / archive.name
    pooch.get_logger().setLevel("WARNING")  # `_fetch` says what happens
    with writing(path), locked(folder, f"downloads to {folder}"):
        for leftover in folder.glob("tmp*"):  # of a killed process, because we hold the lock
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
    """The downloader that pooch calls."""
    print(f"{archive.title}: downloading {megabytes(archive.size)} from {url}", flush=True)
    os.remove(temporary)  # made for this user alone, but other users may share the folder
    total = -(-archive.size // MEGABYTE)
    with (
        _Received(io.FileIO(temporary, "wb")) as file,
        Progress(f"downloading {archive.name}", total, unit="megabyte") as progress,
    ):
        file.most, file.progress, file.start = archive.size, progress, perf_counter()
        options = {"timeout": TIMEOUT, "headers": {"Accept-Encoding": "identity"}}  # the bytes as they are published
        pooch.HTTPDownloader(chunk_size=MEGABYTE, **options)(url, file, None)


class _Received(io.BufferedWriter):
    """A file that shows how its download goes, and does not grow beyond `most` bytes."""

    def write(self, chunk: bytes) -> int:
        if (received := self.tell() + len(chunk)) > self.most:
            raise ValueError(f"more than its {self.most:,} bytes")
        self.progress.update(1, **{"MB/s": received / MEGABYTE / (perf_counter() - self.start)})
        return super().write(chunk)


def megabytes(size: int) -> str:
    """170052171 -> "170.1 MB", 4542 -> "5 kB"."""
    return f"{size / MEGABYTE:,.1f} MB" if size >= MEGABYTE / 10 else f"{size / 1000:,.0f} kB"
