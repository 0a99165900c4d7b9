"""Run the examples and write their pages: the text, the code, what it prints and draws.

python -m experiments.tools.render_examples [NAME …]      all by default; writes docs/NAME.md and its figures

An example is a file in examples/ with cells in the percent format, which editors and Jupyter (with jupytext) open as a
notebook. The pages are kept in the repository, so that to build the site runs nothing.
"""

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import matplotlib

from aire.utils import progress
from aire.utils.files import write_text

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "examples"


class Cell(NamedTuple):
    """A cell of an example."""

    is_code: bool
    text: str


def names() -> list[str]:
    """The names of the examples."""
    return sorted(path.stem for path in SOURCES.glob("*.py"))


def cells(name: str) -> list[Cell]:
    """The cells of an example, in order. Text is without its comment signs."""
    _, *parts = re.split(r"^# %%(.*)\n", (SOURCES / f"{name}.py").read_text(), flags=re.MULTILINE)
    found = []
    for mark, text in zip(parts[::2], parts[1::2], strict=True):
        is_code = mark.strip() != "[markdown]"
        found.append(Cell(is_code, (text if is_code else re.sub("^# ?", "", text, flags=re.MULTILINE)).strip()))
    return found


def render(name: str, folder: Path) -> Path:
    """Run an example in an empty folder. Write its page and figures, and return the page."""
    matplotlib.use("agg")
    progress.Progress.update = lambda *_, **__: None  # its lines come by the clock, so they differ from run to run
    folder = folder.absolute()
    namespace, parts = {"__name__": name}, []
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        for number, cell in enumerate(cells(name), 1):
            if not cell.is_code:
                parts.append(cell.text)
                continue
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                exec(compile(cell.text, f"examples/{name}.py, cell {number}", "exec"), namespace)
            parts += [f"```py\n{cell.text}\n```"]  # not `python`: blocks of that name run in tests/test_readme.py
            parts += [f"```text\n{output}\n```" for output in [printed.getvalue().rstrip()] if output]
            parts += _figures(f"{name}_{number}", folder)
    source = f"[examples/{name}.py](../examples/{name}.py)"
    note = f"*Made from {source} by `python -m experiments.tools.render_examples {name}`.*"
    page = folder / f"{name}.md"
    write_text(page, "\n\n".join([*parts, note]) + "\n")
    return page


def _figures(name: str, folder: Path) -> list[str]:
    """Save the open figures of pyplot and close them. Return their Markdown."""
    from matplotlib import pyplot  # after the choice of the backend

    links = []
    for number in pyplot.get_fignums():
        figure, file = pyplot.figure(number), f"images/{name}_{number}.png"
        (folder / "images").mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / file, dpi=120)
        links.append(f"![{figure.axes[0].get_title()}]({file})")
    pyplot.close("all")
    return links


def main(arguments: list[str]) -> None:
    for name in arguments or names():
        print(render(name, ROOT / "docs"))


if __name__ == "__main__":
    main(sys.argv[1:])
