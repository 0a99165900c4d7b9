"""kill -9 at random moments of every stage: the final files equal those of an uninterrupted run."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.campaign.attack import Attack, Outcome
from tests.campaign.runs import STAGES, Run, durations, finish, leftovers, results

KILLS = int(os.environ.get("AIRE_CAMPAIGN_KILLS", "100"))
EACH = ("prepare", "prepare", "train", "train", "train", "train", "sweep", "sweep", "report", "report")  # of one run


def run(folder: Path) -> Iterator[Outcome]:
    """Each case is a kill. A run is killed several times, and its verdict counts for each.

    A stage that was killed before has less left to do, so some runs end before they are killed: more runs follow.
    """
    draw, seconds = random.Random(0), durations(folder / "whole")
    expected, kills, number = results(folder / "whole"), 0, 0
    while kills < KILLS:
        here = folder / str(number)
        moments = [(stage, delay) for stage in EACH if (delay := killed(here, stage, draw.uniform(0, seconds[stage])))]
        fault = finish(here) or ("" if results(here) == expected else "other results")
        fault = fault or ", ".join(map(str, leftovers(here)))
        for stage, delay in moments:
            yield Outcome(f"run {number}: {stage} + {delay:.2f} s", "wrong" if fault else "harmless", fault, 0, 0)
        kills, number = kills + len(moments), number + 1


def killed(folder: Path, stage: str, delay: float) -> float:
    """Start a run and kill it `delay` seconds after a stage has begun. Return the delay, 0 if the run ended first."""
    with Run(folder) as one:
        reached = one.reach(STAGES[stage][0])
        time.sleep(delay)
        one.send(signal.SIGKILL)
        code, _ = one.end()
    return delay if reached and code == -signal.SIGKILL else 0


ATTACK = Attack("kill -9 at a random moment", KILLS, run)
