"""Signals: where a run stops, what it prints, its exit code, and that it resumes."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from aire.utils import stopping
from tests.experiments.conftest import ROOT, command

TRAINING = ("--config=lra_listops_prune:smoke", "--config.train.epochs=2000", "--config.train.evaluate_every=8000")


@pytest.fixture(autouse=True)
def handlers():
    """Set Python's own handlers, because nohup and a shell's background jobs let their processes ignore signals."""
    own = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@contextlib.contextmanager
def running(*args):
    """A process that is killed at the end of the block."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(args, cwd=ROOT, **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_signal_during_the_training_saves_the_last_step(data, tmp_path):
    """No evaluation is due in this training, so every checkpoint is one of a signal."""
    saved = [0]
    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        with running(*command(*TRAINING, data=data, workdir=tmp_path)) as process:
            seen = next(line for line in process.stdout if line.startswith("training: "))
            process.send_signal(signal.Signals[name])
            _, errors = process.communicate(timeout=300)
        assert process.returncode == 128 + signal.Signals[name] and "Traceback" not in errors
        assert errors.startswith(f"{name}: stopping where nothing is lost")
        said = re.search(rf"stopped by {name}; saved step (\d+) of 8000 in (.*); run the same command again", errors)
        assert os.path.isdir(said[2]) and said[2].endswith(f"checkpoints/{said[1]}")
        assert not (tmp_path / "running.json").exists()
        assert int(re.match(r"training: (\d+)/", seen)[1]) > saved[-1]
        saved.append(int(said[1]))
    assert saved == sorted(set(saved))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_during_the_imports_ends_without_a_traceback(name, tmp_path):
    with running(sys.executable, "-X", "importtime", "run.py", "--help") as process:
        next(line for line in process.stderr if "jax" in line)
        process.send_signal(signal.Signals[name])
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.Signals[name]
    assert f"stopped by {name} before the run started\n" in errors and "Traceback" not in errors


STUCK = """
import ctypes, sys
from aire.utils import stopping
try:
    with stopping.on_signals(), stopping.deferred():
        print("ready", flush=True)
        mutex = ctypes.create_string_buffer(64)
        for _ in range(2):  # the second call waits forever, without computing, and no handler of Python runs
            ctypes.CDLL(None).pthread_mutex_lock(mutex)
        stopping.check()
except stopping.Stopped as stop:
    print(stop)
    sys.exit(stop.exit_code)
"""


def test_a_second_signal_ends_at_once_even_in_a_long_call():
    with running(sys.executable, "-c", STUCK) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stderr.readline().startswith("SIGTERM: stopping where nothing is lost")
        time.sleep(2 * stopping.SAME_SIGNAL)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 130
        assert process.stderr.read() == ""


@pytest.mark.parametrize("number", stopping.SIGNALS)
def test_a_signal_is_raised_at_once_or_at_the_next_check(number):
    before = signal.getsignal(number)
    with stopping.on_signals(), pytest.raises(stopping.Stopped, match=number.name) as stopped:
        os.kill(os.getpid(), number)
        time.sleep(60)
    with stopping.on_signals(), stopping.deferred():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        with pytest.raises(stopping.Stopped):
            stopping.check()
    assert stopped.value.exit_code == 128 + number
    assert signal.getsignal(number) is before
    stopping.check()  # the request is cleared


class Doomed:
    """Its finaliser gets a signal. Python ignores what a finaliser raises."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def test_a_signal_in_a_finaliser_is_not_lost(capfd):
    start = time.monotonic()
    with stopping.on_signals(), pytest.raises(stopping.Stopped, match="SIGTERM"):
        Doomed()
        time.sleep(60)
    assert time.monotonic() - start < 30  # the sleep was interrupted
    assert capfd.readouterr().err == "SIGTERM: stopping where nothing is lost; a second signal stops at once\n"


def test_an_ignored_signal_stays_ignored(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.on_signals():
            os.kill(os.getpid(), signal.SIGHUP)
            stopping.check()
    finally:
        signal.signal(signal.SIGHUP, before)
