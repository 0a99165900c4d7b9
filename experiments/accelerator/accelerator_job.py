"""The checks of a new accelerator: measure what is not measured yet, write tables, say what to do next."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from aire.report import tables
from aire.utils import digests
from aire.utils.errors import UserError
from aire.utils.files import reading, write_json, write_text
from aire.utils.progress import Progress
from experiments.accelerator import precision, scans, training
from experiments.accelerator.oracle import ORACLES
from experiments.paper_table import papers
from experiments.provenance import provenance

NEXT = "python run.py --config=paper_table --config.run=missing"
_WHAT = "experiment", "name", "sections", "tasks", "layers"  # what to measure, not how
Found = dict[str, dict[str, Any]]  # by section and measurement: rows, or a cost


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Measure the sections that the config names; write tables, results.json and report.md after each measurement.

    What results.json has from the same machine, versions, settings and default form of the scans is not measured again.

    Raises:
        UserError: a section, kind, task or layer is unknown, or results.json is damaged or of another job.
    """
    _check(config)
    source = provenance()
    form = scans.default_form(scans.platform())
    settings = {name: value for name, value in config.to_dict().items() if name not in _WHAT}
    how = json.loads(
        json.dumps({"settings": settings, "machine": source["machine"], "versions": source["versions"], "form": form})
    )
    found = _found(workdir / "results.json", how)
    print(tables.text(_devices(source)), flush=True)
    plan = _plan(config)
    left = [(section, name) for section, name in plan if name not in found[section]]
    print(f"{len(plan) - len(left)} of {len(plan)} measurements are in {workdir}", flush=True)
    with Progress("accelerator check", len(plan), unit="measurement", done=len(plan) - len(left)) as progress:
        for section, name in left:
            found[section][name] = json.loads(json.dumps(plan[section, name]()))
            _save(config, found, how, source, workdir)
            _print(section, name, found)
            progress.update(1)
    _save(config, found, how, source, workdir)
    print(f"\n{_summary(config, found)}\nwritten to {workdir}", flush=True)


SECTIONS = {
    "precision": "Precision: beside NumPy's float64",
    "scans": "Forms of the scans, fastest first",
    "training": "Training steps",
}


def _check(config: ConfigDict) -> None:
    known = {"sections": SECTIONS, "tasks": papers.TASKS, "layers": papers.LAYERS}
    for key, choices in known.items():
        if unknown := [name for name in config[key] if name not in choices]:
            raise UserError(f"{key}: unknown {unknown}: expected some of {list(choices)}")
    if unknown := [kind for kind in config.precision.kinds if kind not in ORACLES]:
        raise UserError(f"precision.kinds: unknown {unknown}: expected some of {list(ORACLES)}")
    if config.size not in ("full", "small", "smoke"):
        raise UserError(f"size={config.size!r}: expected one of full, small, smoke")


def _found(record: Path, how: Mapping[str, Any]) -> Found:
    """Read what was measured in the same way before."""
    nothing: Found = {section: {} for section in SECTIONS}
    if not record.exists():
        return nothing
    with reading(record):
        results = digests.unseal(digests.parse_json(record.read_bytes(), record), record)
    if not isinstance(results.get("found"), dict) or not isinstance(results.get("how"), dict):
        raise UserError(f"{record} is not of this job: choose another --workdir")
    if changed := [name for name in how if results["how"].get(name) != how[name]]:
        print(f"measured before with other {', '.join(changed)}: everything is measured again", flush=True)
        return nothing
    return nothing | results["found"]


def _plan(config: ConfigDict) -> dict[tuple[str, str], Callable[[], Any]]:
    """Return the measurements by section and name. Each returns a value that JSON holds."""
    plan: dict[tuple[str, str], Callable[[], Any]] = {}
    for kind in config.precision.kinds:
        plan["precision", kind] = lambda kind=kind: list(precision.rows(kind, config))
    for scan, shapes in zip(scans.SCANS, (config.scan_shapes, config.selective_shapes), strict=True):
        for shape in shapes:
            measure = functools.partial(scans.rows, scan, shape, config.repetitions)
            plan["scans", f"{scan} {tuple(shape)}"] = lambda measure=measure: list(measure())
    for name, (task, layer) in training.configs(config).items():
        if not papers.TASKS[task].model_of:
            plan["training", name] = functools.partial(_cost, task, layer, config)
    return {key: measure for key, measure in plan.items() if key[0] in config.sections}


