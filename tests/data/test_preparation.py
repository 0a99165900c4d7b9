"""Preparing a dataset, here ListOps: kills, several processes, folders that cannot be written, damage."""

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

from aire.data.formats import preparation
from aire.data.formats.preparation import _check_index
from aire.data.listops import load
from aire.utils.errors import UserError
from tests.data.helpers import TINY, sequences, vary
from tests.helpers import refused


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of the only dataset in a folder, except its lock."""
    (dataset,) = folder.glob("list_ops/*")
    files = {str(path.relative_to(dataset)): path for path in dataset.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "lock"}


@pytest.mark.parametrize("shown", [True, False])
def test_the_progress_bars_of_tfds_keep_their_setting(shown, tmp_path):
    tfds.display_progress_bar(shown)
    try:
        load(tmp_path, TINY, length=32)
        assert tqdm_utils._active == shown
    finally:
        tfds.enable_progress_bar()


def test_killed_while_preparing(tmp_path):
    """After kill -9, the same call gives the same data and the same files as an uninterrupted preparation."""
    options = vary(TINY, train_examples=3000, max_length=100)
    code = f"from aire.data.listops import *; load({str(tmp_path / 'killed')!r}, {options!r}, length=100)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if re.match(r"preparing ListOps: \d+/3020", line):  # some examples are written
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    leftovers = [path.name for path in (tmp_path / "killed").glob("list_ops/*/*")]
    assert "1.0.0" not in leftovers
    assert any(name.startswith("incomplete.") for name in leftovers)
    resumed, full = (load(tmp_path / name, options, length=100) for name in ("killed", "full"))
    for name, split in full.items():
        np.testing.assert_array_equal(resumed[name].x, split.x)
        np.testing.assert_array_equal(resumed[name].y, split.y)
    assert contents(tmp_path / "killed") == contents(tmp_path / "full")


def test_waits_for_another_process(tmp_path, capsys):
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


def wait_for(read: Callable[[], str], seconds: float = 300) -> str:
    end = time.monotonic() + seconds
    while not (text := read()) and time.monotonic() < end:
        time.sleep(0.01)
    return text


def test_another_process_prepares_before_this_one_looks(tmp_path, monkeypatch):
    """The data appears after the builder is made, which then knows of no splits."""
    make = preparation._builder

    def make_and_wait(*args):
        monkeypatch.setattr(preparation, "_builder", make)
        builder = make(*args)
        load(tmp_path, TINY, length=32)
        return builder

    monkeypatch.setattr(preparation, "_builder", make_and_wait)
    found = load(tmp_path, TINY, length=32)
    np.testing.assert_array_equal(found["train"].x, load(tmp_path, TINY, length=32)["train"].x)


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    with refused(r"cannot write .*/data/.*: Not a directory; .* choose another folder"):
        load(tmp_path / "data", TINY, length=32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_dir_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with refused(r"cannot write .*: Permission denied"):
        load(tmp_path / "data", TINY, length=32)


def test_full_disk(tmp_path):
    """A limit on the size of files acts like a full disk. Afterwards, the incomplete files are not used."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with refused(r"cannot write .*list_ops.*: File too large; free some space", tmp_path):
            load(tmp_path, TINY, length=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(load(tmp_path, TINY, length=32)["train"]) == 30


def test_a_flipped_bit_in_the_index_is_found(tmp_path):
    """Every byte of the index and of its digests: a changed digit of a shard's length would drop examples."""
    expected = sequences(load(tmp_path, TINY, length=32)["train"])
    (folder,) = tmp_path.glob("list_ops/*/1.0.0")
    for name in ("dataset_info.json", "features.json", "digests.json"):
        content, harmless = (folder / name).read_bytes(), 0
        for place in range(0, len(content), 1 if name == "digests.json" else 7):
            flipped = bytes([content[place] ^ 1 << place % 8])
            (folder / name).write_bytes(content[:place] + flipped + content[place + 1 :])
            try:
                _check_index(folder)
            except UserError as error:
                assert "\n" not in str(error)
                continue
            harmless += 1
            assert sequences(load(tmp_path, TINY, length=32)["train"]) == expected
        (folder / name).write_bytes(content)
        assert harmless <= (5 if name == "digests.json" else 0)  # other white space
    (folder / "dataset_info.json").write_bytes((folder / "dataset_info.json").read_bytes().replace(b"30", b"10"))
    with refused(r"the prepared data in .* is damaged \(different from what was written: dataset_info.json\)"):
        load(tmp_path, TINY, length=32)


def test_an_index_of_an_older_version_is_read_with_a_warning(tmp_path, caplog):
    load(tmp_path, TINY, length=32)
    (path,) = tmp_path.glob("list_ops/*/1.0.0/digests.json")
    path.unlink()
    assert len(load(tmp_path, TINY, length=32)["train"]) == 30
    (message,) = (record.getMessage() for record in caplog.records)
    assert f"{path.parent} has no digests.json" in message
    info = path.with_name("dataset_info.json")
    info.write_bytes(info.read_bytes().replace(b"ListOps", b"\xffistOps"))
    with refused("the prepared data in .* is damaged"):
        load(tmp_path, TINY, length=32)


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
            place = content.index(b"\x00" * 64) // 2  # in the records, before the padding
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        case "remove":
            path.unlink()
    with refused(r"the prepared data in .*list_ops.* is damaged .*delete that folder"):
        load(tmp_path, TINY, length=32)
