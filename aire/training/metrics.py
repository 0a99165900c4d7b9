"""Metrics of a training run, as a CSV file and as TensorBoard events, and the check that they are numbers."""

import csv
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

from tensorboardX import RecordWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from aire.report.tables import csv_text
from aire.utils.errors import UserError
from aire.utils.files import sync, write_text, writing

COLUMNS = ["step", "metric", "value"]


class NonFiniteError(UserError):
    """A metric of the training is NaN or infinite, so going on is useless."""


def check_finite(step: int, metrics: Mapping[str, float], latest: Callable[[], Path | None]) -> None:
    """Raise NonFiniteError naming the step, the metrics that are NaN or infinite, and the last good checkpoint.

    `latest` returns that checkpoint. It is called only on failure, because it waits for a save that is running.
    """
    bad = [f"{name} is {float(value)}" for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
        checkpoint = latest()
        kept = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no checkpoint yet"
        raise NonFiniteError(
            f"{' and '.join(bad)} at step {step}, training stopped; {kept}; "
            "try a lower learning rate or another seed in a new --workdir"
        )


class MetricsWriter:
    """Writes scalars to `folder/metrics.csv` (columns: step, metric, value) and to TensorBoard events beside it.

    Rows are with the system as soon as `write` returns, so a kill of the process loses none. Write a step's metrics
    before its checkpoint is saved: then the CSV of a resumed run equals that of an uninterrupted one.

    Args:
        folder: made if it does not exist. None writes nothing: one process of a run writes for all.
        resume_step: the step of the checkpoint that the run goes on from: later rows are dropped from the CSV and
            hidden in TensorBoard. None starts anew.

    Raises:
        UserError: the folder cannot be written, or its `metrics.csv` is not such a file.
    """

    def __init__(self, folder: str | Path | None, resume_step: int | None = None):
        self._writes = folder is not None
        if folder is None:
            return
        self.path = Path(folder) / "metrics.csv"
        write_text(self.path, csv_text([COLUMNS, *_rows_until(self.path, resume_step)]))
        with writing(self.path.parent):
            self._file = open(self.path, "a", newline="", buffering=1)  # noqa: SIM115 (closed by `close`)
            # Not SummaryWriter: its `flush` does not wait for its queue, which after a full disk blocks for ever.
            self._events = RecordWriter(str(self.path.parent / f"events.out.tfevents.{time.time_ns()}"))
        first = 0 if resume_step is None else resume_step + 1  # TensorBoard hides earlier files' events from here on
        try:
            self._add_event(Event(file_version="brain.Event:2"))
            self._add_event(Event(step=first, session_log=SessionLog(status=SessionLog.START)))
        except UserError:
            self.close()
            raise

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add one row per metric. Values are anything that `float` takes. Raises UserError on a full disk."""
        if not self._writes:
            return
        scalars = {name: float(value) for name, value in metrics.items()}
        with writing(self.path):
            self._file.write(csv_text([[step, name, value] for name, value in scalars.items()]))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._add_event(Event(step=step, summary=Summary(value=values)))

    def close(self) -> None:
        """Bring everything to the disk and close the files."""
        if not self._writes:
            return
        with writing(self.path):
            try:
                self._events.close()
            finally:
                self._file.close()
            sync(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _add_event(self, event: Event) -> None:
        event.wall_time = time.time()
        with writing(self.path.parent):
            self._events.write(event.SerializeToString())
            self._events.flush()


def _rows_until(path: Path, last_step: int | None) -> list[list[str]]:
    """The rows of a CSV file up to a step. A row torn by a crash of the machine can only be one of the dropped ones."""
    if last_step is None or not path.exists():
        return []
    with open(path, newline="") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    if header != COLUMNS:
        raise UserError(f"{path} starts with {','.join(header)!r}, not {','.join(COLUMNS)!r}; move it away to go on")
    return [row for row in rows if len(row) == len(COLUMNS) and int(row[0]) <= last_step]
