"""Atomic writes: the next write deletes what a killed process left, and nothing else. The layout of JSON files."""

import json
import os
import signal
import subprocess
import sys

from aire.utils import files
from aire.utils.files import write_bytes, write_json

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


def test_json_has_a_line_for_each_long_entry(tmp_path):
    value = {"short": {"a": [1, {"b": None}]}, "numbers": [0.5] * 99, "long": {"x": ["é" * 50, {}], "y": ["c" * 80]}}
    write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text()
    assert json.loads(text) == value
    lines = ["{", ' "short": {"a": [1, {"b": null}]},', f' "numbers": {[0.5] * 99},', ' "long": {']
    lines += [f'  "x": [\n   {json.dumps("é" * 50)},\n   {{}}\n  ],', f'  "y": ["{"c" * 80}"]', " }", "}"]
    assert text == "\n".join(lines) + "\n"