def _cost(task: str, layer: str, config: ConfigDict) -> dict[str, Any]:
    settings = papers.task_config(task, layer, config.size)
    return dataclasses.asdict(training.measure(settings, config.seconds, config.cpu_batch))


def _print(section: str, name: str, found: Found) -> None:
    value = found[section][name]
    if section == "training":
        time = "" if value["seconds"] is None else f"{value['seconds']:.3g} s a step, {value['gb']:.2f} GB, "
        print(f"{name}: {time}{value['measured']}", flush=True)
    else:
        print("\n".join("  ".join(row) for row in value), flush=True)


def _devices(source: Mapping[str, Any]) -> tables.Rows:
    versions = ", ".join(f"{name} {version}" for name, version in source["versions"].items())
    return [
        ("what", "value"),
        ("machine", source["machine"]),
        ("platform", f"{scans.platform()}, {training.memory():.1f} GB"),
        ("processes", str(jax.process_count())),
        ("versions", versions),
        ("commit", source["commit"]),
    ]


def _tables(config: ConfigDict, found: Found) -> dict[str, tuple[str, tables.Rows]]:
    """Return title and rows of each table that has any, by name."""
    steps, hours = [training.STEPS], [training.HOURS]
    for name, (task, layer) in training.configs(config).items():
        settings, cost = papers.task_config(task, layer, config.size), found["training"].get(name)
        if cost:
            steps.append(training.step_row(name, settings, training.Cost(**cost)))
        if cost or papers.TASKS[task].model_of:
            row = training.hours_row(name, task, layer, settings, training.Cost(**cost) if cost else None)
            hours.append(row)
    result = {
        "precision": (SECTIONS["precision"], [precision.HEADER, *_rows(found, "precision")]),
        "scans": (SECTIONS["scans"], [scans.HEADER, *_rows(found, "scans")]),
        "training": (SECTIONS["training"], steps),
        "hours": ("Hours of each row of the papers' table", hours if len(steps) > 1 else hours[:1]),
    }
    return {name: table for name, table in result.items() if len(table[1]) > 1}


def _rows(found: Found, section: str) -> list[list[str]]:
    return [row for rows in found[section].values() for row in rows]


_ABOUT = {
    "precision": "Layers in two directions on noise. Outputs: relative to the largest output. Scores: each relative to "
    "itself. Gradients: along one random direction of all parameters and inputs, relative to the gradient's norm.",
    "scans": "Medians of interleaved repetitions.",
    "training": "On random inputs of full length, one device. GB: parameters, moments, activations and the measured "
    "batch, as XLA plans them.",
    "hours": "Full batches of an epoch × epochs × time of a step: training alone, without evaluations, the pruning and "
    "the preparation of data.",
}


def _save(config: ConfigDict, found: Found, how: Mapping[str, Any], source: Mapping[str, Any], workdir: Path) -> None:
    parts = ["# A new accelerator", tables.markdown(_devices(source))]
    for name, (title, rows) in _tables(config, found).items():
        write_text(workdir / f"{name}.csv", tables.csv_text(rows))
        parts += [f"## {title}", tables.markdown(rows), _ABOUT[name]]
    parts += ["## Next", _summary(config, found)]
    write_text(workdir / "report.md", "\n\n".join(parts) + "\n")
    record = {"config": config.to_dict(), **source, "how": how, "found": found}
    write_json(workdir / "results.json", digests.seal(record))


def _summary(config: ConfigDict, found: Found) -> str:
    """Say in a few lines what the measurements mean and what to do next."""
    lines = []
    if checked := _rows(found, "precision"):
        for name in config.tolerances:
            worst = max((row for row in checked if row[2] == name), key=lambda row: float(row[3]))
            verdict = "within" if all(row[5] == "yes" for row in checked if row[2] == name) else "NOT WITHIN"
            where = f"{worst[0]}, {worst[1]}"
            lines.append(
                f"Matmuls in {name} precision: largest relative error {worst[3]} ({where}), {verdict} the tolerance."
            )
    if found["scans"]:
        lines.append(scans.advice(_rows(found, "scans"), scans.platform()))
    total = [
        training.hours(papers.task_config(task, layer, config.size), cost["seconds"])
        for name, (task, layer) in training.configs(config).items()
        if (cost := found["training"].get(name)) and cost["seconds"] is not None
    ]
    if total:
        lines.append(f"Trainings that were measured, {len(total)} in all: {sum(total):,.1f} hours on one device.")
    return "\n\n".join([*lines, f"Next: `{NEXT}`"])
