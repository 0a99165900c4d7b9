"""The newest releases that the requirements admit, on the other versions of Python that are installed here."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT

VERSIONS = [name for name in ("python3.11", "python3.12", "python3.13", "python3.14") if shutil.which(name)]
CORE = ["tests/ssm", "tests/models", "tests/pruning", "tests/convert", "tests/io", "tests/training"]


@pytest.mark.slow
@pytest.mark.parametrize("python", [v for v in VERSIONS if v != f"python3.{sys.version_info.minor}"])
def test_the_core_runs_on_another_python(python, tmp_path):
    """In a fresh virtual environment with the newest releases: about 15 minutes on two cores."""
    if subprocess.run([python, "--version"]).returncode:
        pytest.skip("a command of a version manager for a version that is not active")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    own = tmp_path / "venv" / "bin" / "python"
    subprocess.run([own, "-m", "pip", "install", "--quiet", "-r", "requirements.txt"], cwd=ROOT, check=True)
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    subprocess.run([own, "-m", "pytest", "-q", *CORE], cwd=ROOT, env=os.environ | cache, check=True)
