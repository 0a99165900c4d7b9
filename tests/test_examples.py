"""The examples run, and their pages show them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.tools.render_examples import ROOT, cells, names

NAMES = names()


def page_of(name: str, folder: Path = ROOT / "docs") -> str:
    return (folder / f"{name}.md").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_page_shows_the_source(name):
    """Every cell as it is, in order, and no other code."""
    rest = page_of(name)
    assert rest.count("```py\n") == sum(cell.is_code for cell in cells(name))
    for cell in cells(name):
        shown = f"```py\n{cell.text}\n```\n" if cell.is_code else f"{cell.text}\n"
        _, found, rest = rest.partition(shown)
        assert found, f"run python -m experiments.tools.render_examples {name}"


def test_the_site_lists_the_examples():
    site = (ROOT / "mkdocs.yml").read_text()
    assert NAMES and all(f": {name}.md\n" in site for name in NAMES)


def without_numbers(page: str) -> str:
    """What does not differ between machines."""
    return re.sub(r"[-\s]+", " ", re.sub(r"\d[\d.,e%-]*", "#", page))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name, tmp_path):
    """As a user runs it, in a process of its own. What it prints is that of the page, up to numbers."""
    code = f"from pathlib import Path; from experiments.tools.render_examples import render; render({name!r}, Path())"
    settings = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"} | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    page = page_of(name, tmp_path)
    assert without_numbers(page) == without_numbers(page_of(name))
    for figure in re.findall(r"\]\((images/.*?)\)", page):
        assert (tmp_path / figure).stat().st_size and (ROOT / "docs" / figure).exists()
    if found := re.findall(r"accuracy (before|after): ([\d.]+)%", page):
        accuracies = {when: float(value) for when, value in found}
        assert accuracies["after"] > accuracies["before"] - 2
