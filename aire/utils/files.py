"""Writing files so that a crash, a kill or a full disk leaves the old content or the new one, never half of it.

And what cannot be written, or read, as one clear error.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from aire.utils.errors import UserError


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an OSError inside the block (full disk, no permission, not a folder) into one UserError naming `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; free some space there or choose another folder") from error


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn an OSError inside the block into one UserError naming `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


def sha256(path: str | Path) -> str:
    """Checksum of a file, hexadecimal. Raises UserError where it cannot be read."""
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Let one process at a time into the block; others say that they wait for one that does `doing`.

    The lock is the file `lock` in `folder`, which is made where needed. It ends with its process, however that ends.
    Raises UserError where the folder cannot be written.
    """
    lock = FileLock(folder / "lock")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"waiting for another process that {doing}", flush=True)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def sync(path: str | Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk itself. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a whole file atomically, making its folder where needed. Raises UserError where that is not possible."""
    path = Path(path)
    # In the same folder, for a rename is atomic only within one file system; with the process's id, for two may write.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            sync(temporary)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` for text, in UTF-8 and with the line ends it has."""
    write_bytes(path, text.encode())
