"""Several devices and processes compute what one device computes, and go on from each other's checkpoints."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from aire.utils import devices, processes
from aire.utils.errors import UserError
from tests.helpers import ROOT
from tests.training import on_devices

SMOKE = "--config=lra_listops_prune:smoke", "--config.prune.ratios=(0.0,0.5)"


def environment(n_devices: int) -> dict[str, str]:
    """Of a process with so many virtual devices."""
    flags = f"--xla_force_host_platform_device_count={n_devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}


def start(arguments, n_devices: int) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment(n_devices), **pipes)


def finish(*running: subprocess.Popen) -> list[tuple[str, str]]:
    """Wait for processes; return what each printed."""
    printed = [process.communicate(timeout=500) for process in running]
    assert [process.returncode for process in running] == [0] * len(running), printed
    return printed


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def assert_same(found: dict, expected: dict, on: list[int]) -> None:
    assert found["devices"] == on
    np.testing.assert_allclose(found["losses"], expected["losses"], rtol=1e-5)
    assert found["right"] == expected["right"]
    scale = np.abs(expected["moments"]).max()
    np.testing.assert_allclose(found["moments"], expected["moments"], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "forms", [("fsdp",), pytest.param(("tokens", "values", "documents"), marks=pytest.mark.slow, id="all")]
)
def test_four_devices_compute_what_one_does(forms, tmp_path):
    arguments = "-m", "tests.training.on_devices", str(tmp_path / "four"), ",".join(forms)
    [(printed, _)] = finish(start(arguments, 4))
    for form, found in json.loads(printed.splitlines()[-1]).items():
        assert_same(found, on_devices.measure(form, tmp_path / "one"), on=[1, 4])


@pytest.mark.slow
def test_two_processes_of_two_devices_compute_what_one_does(tmp_path):
    forms, port = ",".join(on_devices.FORMS), free_port()
    arguments = "-m", "tests.training.on_devices", str(tmp_path / "two"), forms, f"127.0.0.1:{port}", "2"
    (printed, _), _ = finish(*(start([*arguments, str(i)], 2) for i in range(2)))
    for form, found in json.loads(printed.splitlines()[-1]).items():
        assert_same(found, on_devices.measure(form, tmp_path / "one"), on=[2, 4])


def command(*more, workdir, data, methods="('aire','measured')") -> list[str]:
    return ["run.py", *SMOKE, f"--config.prune.methods={methods}", *more, f"--workdir={workdir}", f"--data_dir={data}"]


def two(*more, **folders) -> list[subprocess.Popen]:
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.distributed=('{address}',2,{i})" for i in range(2))
    return [start(command(*more, option, **folders), 2) for option in options]


def metrics(workdir: Path) -> dict[tuple[int, str], float]:
    """The values in metrics.csv by step and name."""
    rows = (row.split(",") for row in (workdir / "training" / "metrics.csv").read_text().splitlines()[1:])
    return {(int(step), name): float(value) for step, name, value in rows}


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """One process, two, one: each of the first two is stopped by its time limit."""
    folders = {"data": tmp_path / "data", "workdir": tmp_path / "run"}
    finish(start(command(data=tmp_path / "data", workdir=tmp_path / "whole"), 1))
    slice_ = "--config.train.max_minutes=0.00001"
    [(printed, said)] = finish(start(command(slice_, **folders), 1))
    assert re.search(r"stopped because the time is over; saved step 1 of 8 in .*; run the same command again", said)
    assert f"to go on: {Path(sys.executable).name} run.py --config=lra_listops_prune:smoke" in printed
    (printed, said), (silent, _) = finish(*two(slice_, **folders))
    assert re.search(r"time is over; saved step [23] of 8 in", said) and "to go on: " in printed
    assert "to go on" not in silent
    finish(start(command(**folders), 1))
    found, expected = metrics(folders["workdir"]), metrics(tmp_path / "whole")
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(*([*values.values()] for values in (found, expected)), rtol=1e-5)
    results = [json.loads((f / "results.json").read_text()) for f in (folders["workdir"], tmp_path / "whole")]
    assert results[0]["full"]["test"]["accuracy"] == results[1]["full"]["test"]["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_the_end_of_one_process_ends_the_other_with_one_line(victim, tmp_path):
    folders = {"data": tmp_path / "data", "workdir": tmp_path / "run", "methods": "('aire',)"}
    more = "--config.train.epochs=5", "--config.train.evaluate_every=4"
    running = two(*more, **folders)
    while not (tmp_path / "run" / "training" / "checkpoints" / "4").exists():
        time.sleep(0.02)
        assert all(process.poll() is None for process in running)
    running[victim].send_signal(signal.SIGKILL)
    _, errors = running[1 - victim].communicate(timeout=60)
    assert errors == "error: another process of this run has ended; run the same command again to go on\n"
    assert running[1 - victim].returncode != 0
    running[victim].communicate()
    before = metrics(tmp_path / "run")
    finish(*two(*more, **folders))
    after = metrics(tmp_path / "run")
    saved = [key for key in before if key[0] <= 4]
    assert saved and all(after[key] == before[key] for key in saved) and (20, "validation/accuracy") in after


def test_a_batch_that_does_not_divide_is_named_before_anything_slow(tmp_path):
    process = start(command("--config.train.batch_size=10", data=tmp_path / "data", workdir=tmp_path / "run"), 4)
    _, errors = process.communicate(timeout=500)
    assert errors == "error: train.batch_size=10: expected a multiple of 4, the 4 devices, such as 12\n"
    assert process.returncode == 1 and not (tmp_path / "data").exists()


@pytest.mark.parametrize("value", [("host", 2, 0), ("host:1", 2, 2), ("host:x", 2, 0), (":1", 2, 0), ("host:1", 2)])
def test_a_wrong_address_is_named(value):
    with pytest.raises(UserError, match=r"expected \(\) or \('host:port', processes, index\)"):
        processes.start(value)


def test_one_device_changes_nothing(monkeypatch):
    """No array is placed, and numbers are agreed on at once."""
    batch = {"x": np.ones(3)}
    assert jax.device_count() == 1
    assert devices.join_rows(batch) is batch and devices.place(batch) is batch
    assert devices.divide(None, batch["x"])[1] is batch["x"]
    assert devices.whole() is None and devices.shardings(batch, sharded=True) is None
    assert processes.Agreement()(7) == 7
    assert processes.of_first(batch) == batch
