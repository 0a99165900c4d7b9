"""The provenance of a result has the commit of the code itself, or none."""

import re
import subprocess

from experiments import provenance


def git(folder, *args):
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *args], cwd=folder, check=True, capture_output=True)


def test_an_installed_copy_ignores_the_repository_around_it(tmp_path, monkeypatch):
    """For example, a virtual environment inside somebody's checkout."""
    copy = tmp_path / "provenance.py"
    copy.write_text("")
    monkeypatch.setattr(provenance, "__file__", str(copy))
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "theirs")
    assert provenance._commit() == "unknown"
    git(tmp_path, "add", copy.name)
    git(tmp_path, "commit", "-m", "ours")
    assert re.fullmatch("[0-9a-f]{40}", provenance._commit())
