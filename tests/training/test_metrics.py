"""Metrics and progress: a resumed run's CSV equals an uninterrupted one's; NaN is named; progress shows times."""

import errno
import io
import os
import struct
from pathlib import Path

import jax.numpy as jnp
import pytest
from rich.console import Console
from tensorboardX.proto.event_pb2 import Event, SessionLog

from aire.training.metrics import MetricsWriter, NonFiniteError, check_finite
from aire.utils import files, progress
from aire.utils.errors import UserError
from aire.utils.progress import Progress, duration


def values(step: int) -> dict[str, float]:
    return {"train/loss": jnp.float32(1 / (step + 1)), "lr": 1e-3 * step}


def write(writer, steps) -> MetricsWriter:
    for step in steps:
        writer.write(step, values(step))
    return writer


def read_events(folder) -> list[Event]:
    """The events of all files, in the order of writing. A record is: length (8 bytes), checksum, data, checksum."""
    events = []
    for path in sorted(folder.glob("events*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_csv_is_long_and_exact(tmp_path):
    with MetricsWriter(tmp_path / "new") as writer:
        writer.write(0, {"loss": 1 / 3, "accuracy": jnp.float32(0.5)})
    assert writer.path.read_text() == "step,metric,value\n0,loss,0.3333333333333333\n0,accuracy,0.5\n"


@pytest.mark.parametrize("torn", ["", "7,train/lo", "7,train/loss,0.1"])
def test_resumed_run_writes_the_same_csv(tmp_path, torn):
    write(MetricsWriter(tmp_path / "whole"), range(10)).close()
    killed = write(MetricsWriter(tmp_path / "resumed"), range(7))
    with open(killed.path, "a") as file:  # rows are with the system without any close or flush
        file.write(torn)
    write(MetricsWriter(tmp_path / "resumed", resume_step=4), range(5, 10)).close()
    assert (tmp_path / "resumed" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    killed.close()


def test_new_run_starts_anew(tmp_path):
    write(MetricsWriter(tmp_path), range(3)).close()
    MetricsWriter(tmp_path).close()
    assert (tmp_path / "metrics.csv").read_text() == "step,metric,value\n"


def test_tensorboard_events_tell_where_the_run_was_resumed(tmp_path):
    write(MetricsWriter(tmp_path), range(3)).close()
    write(MetricsWriter(tmp_path, resume_step=1), range(2, 3)).close()
    events = read_events(tmp_path)
    starts = [event.step for event in events if event.session_log.status == SessionLog.START]
    losses = [(e.step, v.simple_value) for e in events for v in e.summary.value if v.tag == "train/loss"]
    assert starts == [0, 2]
    assert losses == [(step, pytest.approx(1 / (step + 1))) for step in (0, 1, 2, 2)]


def test_foreign_csv_is_not_overwritten(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(UserError, match=r"metrics\.csv starts with 'epoch,loss'"):
        MetricsWriter(tmp_path, resume_step=3)
    assert (tmp_path / "metrics.csv").read_text() == "epoch,loss\n1,2\n"


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Not a directory") as error:
        MetricsWriter(tmp_path / "file" / "run")
    assert str(tmp_path / "file" / "run") in str(error.value)


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "nan"), (jnp.inf, "inf"), (jnp.float32(-jnp.inf), "-inf")])
def test_non_finite_metric_is_named(value, word):
    with pytest.raises(NonFiniteError) as error:
        check_finite(1200, {"accuracy": 0.5, "train/loss": value}, lambda: Path("/runs/a/1000"))
    assert str(error.value).startswith(f"train/loss is {word} at step 1200, training stopped; ")
    assert "the last good checkpoint is /runs/a/1000" in str(error.value)
    assert "accuracy" not in str(error.value)
    assert isinstance(error.value, UserError)


def test_finite_metrics_pass():
    check_finite(0, {"loss": 0.0, "accuracy": jnp.float32(1)}, lambda: None)


@pytest.mark.parametrize("name", ["replace", "fsync"])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, name):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    files.write_text(tmp_path / "a" / "report.md", "old")
    monkeypatch.setattr(os, name, fail)
    with pytest.raises(UserError, match="No space left on device") as error:
        files.write_text(tmp_path / "a" / "report.md", "new")
    assert str(tmp_path / "a" / "report.md") in str(error.value)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["report.md"]
    assert (tmp_path / "a" / "report.md").read_text() == "old"


@pytest.fixture
def clock(monkeypatch):
    """A list whose only element is the time in seconds that `Progress` sees."""
    now = [0.0]
    monkeypatch.setattr(progress, "perf_counter", lambda: now[0])
    return now


def run(clock, seconds, total=20, **kwargs):
    with Progress("training", total, **kwargs) as shown:
        for i, time in enumerate(seconds):
            clock[0] += time
            shown.update(1, loss=jnp.float32(1 / (i + 1)), accuracy=0.5)


def test_plain_lines(clock, capsys):
    run(clock, [9.0] + [1.0] * 19)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "training: 2/20 steps (10%), 10 s so far, 18 s left, loss 0.5, accuracy 0.5",
        "training: 20 steps will take about 28 s",  # the first step's compilation counts once
        "training: 4/20 steps (20%), 12 s so far, 16 s left, loss 0.25, accuracy 0.5",
    ]
    assert lines[-1] == "training: 20/20 steps (100%), 28 s so far, loss 0.05, accuracy 0.5"
    assert len(lines) == 11


def test_slow_steps_are_shown_every_half_minute_and_estimated_early(clock, capsys):
    run(clock, [60.0] + [20.0] * 4, total=1000)
    assert capsys.readouterr().out.splitlines() == [
        "training: 1/1000 steps (0%), 1 min 0 s so far, loss 1, accuracy 0.5",
        "training: 1000 steps will take about 5 h 34 min",
        "training: 3/1000 steps (0%), 1 min 40 s so far, 5 h 32 min left, loss 0.3333, accuracy 0.5",
        "training: 5/1000 steps (0%), 2 min 20 s so far, 5 h 31 min left, loss 0.2, accuracy 0.5",
    ]


def test_resumed_work_is_estimated_from_what_is_left(clock, capsys):
    run(clock, [1.0] * 6, total=100, done=94)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training: 6 steps will take about 6.0 s"
    assert lines[-1].startswith("training: 100/100 steps (100%), 6.0 s so far, loss")


def test_metrics_are_read_only_when_shown(clock, capsys):
    class Unread:
        def __float__(self):
            raise AssertionError

    with Progress("sweep", 1000, unit="ratio") as shown:
        for i in range(50):
            shown.update(1, loss=1.0 if i == 0 else Unread())
    assert capsys.readouterr().out == ""


def test_fast_work_prints_at_most_a_line_a_second(clock, capsys):
    run(clock, [0.01] * 20)
    assert capsys.readouterr().out.splitlines() == [
        "training: 20/20 steps (100%), 0.2 s so far, loss 0.05, accuracy 0.5"
    ]


def test_bar_on_a_terminal(clock, capsys, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(progress, "CONSOLE", Console(force_terminal=True, file=screen, width=160))
    run(clock, [1.0] * 20)
    assert "20/20 steps (100%), 20 s so far, loss 0.05" in screen.getvalue()
    assert "training: 20 steps will take about 20 s" in screen.getvalue() + capsys.readouterr().out


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (7500, "2 h 5 min")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text
