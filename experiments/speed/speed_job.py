"""The benchmark: models, single layers, the loop around them, and pruning itself, in one process."""

import contextlib
import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
from ml_collections import ConfigDict

from aire.report import figures, tables
from aire.utils import digests
from aire.utils.errors import UserError
from aire.utils.files import reading, write_json, write_text
from experiments.provenance import provenance
from experiments.speed import (
    speed_layers,
    speed_loop,
    speed_models,
    speed_naive,
    speed_process,
    speed_reference_layers,
    speed_reference_s5,
    speed_selective,
)
from experiments.speed.speed_memory import fit_table, memory_table
from experiments.speed.speed_moments import calibrated_table, moments_table
from experiments.speed.speed_pruning import pruning_table
from experiments.speed.speed_reference_s4d import reference_s4d_table

SECTIONS = {
    "models": ("Models beside a naive implementation", speed_naive.model_table),
    "reference": ("Models beside the S5 reference itself", speed_reference_s5.reference_table),
    "reference_s4d": ("S4D layers beside the S4D reference itself", reference_s4d_table),
    "reference_discretax": ("S5 layers beside discretax", speed_reference_layers.discretax_table),
    "reference_lru": ("LRU layers beside CompreSSM", speed_reference_layers.lru_table),
    "cuts": ("After a cut", speed_models.cut_table),
    "step": ("One step after a cut", speed_layers.step_table),
    "odd": ("Odd numbers of states", speed_layers.odd_table),
    "growth": ("Growth of one layer", speed_layers.growth_table),
    "scan": ("Forms of the scan", speed_layers.scan_table),
    "selective": ("The selective scan beside a naive one", speed_selective.selective_table),
    "selective_cuts": ("S6 after a cut", speed_selective.selective_cuts_table),
    "loop": ("The training loop around the step", speed_loop.loop_table),
    "memory": ("What saves memory in training", memory_table),
    "fit": ("What a training step at full size needs on one device", fit_table),
    "start": ("The start of a process", speed_process.start_table),
    "pages": ("Training in huge pages", speed_process.pages_table),
    "pruning": ("Scoring, selecting, cutting", pruning_table),
    "moments": ("Moments of the states", moments_table),
    "calibrated": ("A calibrated cut of a full-size network", calibrated_table),
}
_ABOUT = (
    "Medians of interleaved repetitions in one process. Where a range follows, both are over processes. Run `python "
    "run.py --config=speed`; `configs/speed.py` has the commands for the references. Memory is XLA's temporary memory, "
    "without arguments and results. Operations are those of a forward pass as XLA counts them: the share that is left "
    "is a lower bound on the share of time that is left."
)
# What to measure, and local folders.
_NOT_SETTINGS = "experiment", "sections", "reference", "reference_s4d", "reference_discretax", "reference_lru"


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Measure the sections that the config names; write SECTION.csv, figures, results.json and report.md.

    The report shows all sections ever measured in `workdir`, and results.json has the commit and the settings of each,
    so one section can be measured again alone.

    Raises:
        UserError: a section is unknown.
    """
    unknown = [name for name in config.sections if name not in SECTIONS]
    if unknown:
        raise UserError(f"sections: unknown {unknown}: expected some of {list(SECTIONS)}")
    record = workdir / "results.json"
    measured = _measured(record) if record.exists() else {}
    job = {"experiment": config.experiment, "name": config.name}
    source = provenance() | {"config": {k: v for k, v in config.to_dict().items() if k not in _NOT_SETTINGS}}
    print(
        f"measuring {', '.join(config.sections)} (all sections at full size: up to two hours on one core)", flush=True
    )
    for name in config.sections:
        title, measure = SECTIONS[name]
        with _uncached():
            table = measure(config)
        print(f"\n{title}\n\n{tables.text(table.rows)}", flush=True)
        write_text(workdir / f"{name}.csv", tables.csv_text(table.rows))
        if table.curves:
            figures.against_sizes(table.curves, title, workdir / f"{name}.png", log=name == "growth")
        measured[name] = source
        write_text(workdir / "report.md", _report(measured, workdir))
        write_json(record, digests.seal({"config": job, "measured": measured}))
    print(f"\nwritten to {workdir}", flush=True)


def _measured(record: Path) -> dict:
    """Read the sections measured before. Raise UserError if the file is damaged or something else."""
    with reading(record):
        results = digests.unseal(digests.parse_json(record.read_bytes(), record), record)
    if not isinstance(results.get("measured"), dict):
        raise UserError(f"{record} is not of the benchmark: choose another --workdir")
    return results["measured"]


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Disable the compilation cache, because compilation is measured."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _report(measured: Mapping[str, Mapping], workdir: Path) -> str:
    parts = ["# Speed", _ABOUT]
    for name, (title, _) in SECTIONS.items():
        if name in measured:
            rows = list(csv.reader((workdir / f"{name}.csv").read_text().splitlines()))
            figure = [f"![{title}]({name}.png)"] if (workdir / f"{name}.png").exists() else []
            source = measured[name]
            about = f"{source['machine']}; commit {source['commit']}; jax {source['versions']['jax']}"
            parts += [f"## {title}", *figure, tables.markdown(rows), about]
    return "\n\n".join(parts) + "\n"
