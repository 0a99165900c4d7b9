"""Consistency of the project's files."""

import importlib
import re
import tomllib
from pathlib import Path

import jax.numpy as jnp
import jaxtyping
import pytest

from aire.pruning.scores import prefix_normalize

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements(text: str) -> list[str]:
    """Return the sorted lines of a part of requirements.txt, without comments."""
    lines = (re.sub(r"\s*#.*", "", line) for line in text.splitlines())
    return sorted(filter(None, lines))


def test_requirements_and_project_file_agree(project):
    needed, development = (ROOT / "requirements.txt").read_text().split("# Development\n")
    assert requirements(needed) == sorted(project["project"]["dependencies"])
    assert requirements(development) == sorted(project["project"]["optional-dependencies"]["dev"])


def test_the_name_of_the_distribution_is_free(project):
    """`aire` on PyPI is another package."""
    assert project["project"]["name"] == "aire-prune"


def test_the_installed_command_includes_its_imports(project):
    module, function = project["project"]["scripts"]["aire"].split(":")
    assert callable(getattr(importlib.import_module(module), function))
    setuptools = project["tool"]["setuptools"]
    assert setuptools["py-modules"] == [module]
    assert setuptools["packages"]["find"]["include"] == ["aire*", "configs*", "experiments*"]
    for package in ("aire", "configs", "experiments"):
        folders = {path.parent for path in (ROOT / package).rglob("*.py")}
        assert all((folder / "__init__.py").exists() for folder in folders)  # otherwise it is not installed


def test_data_files_are_installed(project):
    data = project["tool"]["setuptools"]["package-data"]
    for package in ("aire", "configs", "experiments"):
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and path.suffix not in (".py", ".pyc") and "results" not in path.parts:
                patterns = data.get(".".join(path.parent.relative_to(ROOT).parts), [])
                assert any(path.match(pattern) for pattern in patterns), path
    assert (ROOT / "aire" / "py.typed").exists()


def test_the_pages_name_every_config():
    text = (ROOT / "docs" / "commands.md").read_text()
    for path in (ROOT / "configs").glob("*.py"):
        task = path.stem.removesuffix("_prune")
        named = f"`{task}`" if task != path.stem else f"--config={path.stem}"
        assert path.stem in ("__init__", "common") or named in text


def test_the_package_imports_nothing_that_windows_lacks():
    for path in (ROOT / "aire").rglob("*.py"):
        assert not re.search(r"^\s*(import|from) (fcntl|resource|pwd|termios)\b", path.read_text(), re.MULTILINE), path


def test_the_tests_check_shapes():
    with pytest.raises(jaxtyping.TypeCheckError):
        prefix_normalize(jnp.ones((2, 2)))
