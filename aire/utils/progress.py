"""Progress of long work: a bar on a terminal, plain lines elsewhere, and early on how long the whole will take."""

from time import perf_counter
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as RichProgress

CONSOLE = Console()  # the one console: a RichHandler for logging must share it, or its lines tear the bar
FIRST_SECONDS = 3.0  # after the first update, until the time of the whole is stated
LINE_SHARE, LINE_SECONDS = 0.1, 30.0  # a line is printed after this share of the whole, or this time
BAR_SECONDS = 0.2


class Progress:
    """Shows how far some work is, how long it still takes, and its current metrics.

        with Progress("training", 2000, unit="step") as progress:
            progress.update(1, loss=loss)

        training: 2000 steps will take about 8 min 15 s
        training: 200/2000 steps (10%), 51 s so far, 7 min 26 s left, loss 2.103

    Args:
        total: how many units the whole has.
        unit: what one is called; an s makes it plural.
        done: how many of them an earlier run did, which this one resumes.
    """

    def __init__(self, name: str, total: int, *, unit: str = "step", done: int = 0):
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._updates, self._stated = 0, False
        self._start = self._since = self._shown = (perf_counter(), self.done)
        if CONSOLE.is_terminal:
            columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")
            self._bar = RichProgress(*columns, console=CONSOLE)
            self._bar.add_task(self.name, total=self.total, completed=self.done, text="")
            self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, n: int = 1, **metrics: Any) -> None:
        """Count `n` more units as done. Metrics may be JAX scalars: they are read, so waited for, only when shown."""
        self.done += n
        self._updates += 1
        now = perf_counter()
        if not (self._updates == 1 or self._can_estimate(now) or self._is_due(now)):
            return
        values = {name: float(value) for name, value in metrics.items()}  # before the clock is read: JAX works ahead
        now = perf_counter()
        if self._updates == 1:  # it held the compilation; all later ones tell the speed
            self._since = now, self.done
        if self._can_estimate(now):
            self._state_whole(now)
        if self._is_due(now):
            self._show(now, values)

    def _can_estimate(self, now: float) -> bool:
        begun = self._updates > 1 and now - self._since[0] >= FIRST_SECONDS
        return begun and not self._stated and self.done < self.total

    def _is_due(self, now: float) -> bool:
        seconds, units = now - self._shown[0], self.done - self._shown[1]
        if self.done >= self.total:
            return True
        if self._bar:
            return seconds >= BAR_SECONDS
        return seconds >= LINE_SECONDS or (seconds >= 1 and units >= LINE_SHARE * self.total)

    def _left(self, now: float) -> float:
        """Seconds until the whole is done, at the mean speed since the first update."""
        time, units = self._since
        return (now - time) / max(self.done - units, 1) * (self.total - self.done)

    def _state_whole(self, now: float) -> None:
        self._stated = True
        (start, done), left = self._start, self._left(now)
        whole = duration(now - start + left)
        print(f"{self.name}: {self.total - done} {self.unit}s will take about {whole}", flush=True)

    def _show(self, now: float, values: dict[str, float]) -> None:
        self._shown = now, self.done
        parts = [f"{self.done}/{self.total} {self.unit}s ({self.done / self.total:.0%})"]
        parts += [f"{duration(now - self._start[0])} so far"]
        parts += [f"{duration(self._left(now))} left"] * (self.done < self.total and self._updates > 1)
        text = ", ".join(parts + [f"{name} {value:.4g}" for name, value in values.items()])
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self.done, text=text)
        else:
            print(f"{self.name}: {text}", flush=True)


def duration(seconds: float) -> str:
    """4.25 -> "4.2 s", 75 -> "1 min 15 s", 7500 -> "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
