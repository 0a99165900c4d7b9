"""Ways to start `run.py`, and the smoke runs that several tests read."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

import run
from aire.pruning import scores
from aire.pruning.methods import data_free

ROOT = Path(__file__).parents[2]
SAMPLE = ("lamp", "measured", "aire_refit", "aire")  # a baseline, with data, with a refit; the last one is saved
OWN_SCORE = """
import aire

@aire.pruning.scores.register("slowness")
def slowness(modes):
    return abs(modes.Lambda_bar)
"""


def command(*args, data, workdir):
    return [sys.executable, "run.py", *args, f"--data_dir={data}", f"--workdir={workdir}"]


def start(*args, data, workdir):
    """Run `run.py` in a process of its own; returns what it printed."""
    options = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 600}
    result = subprocess.run(command(*args, data=data, workdir=workdir), **options)
    assert result.returncode == 0, result.stderr
    return result.stdout


def call(*args, data, workdir):
    """Do the same in this process, without the imports. Scores that the run registers are removed again."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(scores, "SCORES", dict(scores.SCORES))
        run.run(command(*args, data=data, workdir=workdir)[1:])
    return printed.getvalue()


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """A finished smoke run from the command line: (its folder, what it printed)."""
    workdir = tmp_path_factory.mktemp("runs") / "finished"
    args = "--config=lra_listops_prune:smoke", f"--config.prune.methods={SAMPLE}"
    return workdir, start(*args, data=data, workdir=workdir)


@pytest.fixture(scope="session")
def compared(finished, data, tmp_path_factory):
    """A finished smoke comparison of the model trained in `finished`, with a user's own score: (folder, printed)."""
    workdir = tmp_path_factory.mktemp("runs") / "compared"
    (workdir.parent / "own.py").write_text(OWN_SCORE)
    return workdir, call(*comparison(finished, workdir), data=data, workdir=workdir)


def comparison(finished, workdir):
    """The arguments of `compared`, to run it again."""
    own, model = workdir.parent / "own.py", finished[0] / "model.safetensors"
    names = f"--config.prune.methods={(*data_free(), 'slowness')}"
    return "--config=compare_methods:smoke", names, f"--config.prune.scores_file={own}", f"--config.models=('{model}',)"
