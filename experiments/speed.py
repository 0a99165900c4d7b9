"""The benchmark: whole models, single layers, the loop around them, and pruning itself, in one process."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from aire.errors import UserError
from aire.files import write_text
from aire.report import figures, tables
from experiments import speed_layers, speed_loop, speed_models, speed_reference
from experiments.provenance import provenance
from experiments.speed_pruning import pruning_rows

Rows = list[tuple[str, ...]]

SECTIONS = {
    "models": ("Whole models beside the straightforward formulation", speed_models.model_rows),
    "reference": ("Whole models beside the S5 reference itself", speed_reference.reference_rows),
    "cuts": ("After a cut", speed_models.cut_rows),
    "step": ("One step after a cut", speed_layers.step_rows),
    "odd": ("Odd numbers of states", speed_layers.odd_rows),
    "growth": ("Growth of one layer", speed_layers.growth_rows),
    "scan": ("Forms of the scan", speed_layers.scan_rows),
    "loop": ("The training loop around the step", speed_loop.loop_rows),
    "start": ("The start of a process", speed_loop.start_rows),
    "pruning": ("Scoring, selecting, cutting", pruning_rows),
}


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Measure the sections that the config names; write SECTION.csv, figures, results.json and report.md in `workdir`.

    The report shows all sections that were ever measured there, each with its commit, so that one can be renewed alone.

    Raises:
        UserError: an unknown section.
    """
    unknown = [name for name in config.sections if name not in SECTIONS]
    if unknown:
        raise UserError(f"sections: unknown {unknown}: expected some of {list(SECTIONS)}")
    jax.config.update("jax_enable_compilation_cache", False)  # compilation is measured
    record = workdir / "results.json"
    measured = json.loads(record.read_text())["measured"] if record.exists() else {}
    source = provenance()
    settings = {key: value for key, value in config.to_dict().items() if key != "reference"}  # a folder of this machine
    print(f"measuring {', '.join(config.sections)}; all of it takes ten to thirty minutes at full size", flush=True)
    for name in config.sections:
        title, measure = SECTIONS[name]
        rows = measure(config)
        print(f"\n{title}\n\n{tables.text(rows)}", flush=True)
        write_text(workdir / f"{name}.csv", tables.csv_text(rows))
        measured[name] = source
        write_text(record, json.dumps({"config": settings, "measured": measured}, indent=1))
    write_text(workdir / "report.md", _report(measured, workdir))
    print(f"\nwritten to {workdir}", flush=True)


def _report(measured: Mapping[str, Mapping], workdir: Path) -> str:
    parts = ["# Speed", "Medians of interleaved repetitions. Measured by `python run.py --config=speed`."]
    for name, (title, _) in SECTIONS.items():
        if name in measured:
            rows = [tuple(row) for row in csv.reader((workdir / f"{name}.csv").read_text().splitlines())]
            source = measured[name]
            about = f"{source['machine']}; commit {source['commit']}; jax {source['versions']['jax']}"
            parts += [f"## {title}", *_figure(name, rows, workdir), tables.markdown(rows), about]
    return "\n\n".join(parts) + "\n"


def _figure(name: str, rows: Rows, workdir: Path) -> list[str]:
    """The figure of a section that has one, written; and its line in the report."""
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}

    def add(panel: str, curve: str, size: str, milliseconds: str) -> None:
        sizes, times = panels.setdefault(panel, {}).setdefault(curve, ([], []))
        sizes.append(float(size))
        times.append(float(milliseconds))

    for row in rows[1:]:
        if name == "growth":
            add(row[1], f"{row[0]} forward", row[2], row[3])
            add(row[1], f"{row[0]} with gradients", row[2], row[5])
        elif name == "odd":
            add("states", "forward", row[0], row[1])
            add("states", "with gradients", row[0], row[2])
        elif name == "cuts":
            for pass_, cell in (("forward", row[5]), ("training step", row[7])):
                add(f"states kept (%), {pass_}", row[0], row[1].rstrip("%"), cell)
    if not panels:
        return []
    figures.times_against(panels, SECTIONS[name][0], workdir / f"{name}.png", log=name == "growth")
    return [f"![{SECTIONS[name][0]}]({name}.png)"]
