"""Runs of a tiny experiment, which the attacks kill, stop or deprive of disk space at every stage.

They are forked from a server that has imported everything, because the imports would take most of the time.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

PATIENCE = 3600  # seconds; a test may share its machine with others
ARGUMENTS = (
    *("--config=lra_listops_prune:smoke", "--config.data.train_examples=800", "--config.data.max_length=100"),
    *("--config.data.length=128", "--config.train.epochs=4", "--config.train.evaluate_every=50"),
    *("--config.train.checkpoint_minutes=0.005", "--config.prune.methods=('aire', 'last')"),
)
# The first line that each stage prints, and the first line after the stage.
STAGES = {
    "prepare": ("preparing ", "data: "),
    "train": ("data: ", "model: "),
    "sweep": ("model: ", "sweep: .*100%"),
    "report": ("sweep: .*100%", "report, figures"),
}
SAME = ("model.safetensors", "pruned.safetensors", "results.csv", "training/metrics.csv")

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["run", "experiments.prune", "configs.lra_listops_prune", "matplotlib.pyplot"])


class Run:
    """A running `run.py`. Leaving the context kills it.

    Args:
        folder: with the work folder `run` and the data in `data`, unless others are given.
        arguments: of the command line, besides the folders.
        logs: folder of what is printed; `folder` unless given.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str] = ARGUMENTS,
        *,
        workdir: Path | None = None,
        data: Path | None = None,
        logs: Path | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.workdir = folder, workdir or folder / "run"
        self._out, self._err = ((logs or folder) / name for name in ("out", "err"))
        full = ["run.py", *arguments, f"--workdir={self.workdir}", f"--data_dir={data or folder / 'data'}"]
        self._out.write_text("")
        self._err.write_text("")
        self._process = _CONTEXT.Process(target=_main, args=(full, str(self._out), str(self._err)))
        self._process.start()

    def reach(self, pattern: str, timeout: float = PATIENCE) -> bool:
        """Wait for a line that starts with a pattern. Return False if the run ends before."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            alive = self._process.is_alive()
            if any(re.match(pattern, line.strip()) for line in self.printed().splitlines()):
                return True
            if not alive:
                return False
            time.sleep(0.005)
        raise TimeoutError(f"no line {pattern!r} within {timeout} s: {self.printed()[-1000:]}")

    def printed(self) -> str:
        return self._out.read_text()

    def errors(self) -> str:
        return self._err.read_text()

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    @property
    def pid(self) -> int:
        return self._process.pid

    def end(self, timeout: float = PATIENCE) -> tuple[int, str]:
        """Wait for its end. Return the exit code, negative for the signal that ended it, and standard error."""
        self._process.join(timeout)
        if self._process.is_alive():
            raise TimeoutError(f"still running after {timeout} s: {self.printed()[-1000:]}")
        return self._process.exitcode, self.errors()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.is_alive():
            self._process.kill()
        self._process.join()


def _main(arguments: list[str], out: str, err: str) -> None:
    """Run in the forked process."""
    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.argv = arguments
    import run

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    run.main()


def finish(folder: Path, arguments: Sequence[str] = ARGUMENTS) -> str:
    """Run to the end. Return what went wrong, or an empty string."""
    with Run(folder, arguments) as last:
        code, error = last.end()
    return f"exit code {code}: {error[-500:]}" if code else ""


def results(folder: Path) -> list[bytes]:
    """Return the content of the files that must not depend on interruptions."""
    return [(folder / "run" / name).read_bytes() for name in SAME]


def durations(folder: Path) -> dict[str, float]:
    """Run without interruption. Return the duration of every stage in seconds."""
    seconds = {}
    with Run(folder) as whole:
        for stage, (first, after) in STAGES.items():
            whole.reach(first)
            start = time.monotonic()
            whole.reach(after)
            seconds[stage] = time.monotonic() - start
        code, error = whole.end()
    if code:
        raise RuntimeError(error)
    return seconds


def leftovers(folder: Path) -> Iterator[Path]:
    """Return temporary files, of which a finished run should have none."""
    yield from (folder / "run").rglob("*.tmp")
    yield from (folder / "data").rglob("incomplete.*")
