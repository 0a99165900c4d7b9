"""Signals at random moments, also many in a row: no finished step is lost."""

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from tests.campaign.attack import Attack, Outcome
from tests.campaign.runs import ARGUMENTS, STAGES, Run, durations, finish, leftovers, results

SIGNALS = int(os.environ.get("AIRE_CAMPAIGN_SIGNALS", "30"))
RESUMES = int(os.environ.get("AIRE_CAMPAIGN_RESUMES", "48"))  # two days on a machine that is lost every hour
GRACE = 30  # seconds that SLURM and preemptible machines grant
NUMBERS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
# Neither an evaluation nor a timed checkpoint is due, so only the signal saves.
ONLY_SIGNALS = ("--config.train.evaluate_every=100000", "--config.train.checkpoint_minutes=1000")
LONG = (*ARGUMENTS, "--config.train.epochs=40", *ONLY_SIGNALS)
FULL = ("--config=lra_listops_prune", "--config.data.train_examples=500", "--config.data.validation_examples=50")
FULL += ("--config.data.test_examples=50", "--config.data.selection_examples=50", *ONLY_SIGNALS)


def stopped(one: Run, number: int) -> tuple[float, str]:
    """Send a signal. Return the seconds until the exit, and what went wrong."""
    start = time.monotonic()
    one.send(number)
    code, error = one.end()
    error = re.sub("^WARNING:absl:Waiting for previous save.*\n", "", error, flags=re.MULTILINE)  # it saves very often
    seconds, name = time.monotonic() - start, signal.Signals(number).name
    if code == 0:
        return seconds, ""  # the run had finished before the signal
    is_good = code == 128 + number and f"stopped by {name}" in error and error.count("\n") <= 2
    return seconds, "" if is_good else f"exit code {code}: {error[-500:]}"


def random_moments(folder: Path) -> Iterator[Outcome]:
    """Send signals at every stage. The run then resumes to the results of an uninterrupted one."""
    draw, seconds = random.Random(0), durations(folder / "whole")
    expected = results(folder / "whole")
    stages = [*STAGES, "train", "train"]
    for number in range(-(-SIGNALS // len(stages))):
        here, cases = folder / str(number), []
        for stage in stages:
            one, which, delay = Run(here), draw.choice(NUMBERS), draw.uniform(0, seconds[stage])
            with one:
                one.reach(STAGES[stage][0])
                time.sleep(delay)
                cases.append((f"{stage} + {delay:.2f} s, {signal.Signals(which).name}", *stopped(one, which)))
        fault = finish(here) or ("" if results(here) == expected else "other results")
        fault = fault or ", ".join(map(str, leftovers(here)))
        for case, took, wrong in cases:
            verdict = "crashed" if wrong else "wrong" if fault else "harmless"
            yield Outcome(f"run {number}: {case}", verdict, wrong or fault, took, 0)


def resumes(folder: Path) -> Iterator[Outcome]:
    """Resume and stop a training again and again. At the end its results equal those of one that was never stopped."""
    draw, saved, cases = random.Random(1), 0, []
    for number in range(RESUMES):
        with Run(folder / "stopped", LONG) as one:
            one.reach("data: ")
            time.sleep(draw.uniform(0, 3))
            seconds, wrong = stopped(one, draw.choice(NUMBERS))
            said = re.search(r"saved step ([0-9]+) of", one.errors())
            shown = re.findall(r"training: ([0-9]+)/", one.printed()) or ["0"]
        step = int(said[1]) if said else saved  # no step is named if none was finished
        if step < max(saved, int(shown[-1])):
            wrong = wrong or f"saved step {step}, after {saved} and {shown[-1]}"
        saved = max(step, saved)
        cases.append((f"resume {number}, step {saved}", seconds, wrong))
    fault = finish(folder / "stopped", LONG) or finish(folder / "whole", LONG)
    fault = fault or ("" if results(folder / "stopped") == results(folder / "whole") else "other results")
    for case, seconds, wrong in cases:
        verdict = "crashed" if wrong else "wrong" if fault else "harmless"
        yield Outcome(case, verdict, wrong or fault, seconds, 0)


def full_size(folder: Path) -> Iterator[Outcome]:
    """Signals during a training at the paper's size. The exit waits for two steps and a save."""
    for number, which in enumerate(NUMBERS):
        with Run(folder / "full", FULL) as one:
            one.reach("training: [0-9]+/")
            time.sleep(7 * number)
            seconds, wrong = stopped(one, which)
            wrong = wrong or ("" if "saved step" in one.errors() else "it has saved no step")
            yield Outcome(f"{which.name}: {one.errors()[-200:]}", "crashed" if wrong else "harmless", wrong, seconds, 0)


ATTACKS = {
    "signals": Attack("a signal at a random moment", SIGNALS, random_moments, seconds=GRACE),
    "resumes": Attack("48 resumes, each stopped again", RESUMES, resumes, seconds=GRACE),
    "full_size": Attack("a signal at full size (ListOps, batch 50)", len(NUMBERS), full_size, seconds=GRACE),
}
