"""kill -9 at random moments of every stage: what the run finally writes is that of an uninterrupted one."""

import os
import random
import re
import subprocess
import time

import pytest

from tests.experiments.conftest import ROOT, command, start

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("AIRE_CAMPAIGN_KILLS", "100"))
ARGUMENTS = (
    *("--config=lra_listops_prune:smoke", "--config.data.train_examples=1000", "--config.data.max_length=200"),
    *("--config.data.length=256", "--config.train.epochs=4", "--config.train.evaluate_every=50"),
    *("--config.train.checkpoint_minutes=0.005", "--config.prune.methods=('aire', 'last', 'measured')"),
)
STAGES = {"prepare": "preparing ", "train": "model .*trained here", "sweep": "sweep: ", "report": "sweep: .*100%"}
SAME = ("model.safetensors", "pruned.safetensors", "results.csv", "training/metrics.csv")


def killed(stage, delay, **folders):
    """Start a run and kill it so many seconds after the first line of a stage. Return whether it was killed there."""
    with subprocess.Popen(command(*ARGUMENTS, **folders), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        reached = any(re.match(STAGES[stage], line.strip()) for line in process.stdout)
        time.sleep(delay)
        process.kill()
        return process.wait() == -9 and reached


def test_kills(tmp_path):
    draw, kills, runs = random.Random(0), dict.fromkeys(STAGES, 0), 0
    start(*ARGUMENTS, data=tmp_path / "data", workdir=tmp_path / "whole")
    expected = [(tmp_path / "whole" / name).read_bytes() for name in SAME]
    while sum(kills.values()) < KILLS:
        folders = {"data": tmp_path / f"data{runs}", "workdir": tmp_path / f"run{runs}"}
        for stage in ("prepare", "train", "train", "sweep", "report"):
            kills[stage] += killed(stage, draw.uniform(0, 1.0), **folders)
        start(*ARGUMENTS, **folders)
        assert [(folders["workdir"] / name).read_bytes() for name in SAME] == expected, (runs, kills)
        assert not [path for path in folders["workdir"].rglob("*.tmp")]
        runs += 1
    stages = ", ".join(f"{n} in {stage}" for stage, n in kills.items())
    print(f"| kill -9 | {sum(kills.values())} | {runs} of {runs} runs bit-identical ({stages}) |")
