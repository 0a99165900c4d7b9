"""The outcome of an attack: refused, harmless, silently wrong or crashed, with its time and memory."""

import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aire.report import tables
from aire.utils.errors import UserError
from aire.utils.files import write_text

SECONDS, MEGABYTES = 2, 1000  # limits of one case
HANGS = 300  # seconds after which a case counts as hanging, even on a loaded machine
PAGE = Path(__file__).parents[2] / "docs" / "campaign.md"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One case.

    Attributes:
        case: its name.
        verdict: "refused" with one line, "harmless" (the right result), "wrong" or "crashed".
        detail: the message or the wrong result.
        seconds, megabytes: of computing and of memory, above what was in use before. For a process, the seconds from
            the attack to its exit.
    """

    case: str
    verdict: str
    detail: str
    seconds: float
    megabytes: float = 0


@dataclasses.dataclass(frozen=True)
class Attack:
    """A row of the table.

    Attributes:
        name: what is done.
        expected: the least number of cases.
        run: yields the cases.
        seconds: that a case may take.
    """

    name: str
    expected: int
    run: Callable[[Path], Iterable[Outcome]]
    seconds: float = SECONDS

    def is_good(self, outcome: Outcome) -> bool:
        is_right = outcome.verdict in ("refused", "harmless")
        return is_right and outcome.seconds <= self.seconds and outcome.megabytes <= MEGABYTES


def attempt(case: str, action: Callable[[], Any], is_right: Callable[[Any], bool]) -> Outcome:
    """Run an action that should raise a UserError of one line or return the right value."""
    before, start = _reset_peak(), time.process_time()
    try:
        with _alarm(60):  # for what hangs; the time that counts is that of computing, because machines are shared
            value = action()
        verdict = "harmless" if is_right(value) else "wrong"
        detail = "" if verdict == "harmless" else repr(value)[:200]
    except UserError as error:
        detail = str(error)
        verdict = "refused" if "\n" not in detail and len(detail) < 2000 else "crashed"
    except Exception as error:  # any other exception is a bug, or the alarm
        verdict, detail = "crashed", f"{type(error).__name__}: {str(error)[:200]}"
    return Outcome(case, verdict, detail, time.process_time() - start, _peak() - before)


@contextmanager
def _alarm(seconds: int):
    """Raise TimeoutError if the block takes longer."""

    def ring(*_):
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _reset_peak() -> float:
    """Reset the peak of this process's memory. Return the memory in use, in MB."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[name].split()[0]) / 1000


def row(attack: Attack, outcomes: list[Outcome]) -> tuple[str, ...]:
    """Return the row of an attack in the table."""
    count = Counter(outcome.verdict for outcome in outcomes)
    verdicts = [str(count[name]) for name in ("refused", "harmless", "wrong", "crashed")]
    seconds, megabytes = (max(getattr(o, name) for o in outcomes) for name in ("seconds", "megabytes"))
    return (attack.name, str(len(outcomes)), *verdicts, f"{seconds:.2f}", f"{max(megabytes, 0):.0f}")


HEADER = ("attack", "cases", "refused", "harmless", "silently wrong", "crashed", "slowest (s)", "largest memory (MB)")


def write_page(rows: list[tuple[str, ...]]) -> None:
    """Replace the rows of these attacks in the table of docs/campaign.md."""
    before, start, rest = PAGE.read_text().partition("<!-- table: campaign -->\n")
    table, end, after = rest.partition("<!-- end -->")
    kept = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table.splitlines()[2:]]
    named = {r[0]: r for r in [*kept, *rows]}
    write_text(PAGE, f"{before}{start}{tables.markdown([HEADER, *named.values()])}\n{end}{after}")
