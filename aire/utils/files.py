"""Atomic writes and locks. A crash, a kill or a full disk leaves the old content or the new one.

Files that cannot be read or written raise one clear error.
"""

import glob
import json
import os
import platform
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aire.utils.errors import UserError

_HOST = re.sub(r"[^A-Za-z0-9-]", "_", platform.node())[:32] or "_"


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn an OSError inside the block (full disk, no permission, not a folder) into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"cannot write {path}: {reason}; free some space there or choose another folder") from error


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn an OSError inside the block into a UserError that names `path`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Run the block in one process at a time. Other processes print that they wait, and for what.

    The lock is the file `lock` in `folder`, which is created if missing. It is released when its process ends.

    Args:
        doing: what the process with the lock does, for the message: "another process that …".
    Raises:
        UserError: the folder cannot be written.
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


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Run the block as the only process in a folder, which is created if missing.

    The lock is the file `lock` in the folder, as of `locked`. The file `running.json` says who holds it.

    Raises:
        UserError: another process is there, which the message describes, or the folder cannot be written.
    """
    lock, holder = FileLock(folder / "lock"), folder / "running.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"{folder} is in use by {_describe(holder)}; wait for it, or choose another --workdir"
            ) from None
    try:
        command = shlex.join([Path(sys.executable).name, *sys.argv])
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
        write_text(holder, json.dumps(who))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    """Describe the process that a file of `occupied` names."""
    try:
        who = json.loads(holder.read_bytes())
        return f"process {who['pid']} on {who['host']} since {who['since']}: {who['command']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just started or is about to end
        return "another process"


def sync(path: str | Path) -> None:
    """Flush the content of a file, or the entries of a folder, to the disk. Raise OSError if that fails."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically, and create its folder if missing. Raise UserError if it cannot be written.

    What a killed process left of an earlier write of this file is deleted.
    """
    path = Path(path)
    # In the same folder, because os.replace is atomic only within a file system. With the machine and the process ID,
    # because two processes may write at once.
    temporary = path.with_name(f".{path.name}.{_HOST}.{os.getpid()}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _delete_leftovers(path)
        try:
            temporary.write_bytes(data)
            sync(temporary)
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync(path.parent)


def _delete_leftovers(path: Path) -> None:
    """Delete the temporary files of `path` whose process has ended. Those of other machines are left alone."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{_HOST}.*.tmp"):
        pid = leftover.name.split(".")[-2]
        if re.fullmatch(r"[0-9]{1,9}", pid) and not _is_running(int(pid)):
            leftover.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    """Whether a process exists on this machine. True where this cannot be asked without harm."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)  # sends nothing
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def write_text(path: str | Path, text: str) -> None:
    """`write_bytes` for text, in UTF-8, with line ends unchanged."""
    write_bytes(path, text.encode())


def write_json(path: str | Path, value: Any) -> None:
    """`write_text` for a value that JSON holds, laid out by `json_text`."""
    write_text(path, json_text(json.loads(json.dumps(value))) + "\n")


def json_text(value: Any, indent: str = "") -> str:
    """Lay out a value of `json.loads`. Entries get a line each, unless all fit on one line or none has entries itself.

    So a list of a thousand numbers is one line, where `json.dumps(value, indent=1)` writes a thousand.
    """
    line = json.dumps(value)
    entries = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if len(indent) + len(line) <= 120 or not any(isinstance(entry, dict | list) for entry in entries):
        return line
    inner = indent + " "
    texts = [json_text(entry, inner) for entry in entries]
    if isinstance(value, dict):
        texts = [f"{json.dumps(name)}: {text}" for name, text in zip(value, texts, strict=True)]
    return line[0] + f"\n{inner}" + f",\n{inner}".join(texts) + f"\n{indent}" + line[-1]
