"""Folders that fail: two runs at once, and folders that cannot be written. Each is one line, at once."""

import subprocess

import pytest

from tests.experiments.conftest import ROOT, command

pytestmark = pytest.mark.slow
SMOKE = ("--config=lra_listops_prune:smoke", "--config.prune.methods=('aire',)", "--config.prune.ratios=(0.0, 0.5)")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def ended(*args, data, workdir):
    """Exit code and lines of standard error of a run."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "timeout": 300}
    process = subprocess.run(command(*args, data=data, workdir=workdir), cwd=ROOT, **pipes)
    return process.returncode, process.stderr


def test_two_runs_at_once(data, tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command(*SMOKE, data=data, workdir=tmp_path), cwd=ROOT, **pipes) as first:
        first.stdout.readline()  # it has the folder
        codes = [ended(*SMOKE, data=data, workdir=tmp_path) for _ in range(2)]
        _, errors = first.communicate(timeout=300)
        assert first.returncode == 0, errors
    for code, line in codes:
        assert code == 1 and line.startswith(f"error: {tmp_path} is in use by process {first.pid} on ")
    print("| two runs in one folder | 2 | 2 refused, the first one finished |")


@pytest.mark.parametrize("folder", ["/proc/run", "/dev/null", "/dev/null/run"])
def test_a_folder_that_cannot_be_written(folder, data):
    code, error = ended(*SMOKE, data=data, workdir=folder)
    assert code == 1 and error.startswith(f"error: cannot write {folder}") and error.count("\n") == 1
    print(f"| work folder {folder} | 1 | refused |")
