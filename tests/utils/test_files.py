"""Atomic writes: what a killed process leaves is deleted by the next write, and nothing else is."""

import os
import signal
import subprocess
import sys

from aire.utils import files
from aire.utils.files import write_bytes

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from aire.utils.files import write_bytes
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
write_bytes(Path(sys.argv[1]), b"new")
"""


def test_what_a_killed_process_left_is_deleted_by_the_next_write(tmp_path):
    path = tmp_path / "model[1].safetensors"  # brackets are no pattern here
    path.write_bytes(b"old")
    process = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, path])
    assert process.returncode == -signal.SIGKILL and path.read_bytes() == b"old"
    (leftover,) = tmp_path.glob(".model*.tmp")
    write_bytes(tmp_path / "other.safetensors", b"")
    assert leftover.exists()
    write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "other.safetensors"}


def test_temporary_files_of_others_are_left_alone(tmp_path):
    """Of a process that still runs, of another machine, and files that only look like one."""
    running = f".file.{files._HOST}.{os.getppid()}.tmp"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [running, f".file.elsewhere.{ended.pid}.tmp", f".file.{files._HOST}.²³.tmp", f".file.{files._HOST}.-1.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    write_bytes(tmp_path / "file", b"")
    assert {file.name for file in tmp_path.iterdir()} == {"file", *names}
