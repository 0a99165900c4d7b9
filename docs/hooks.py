"""Hooks of mkdocs: published results are part of the site; links to other files of the repository become plain text.

The pages link to `../experiments/results/…`, which is right where the repository is read.
"""

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

_ROOT = Path(__file__).parents[1]
_RESULTS = "experiments/results"


def on_files(files: Files, config) -> Files:
    """Add the figures of the published results."""
    for path in sorted((_ROOT / _RESULTS).rglob("*.png")):
        name = path.relative_to(_ROOT).as_posix()
        files.append(File(name, str(_ROOT), config["site_dir"], config["use_directory_urls"]))
    return files


def on_page_markdown(markdown: str, **_) -> str:
    """Let links to figures point into the site, and remove other links out of docs/."""
    inside = re.sub(rf"\.\./({_RESULTS}/[^)\" ]+\.png)", r"\1", markdown)
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", inside)
