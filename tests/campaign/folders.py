"""Folders that fail: two runs in the same folder, a folder that is not writable, a disk that fills up at any stage."""

import contextlib
import errno
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.campaign.attack import Attack, Outcome
from tests.campaign.runs import STAGES, Run, durations, finish, results

SIZE = 2**27  # bytes of the disk that fills up
AFTER = (0.0, 0.5)  # fractions of a stage after which the disk is full


def two_runs(folder: Path) -> Iterator[Outcome]:
    """Start a second run at every stage of the first. It names the first run, which is not disturbed."""
    durations(folder / "whole")
    with Run(folder / "one") as first:
        for stage, (line, _) in STAGES.items():
            first.reach(line)
            with Run(folder / "second", workdir=folder / "one" / "run") as second:
                yield refused(f"in {stage}", second, f"{first.workdir} is in use by process {first.pid} on ")
        code, error = first.end()
    same = code == 0 and results(folder / "one") == results(folder / "whole")
    yield Outcome("the first run", "harmless" if same else "wrong", error[-500:], 0, 0)
    with Run(folder / "race") as a, Run(folder / "other", workdir=folder / "race" / "run") as b:  # at the same moment
        ends = [a.end(), b.end()]
    codes = sorted(code for code, _ in ends)
    is_good = codes == [0, 1] and all("Traceback" not in error for _, error in ends)
    yield Outcome("at the same moment", "refused" if is_good else "crashed", str(ends)[:500], 0, 0)


def refused(case: str, run: Run, message: str) -> Outcome:
    """Return the outcome of a run that should end with a one-line error."""
    start = time.monotonic()
    code, error = run.end()
    is_good = code == 1 and error.startswith(f"error: {message}") and error.count("\n") == 1
    return Outcome(case, "refused" if is_good else "crashed", f"{code}: {error[-500:]}", time.monotonic() - start, 0)


def unwritable(folder: Path) -> Iterator[Outcome]:
    """Work and data folders that are files or read-only."""
    (folder / "file").write_text("")
    paths = [Path("/proc/run"), Path("/dev/null"), Path("/dev/null/run"), folder / "file", folder / "file" / "run"]
    with contextlib.ExitStack() as stack:
        if stack.enter_context(mounted(folder / "read_only", "ro")):
            paths += [folder / "read_only", folder / "read_only" / "run"]
        for number, path in enumerate(paths):
            with Run(folder / f"work{number}", workdir=path) as run:
                yield refused(f"work folder {path}", run, f"cannot write {path}")
            with Run(folder / f"data{number}", data=path) as run:
                yield refused(f"data folder {path}", run, "")


def full_disk(folder: Path) -> Iterator[Outcome]:
    """Fill the disk during a stage: the error is one line. With space again, the run resumes to the same results."""
    seconds = durations(folder / "whole")
    expected = results(folder / "whole")
    for stage in STAGES:
        for share in AFTER:
            case, here = f"{stage} + {share:.0%}", folder / f"{stage}{share}"
            with mounted(here, f"size={SIZE}") as possible:
                if not possible:
                    return
                with Run(here, logs=folder) as run:  # logs on another disk, to read all of them
                    run.reach(STAGES[stage][0])
                    time.sleep(share * seconds[stage])
                    fill(here / "filler")
                    start = time.monotonic()
                    code, error = run.end()
                took = time.monotonic() - start
                (here / "filler").unlink()
                one_line = code == 0 or (code == 1 and "error: cannot write" in error and error.count("\n") == 1)
                fault = f"{code}: {error[-1000:]}" if not one_line else finish(here)
                if not fault and results(here) != expected:
                    fault = "other results"
            verdict = "crashed" if fault else "refused" if code else "harmless"
            yield Outcome(case, verdict, fault, took, 0)


def fill(path: Path) -> None:
    """Write a file that fills the disk."""
    with open(path, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[bool]:
    """Mount a file system in memory. Yield whether this process may do so."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    possible = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield possible
    finally:
        if possible:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


ATTACKS = {
    "two_runs": Attack("two runs in one folder", 6, two_runs, seconds=300),
    "unwritable": Attack("a folder that cannot be written", 10, unwritable, seconds=60),
    "full_disk": Attack("a full disk", 0, full_disk, seconds=60),
}
