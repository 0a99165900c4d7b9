"""The project's files agree with each other."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_requirements_and_project_file_agree():
    lines = (re.sub(r"\s*#.*", "", line) for line in (ROOT / "requirements.txt").read_text().splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert sorted(filter(None, lines)) == sorted(project["dependencies"] + project["optional-dependencies"]["dev"])


def test_the_readme_names_every_config():
    readme = (ROOT / "README.md").read_text()
    for path in (ROOT / "configs").glob("*.py"):
        task = path.stem.removesuffix("_prune")
        named = f"`{task}`" if task != path.stem else f"--config={path.stem}"
        assert path.stem in ("__init__", "common") or named in readme
