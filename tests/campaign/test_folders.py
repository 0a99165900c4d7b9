"""Folders that fail: two runs at once, a full disk, folders that cannot be written. Each is one line, at once."""

import resource
import subprocess

import pytest

from tests.experiments.conftest import ROOT, command

pytestmark = pytest.mark.slow
SMOKE = ("--config=lra_listops_prune:smoke", "--config.prune.methods=('aire',)", "--config.prune.ratios=(0.0, 0.5)")
SIZES = (0, 100, 5_000, 20_000, 60_000)  # bytes that a file can have at most, which fails like a full disk


def ended(*args, data, workdir, **options):
    """Exit code and lines of standard error of a run."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "timeout": 300}
    process = subprocess.run(command(*args, data=data, workdir=workdir), cwd=ROOT, **pipes, **options)
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


def test_a_full_disk(data, tmp_path):
    assert ended(*SMOKE, data=data, workdir=tmp_path / "whole")[0] == 0  # and the data is prepared
    expected = (tmp_path / "whole" / "model.safetensors").read_bytes()
    for size in SIZES:
        workdir = tmp_path / str(size)
        limit = lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
        code, error = ended(*SMOKE, data=data, workdir=workdir, preexec_fn=limit)
        assert code == 1 and error.splitlines()[-1].startswith("error: cannot write "), (size, error)
        assert "Traceback" not in error
        assert ended(*SMOKE, data=data, workdir=workdir)[0] == 0
        assert (workdir / "model.safetensors").read_bytes() == expected
    print(f"| full disk | {len(SIZES)} | one line each; bit-identical when there is space |")


@pytest.mark.parametrize("folder", ["/proc/run", "/dev/null", "/dev/null/run"])
def test_a_folder_that_cannot_be_written(folder, data):
    code, error = ended(*SMOKE, data=data, workdir=folder)
    assert code == 1 and error.startswith(f"error: cannot write {folder}") and error.count("\n") == 1
    print(f"| work folder {folder} | 1 | refused |")
