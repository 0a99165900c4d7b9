"""The benchmark: whole models, single layers, the loop around them, and pruning itself, in one process."""

import csv
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from aire.report import figures, tables
from aire.utils.errors import UserError
from aire.utils.files import write_text
from experiments.provenance import provenance
from experiments.speed import speed_layers, speed_loop, speed_models, speed_process, speed_reference_s5
from experiments.speed.speed_pruning import pruning_rows
from experiments.speed.speed_reference_s4d import reference_s4d_rows

Rows = list[tuple[str, ...]]

SECTIONS = {
    "models": ("Whole models beside the straightforward formulation", speed_models.model_rows),
    "reference": ("Whole models beside the S5 reference itself", speed_reference_s5.reference_rows),
    "reference_s4d": ("S4D layers beside the S4D reference itself", reference_s4d_rows),
    "cuts": ("After a cut", speed_models.cut_rows),
    "step": ("One step after a cut", speed_layers.step_rows),
    "odd": ("Odd numbers of states", speed_layers.odd_rows),
    "growth": ("Growth of one layer", speed_layers.growth_rows),
    "scan": ("Forms of the scan", speed_layers.scan_rows),
    "loop": ("The training loop around the step", speed_loop.loop_rows),
    "start": ("The start of a process", speed_process.start_rows),
    "pages": ("Training in huge pages", speed_process.pages_rows),
    "pruning": ("Scoring, selecting, cutting", pruning_rows),
}
_ABOUT = (
    "Medians of interleaved repetitions, in one process unless processes are what is measured. By `python run.py "
    "--config=speed`, beside the references by the commands in `configs/speed.py`. Memory is XLA's temporary memory, "
    "without arguments and results. Operations are those of a forward pass as XLA counts them: what is left of them "
    "says what may be left of the time."
)
_NOT_SETTINGS = "experiment", "sections", "reference", "reference_s4d"  # what to measure, and folders of this machine


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Measure the sections that the config names; write SECTION.csv, figures, results.json and report.md in `workdir`.

    The report shows all sections that were ever measured there, and results.json has the commit and the settings of
    each: one can be renewed alone.

    Raises:
        UserError: an unknown section.
    """
    unknown = [name for name in config.sections if name not in SECTIONS]
    if unknown:
        raise UserError(f"sections: unknown {unknown}: expected some of {list(SECTIONS)}")
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    record = workdir / "results.json"
    measured = json.loads(record.read_text())["measured"] if record.exists() else {}
    named = {"experiment": config.experiment, "name": config.name}
    source = provenance() | {"config": {k: v for k, v in config.to_dict().items() if k not in _NOT_SETTINGS}}
    print(f"measuring {', '.join(config.sections)} (all sections at full size: about an hour on one core)", flush=True)
    for name in config.sections:
        title, measure = SECTIONS[name]
        rows = measure(config)
        print(f"\n{title}\n\n{tables.text(rows)}", flush=True)
        write_text(workdir / f"{name}.csv", tables.csv_text(rows))
        measured[name] = source
        write_text(workdir / "report.md", _report(measured, workdir))
        write_text(record, json.dumps({"config": named, "measured": measured}, indent=1))
    print(f"\nwritten to {workdir}", flush=True)


def _report(measured: Mapping[str, Mapping], workdir: Path) -> str:
    parts = ["# Speed", _ABOUT]
    for name, (title, _) in SECTIONS.items():
        if name in measured:
            rows = [tuple(row) for row in csv.reader((workdir / f"{name}.csv").read_text().splitlines())]
            source = measured[name]
            about = f"{source['machine']}; commit {source['commit']}; jax {source['versions']['jax']}"
            parts += [f"## {title}", *_figure(name, rows, workdir), tables.markdown(rows), about]
    return "\n\n".join(parts) + "\n"


def _figure(name: str, rows: Rows, workdir: Path) -> list[str]:
    """The figure of a section that has one, written; and its line in the report."""
    drawn: dict[str, dict[str, dict[str, tuple[list[float], list[float]]]]] = {}
    for cells in rows[1:]:
        for quantity, panel, curve, *point in _points(name, list(zip(rows[0], cells, strict=True))):
            curves = drawn.setdefault(quantity, {}).setdefault(panel, {})
            for values, cell in zip(curves.setdefault(curve, ([], [])), point, strict=True):
                values.append(float(cell.rstrip("%")))
    if not drawn:
        return []
    figures.against_sizes(drawn, SECTIONS[name][0], workdir / f"{name}.png", log=name == "growth")
    return [f"![{SECTIONS[name][0]}]({name}.png)"]


def _points(name: str, cells: list[tuple[str, str]]) -> Iterator[tuple[str, str, str, str, str]]:
    """What a row of a section adds to its figure: quantity, panel, curve, size and value."""
    row = dict(cells)
    for column, cell in cells:
        what, _, unit = column.rpartition(", ")
        match name, unit:
            case "growth", "ms" | "MiB":
                yield unit, row["grows"], f"{row['layer']} {what}", row["value"], cell
            case "odd", "ms":
                yield unit, "states (S4D: of each channel)", what, row["states"], cell
            case "cuts", "of full":
                yield unit, f"states kept (%): {what}", row["model"], row["kept"], cell
            case "step", "of full":
                curve = f"{row['one direction']}, B {row['batch']}".removesuffix(", B ")
                yield unit, f"states kept (%): {what}", curve, row["kept"], cell
