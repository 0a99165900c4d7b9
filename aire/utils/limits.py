"""Limits on what a compressed file unpacks to, so that a small file cannot fill the memory."""

from gzip import GzipFile
from pathlib import Path
from typing import IO

from aire.utils.errors import UserError

RATIO, ROOM = 10, 2**26  # of published data, texts have the largest ratio: 4
MOST_MEMBERS = 250_000  # Speech Commands has 106,000


def most_unpacked(packed: int) -> int:
    """Return how many bytes a file of `packed` bytes may unpack to."""
    return RATIO * packed + ROOM


def check_unpacked(unpacked: int, packed: int, where: object) -> None:
    """Raise UserError if a file unpacks to more bytes than `most_unpacked` allows."""
    if unpacked > (most := most_unpacked(packed)):
        raise UserError(
            f"{where}: refused, because it unpacks to more than {most:,} bytes, {RATIO} times its own size and "
            f"{ROOM:,} bytes; unpack it by hand if you trust it"
        )


def check_members(count: int, where: object) -> None:
    """Raise UserError if an archive has more than `MOST_MEMBERS` members."""
    if count > MOST_MEMBERS:
        raise UserError(f"{where}: refused, because it has more than {MOST_MEMBERS:,} members")


class Bounded:
    """A readable file that refuses to be read beyond what its packed size allows."""

    def __init__(self, file: IO[bytes] | GzipFile, packed: int, where: str | Path):
        self._file, self._packed, self._where, self._read = file, packed, where, 0

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes, or all if it is negative. Raise UserError beyond the limit."""
        left = most_unpacked(self._packed) - self._read + 1
        content = self._file.read(left if size < 0 else min(size, left))
        self._read += len(content)
        check_unpacked(self._read, self._packed, self._where)
        return content
