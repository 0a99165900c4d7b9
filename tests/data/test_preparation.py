"""Preparing a dataset once, by the example of ListOps: kills, several processes, folders without room, damage."""

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from filelock import FileLock
from tensorflow_datasets.core.utils import tqdm_utils

from aire.data.listops import load
from aire.utils.errors import UserError
from tests.data.listops_data import TINY, sequences, vary


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the one dataset prepared in a folder, but for its lock."""
    (dataset,) = folder.glob("list_ops/*")
    files = {str(path.relative_to(dataset)): path for path in dataset.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "lock"}


@pytest.mark.parametrize("shown", [True, False])
def test_bars_of_tfds_stay_as_the_user_had_them(shown, tmp_path):
    tfds.display_progress_bar(shown)
    try:
        load(tmp_path, TINY, length=32)
        assert tqdm_utils._active == shown
    finally:
        tfds.enable_progress_bar()


def test_killed_while_preparing(tmp_path):
    """kill -9, then the same call: it works, the data is that of a preparation that was left alone, nothing is left."""
    options = vary(TINY, train_examples=3000, max_length=100)
    code = f"from aire.data.listops import *; load({str(tmp_path / 'killed')!r}, {options!r}, length=100)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if re.match(r"preparing ListOps: \d+/3020", line):  # some examples are done
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    leftovers = [path.name for path in (tmp_path / "killed").glob("list_ops/*/*")]
    assert "1.0.0" not in leftovers
    assert any(name.startswith("incomplete.") for name in leftovers)
    resumed, whole = (load(tmp_path / name, options, length=100) for name in ("killed", "whole"))
    for name, split in whole.items():
        np.testing.assert_array_equal(resumed[name].x, split.x)
        np.testing.assert_array_equal(resumed[name].y, split.y)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_waits_for_another_process_that_prepares(tmp_path, capsys):
    folder = tmp_path / "list_ops" / TINY.config_name()
    folder.mkdir(parents=True)
    found: list[dict] = []
    thread = threading.Thread(target=lambda: found.append(load(tmp_path, TINY, length=32)))
    with FileLock(folder / "lock"):
        thread.start()
        output = wait_for(lambda: capsys.readouterr().out)
        assert "waiting for another process that prepares" in output
        assert not found
    thread.join()
    assert sequences(found[0]["train"]) == sequences(load(tmp_path / "alone", TINY, length=32)["train"])


def wait_for(read: Callable[[], str], seconds: float = 30) -> str:
    end = time.monotonic() + seconds
    while not (text := read()) and time.monotonic() < end:
        time.sleep(0.01)
    return text


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/data/.*: Not a directory; .* choose another folder"):
        load(tmp_path / "data", TINY, length=32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_dir_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write .*: Permission denied"):
        load(tmp_path / "data", TINY, length=32)


def test_full_disk(tmp_path):
    """A limit on the size of files fails as a full disk does, half-way; afterwards nothing half-written is taken."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*list_ops.*: File too large; free some space") as error:
            load(tmp_path, TINY, length=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("list_ops/*/*1.0.0"))
    assert len(load(tmp_path, TINY, length=32)["train"]) == 30


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "info"])
def test_damaged_after_preparing(tmp_path, damage):
    load(tmp_path, TINY, length=32)
    (path,) = tmp_path.glob(
        "list_ops/*/1.0.0/" + ("dataset_info.json" if damage == "info" else "*-train.array_record*")
    )
    content = path.read_bytes()
    match damage:
        case "cut" | "info":
            path.write_bytes(content[: len(content) // 2])
        case "flip":
            place = content.index(b"\x00" * 64) // 2  # within the records, which come before the padding
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        case "remove":
            path.unlink()
    with pytest.raises(UserError, match=r"what was prepared in .*list_ops.* is damaged .*delete that folder"):
        load(tmp_path, TINY, length=32)
