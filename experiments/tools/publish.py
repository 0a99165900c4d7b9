"""Publish a finished run: copy its report to experiments/results/ and its table into the README and docs/.

With --zoo, also copy the model that the run trained, with its config, seed, versions and training log.

    python -m experiments.tools.publish WORKDIR [--zoo]
"""

import csv
import re
import shutil
import sys
from pathlib import Path

from aire import zoo
from aire.report import tables
from aire.utils import digests
from aire.utils.errors import UserError
from aire.utils.files import write_text

_ROOT = Path(__file__).parents[2]
_PAGES = (_ROOT / "README.md", *sorted((_ROOT / "docs").glob("**/*.md")))
_REPORT = ("report.md", "results.json", "*.csv", "*.png", "*.tex")


def publish_report(workdir: Path, results: Path = _ROOT / "experiments" / "results") -> Path:
    """Copy a run's report to experiments/results/NAME, without the interactive one; return that folder.

    Raises:
        UserError: the folder contains no finished run.
    """
    name = _read(workdir / "results.json")["config"]["name"]
    target = results / name
    target.mkdir(parents=True, exist_ok=True)
    for pattern in _REPORT:
        for path in workdir.glob(pattern):
            shutil.copyfile(path, target / path.name)
    if (page := target / "report.md").exists():  # report.html, of 5 MB, stays where it is
        write_text(page, re.sub(r"\[.*\]\(report\.html\).*\n\n", "", page.read_text()))
    return target


def publish_model(workdir: Path) -> Path:
    """Copy the model that a run trained to aire/zoo/NAME.safetensors, with its record and log; return that file.

    Raises:
        UserError: nothing was trained in the folder.
    """
    name = _read(workdir / "model.json")["config"]["name"]
    target = Path(zoo.__file__).parent / f"{name}.safetensors"
    shutil.copyfile(workdir / "model.safetensors", target)
    shutil.copyfile(workdir / "model.json", target.with_suffix(".json"))
    shutil.copyfile(workdir / "training" / "metrics.csv", target.with_suffix(".csv"))
    return target


def update_pages() -> None:
    """Put the current tables into the README and the pages of docs/."""
    for page in _PAGES:
        if (text := with_tables(page.read_text())) != page.read_text():
            write_text(page, text)


def with_tables(readme: str, results: Path = _ROOT / "experiments" / "results") -> str:
    """Return the README's text with current tables between `<!-- table: NAME -->` and `<!-- end -->`.

    They are those of NAME's report, or of one CSV file if the name is NAME/FILE.csv. Tables whose results are not
    published stay as they are.
    """

    def table(match: re.Match) -> str:
        if not (results / match[1]).exists():
            return match[0]
        return f"<!-- table: {match[1]} -->\n{_tables(results, match[1])}<!-- end -->"

    return re.sub(r"<!-- table: (\S+) -->\n.*?<!-- end -->", table, readme, flags=re.DOTALL)


def _tables(results: Path, name: str) -> str:
    if name.endswith(".csv"):
        with open(results / name, newline="") as file:
            return tables.markdown(list(csv.reader(file))) + "\n"
    report = (results / name / "report.md").read_text()
    return "\n".join(re.findall(r"(?:^\|.*\n)+", report, flags=re.MULTILINE))


def _read(path: Path) -> dict:
    if not path.is_file():
        raise UserError(f"no {path}: expected the folder of a finished run (for --zoo, one with --config.init=scratch)")
    return digests.parse_json(path.read_bytes(), path)


def main(arguments: list[str]) -> None:
    folders = [Path(a) for a in arguments if a != "--zoo"]
    if len(folders) != 1:
        sys.exit(__doc__)
    try:
        if "--zoo" in arguments:
            print(publish_model(folders[0]))
        print(publish_report(folders[0]))
        update_pages()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
