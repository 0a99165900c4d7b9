"""500 wrong or odd command lines. Each is accepted, or refused with one line per mistake: no traceback, no hang."""

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import flags
from ml_collections import ConfigDict

from aire.pruning import scores
from aire.utils.errors import UserError
from experiments.compare import compare_job
from experiments.prune import prune_job
from run import load_config
from run import run as run_command
from tests.campaign.attack import Attack, Outcome

CASES = int(os.environ.get("AIRE_CAMPAIGN_COMMANDS", "500"))
CONFIGS = (
    *(f"lra_listops_prune:{variants}" for variants in ("smoke", "smoke,s4d", "smoke,lru", "small", "")),
    *("fashion_mnist_prune:smoke", "lra_retrieval_prune:smoke", "lra_pathfinder_prune", "speech_commands_prune:8khz"),
    *("compare_methods:smoke", "compare_methods:lra_listops,small"),
)
VALUES = (
    *("0", "-1", "1", "2", "3.5", "-0.0", "1e-30", "1e30", "nan", "inf", "-inf", "4294967296", "9223372036854775808"),
    *("1" + 40 * "0", "True", "False", "None", "", " ", "a", "a\0b", "../x", "/", "é" * 300, "zoo", "scratch", "s4d"),
    *("()", "(0.0,)", "(0.0, None)", "(0.0, 'a')", "('aire',)", "('aire', 'aire')", "(0.0, 0.5)", "[1, 2]", "{}", "("),
    *("(1,)", "(0.5,)", "(None,)", "((),)", "global", "uniform", "measured", "lambda: 0", "__import__('os')"),
)
NEAR = {bool: ("True", "False"), int: ("1", "2", "8", "16", "0"), float: ("0.5", "0.001", "1", "0.0"), str: VALUES}


class ReachedTheData(Exception):
    """Raised when all checks have passed."""


def reach(*_):
    raise ReachedTheData


def keys(config, prefix=""):
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from keys(value, f"{prefix}{name}.")
        yield f"{prefix}{name}"


def command_line(draw):
    """Draw a config and override one to three of its entries, half of them with a value of the right type."""
    given = f"--config={draw.choice(CONFIGS)}"
    config = load_config([given])[0]
    names = [*keys(config), "model.nothing", "data"]
    overrides = []
    for name in draw.choices(names, k=draw.randint(1, 3)):
        value = config
        for part in name.split("."):
            value = value.get(part) if isinstance(value, ConfigDict) else None
        near = NEAR.get(type(value), VALUES) if draw.random() < 0.5 else VALUES
        overrides.append(f"--config.{name}={draw.choice(near)}")
    return ["run.py", given, *overrides]


def outcome(arguments: list[str]) -> Outcome:
    """Run until the data would be loaded. An error has one line per mistake. Measure CPU time."""
    start, detail = time.process_time(), ""
    try:
        run_command(arguments)
        verdict = "wrong"  # it finished without loading data
    except ReachedTheData:
        verdict = "harmless"
    except (UserError, flags.Error) as error:
        detail = str(error)
        verdict = "refused" if detail.strip() else "crashed"
    except BaseException as error:  # any other exception is a bug
        verdict, detail = "crashed", f"{type(error).__name__}: {error}"
    return Outcome(" ".join(arguments), verdict, detail, time.process_time() - start)


def run(folder: Path) -> Iterator[Outcome]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(scores, "SCORES", dict(scores.SCORES))
        # Without this, the result would depend on the free space of the machine.
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**15, 0, 10**15))
        for job in (prune_job, compare_job):
            patch.setattr(job, "load_task", reach)
        draw = random.Random(0)
        for _ in range(CASES):
            yield outcome(command_line(draw))


ATTACK = Attack("an odd command line", CASES, run, seconds=5)
