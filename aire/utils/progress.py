"""Progress of long tasks: a bar on a terminal, plain lines elsewhere, and an early estimate of the total time."""

from time import perf_counter
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as RichProgress

CONSOLE = Console()  # share it with any RichHandler for logging; otherwise log lines break the bar
ESTIMATE_SECONDS = 3.0  # from the first update to the estimate of the total time
LINE_SHARE, LINE_SECONDS = 0.1, 30.0  # print a line after this share of the total or this time
BAR_SECONDS = 0.2  # between updates of the bar


class Progress:
    """Show the progress of a task, the remaining time and current metrics.

        with Progress("training", 2000, unit="step") as progress:
            progress.update(1, loss=loss)

        training: 2000 steps will take about 8 min 15 s
        training: 200/2000 steps (10%), 51 s so far, 7 min 26 s left, loss 2.103

    Args:
        total: number of units.
        unit: name of a unit in the singular.
        done: number of units done before, if this run resumes another.
    """

    def __init__(self, name: str, total: int, *, unit: str = "step", done: int = 0):
        self.name, self.total, self.unit, self.done = name, total, unit, done
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._updates, self._estimate_shown = 0, False
        self._start = self._since = self._last_shown = (perf_counter(), self.done)
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
        """Count `n` more units as done. JAX scalars in `metrics` are fetched only when they are shown."""
        self.done += n
        self._updates += 1
        now = perf_counter()
        if not (self._updates == 1 or self._can_estimate(now) or self._is_due(now)):
            return
        values = {name: float(value) for name, value in metrics.items()}  # waits for JAX, so before reading the clock
        now = perf_counter()
        if self._updates == 1:  # includes the compilation, so measure the speed from here
            self._since = now, self.done
        if self._can_estimate(now):
            self._show_estimate(now)
        if self._is_due(now):
            self._show(now, values)

    def _can_estimate(self, now: float) -> bool:
        started = self._updates > 1 and now - self._since[0] >= ESTIMATE_SECONDS
        return started and not self._estimate_shown and self.done < self.total

    def _is_due(self, now: float) -> bool:
        seconds, units = now - self._last_shown[0], self.done - self._last_shown[1]
        if self.done >= self.total:
            return True
        if self._bar:
            return seconds >= BAR_SECONDS
        return seconds >= LINE_SECONDS or (seconds >= 1 and units >= LINE_SHARE * self.total)

    def _left(self, now: float) -> float:
        """Estimate the remaining seconds from the mean speed since the first update."""
        time, units = self._since
        return (now - time) / max(self.done - units, 1) * (self.total - self.done)

    def _show_estimate(self, now: float) -> None:
        self._estimate_shown = True
        start, done = self._start
        total = duration(now - start + self._left(now))
        print(f"{self.name}: {self.total - done} {self.unit}s will take about {total}", flush=True)

    def _show(self, now: float, values: dict[str, float]) -> None:
        self._last_shown = now, self.done
        parts = [f"{self.done}/{self.total} {self.unit}s ({self.done / self.total:.0%})"]
        parts += [f"{duration(now - self._start[0])} so far"]
        parts += [f"{duration(self._left(now))} left"] * (self.done < self.total and self._updates > 1)
        text = ", ".join(parts + [f"{name} {value:.4g}" for name, value in values.items()])
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self.done, text=text)
        else:
            print(f"{self.name}: {text}", flush=True)


def duration(seconds: float) -> str:
    """Format seconds: 4.25 -> "4.2 s", 75 -> "1 min 15 s", 7500 -> "2 h 5 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
