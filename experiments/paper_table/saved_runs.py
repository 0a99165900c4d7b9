"""Finished runs of the main job and of the comparison, found in a folder and read: JSON and CSV, nothing executed."""

import csv
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from aire import zoo
from aire.training.optimizer import OptimizerConfig

# Settings that say where files are, how fast, or how many methods: the results of one method do not depend on them.
_FREE = {"data.folder", "data.lra_release", "prune.methods", "prune.scores_file", "prune.batch_size"}


@dataclasses.dataclass(frozen=True)
class Cut:
    """One method (or one draw of it) on one model: the ratio chosen on validation, and accuracies as shares of 1.

    Attributes:
        ratio: share of all states that is cut, the largest within the tolerance.
        test: accuracy there.
        validation: accuracy at each ratio of the sweep.
    """

    ratio: float
    test: float
    validation: Mapping[float, float]


@dataclasses.dataclass(frozen=True)
class PrunedModel:
    """One trained model in a finished run, and what the methods made of it.

    Attributes:
        folder: of the run, below the folder that was searched.
        name: of the config: task, layer and size.
        identity: what tells trained models of one config apart: "seed N", or the file it was loaded from.
        origin: where the model comes from, in words.
        config: all settings of the run.
        source: commit and machine.
        validation, test: accuracy of the whole model.
        cuts: by method, one for each draw.
        parameters: of the whole model and the one cut by AIRE, where saved.
        speedup: how many times as fast the latter's forward pass is, where saved.
    """

    folder: str
    name: str
    identity: str
    origin: str
    config: Mapping
    source: Mapping[str, str]
    validation: float
    test: float
    cuts: Mapping[str, Sequence[Cut]]
    parameters: tuple[int, int] | None = None
    speedup: float | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A saved model as the tables take it: `changes` from its config's settings; `left_out`, why, or ""."""

    model: PrunedModel
    changes: Sequence[str]
    left_out: str


def find(root: Path) -> tuple[list[PrunedModel], dict[str, str]]:
    """All models of finished runs in a folder and below, by path; and by folder, what is wrong with damaged runs.

    Other experiments' results and files that only have the name are passed over.
    """
    models, damaged = [], {}
    for path in sorted(root.rglob("results.json")):
        folder = path.parent.relative_to(root).as_posix()
        try:
            models += _read(path.parent, folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            damaged[folder] = _reason(error)
    return models, damaged


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"results.json is not JSON: {error}"
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}"
    return str(error)


def _read(folder: Path, name: str) -> list[PrunedModel]:
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    config = results.get("config") if isinstance(results, dict) else None
    read = _READERS.get(config.get("experiment")) if isinstance(config, dict) else None
    return list(read(name, _migrated(config), results, _points(folder / "results.csv"))) if read else []


def _migrated(config: Mapping) -> Mapping:
    """The settings as they are named today: the optimiser's were once directly in `train`."""
    optimizer = {f.name for f in dataclasses.fields(OptimizerConfig)}
    moved = {name: value for name, value in config["train"].items() if name in optimizer}
    train = {name: value for name, value in config["train"].items() if name not in optimizer}
    return config | {"train": {"optimizer": moved, **train}}


def _points(path: Path) -> dict[tuple[str, str, int], dict[float, float]]:
    """Validation accuracy by (model, method, draw) and ratio; a run of one model names no model and no draw."""
    points: dict[tuple[str, str, int], dict[float, float]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = row.get("model", ""), row["method"], int(row.get("draw", 0))
            points.setdefault(key, {})[float(row["ratio"])] = _share(row["validation_accuracy"])
    return points


def _from_prune(folder: str, config: Mapping, results: Mapping, points: Mapping) -> Iterator[PrunedModel]:
    chosen, full = results["chosen"], results["full"]
    saved = {}
    if next(iter(chosen), "") == "aire":  # the model that is saved and timed is the first method's
        parameters = int(full["parameters"]), int(chosen["aire"]["parameters"])
        saved = {"parameters": parameters, "speedup": float(results["forward_speedup"])}
    yield PrunedModel(
        folder=folder,
        name=config["name"],
        identity=identity(config["name"], config["init"], results["seed"]),
        origin=results["model"],
        **_common(config, results, full),
        cuts={method: [_cut(c, points["", method, 0])] for method, c in chosen.items()},
        **saved,
    )


def _from_compare(folder: str, config: Mapping, results: Mapping, points: Mapping) -> Iterator[PrunedModel]:
    for entry, (model, whole) in zip(config["models"], results["models"].items(), strict=True):
        cuts: dict[str, list[Cut]] = {}
        for c in results["chosen"]:
            if c["model"] == model:
                cuts.setdefault(c["method"], []).append(_cut(c, points[model, c["method"], c["draw"]]))
        init = "scratch" if isinstance(entry, int) else entry
        yield PrunedModel(
            folder=folder,
            name=config["task_name"],
            identity=identity(config["task_name"], init, entry),
            origin=whole["origin"],
            **_common(config, results, whole),
            cuts=cuts,
        )


_READERS = {"prune": _from_prune, "compare": _from_compare}


def _common(config: Mapping, results: Mapping, whole: Mapping) -> dict:
    return {
        "config": config,
        "source": {key: str(results[key]) for key in ("commit", "machine")},
        "validation": _share(whole["validation"]["accuracy"]),
        "test": _share(whole["test"]["accuracy"]),
    }


def _cut(chosen: Mapping, validation: Mapping[float, float]) -> Cut:
    ratio = _share(chosen["ratio"])
    if ratio not in validation:
        raise ValueError(f"results.csv lacks the chosen ratio {ratio:g}")
    return Cut(ratio, _share(chosen["test"]["accuracy"]), validation)


def _share(value: object) -> float:
    share = float(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share of 1")
    return share


def identity(name: str, init: str, seed: int) -> str:
    """What tells the trained model of a run apart from others of the same config name."""
    if init == "zoo" and name in zoo.names():
        seed = json.loads(zoo.path(name).with_suffix(".json").read_text())["seed"]
    return f"seed {seed}" if init in ("scratch", "zoo") else init


def entries(models: Sequence[PrunedModel], config: ConfigDict) -> list[Entry]:
    """The saved models of a config's name, one for each identity counted, the others left out.

    Where there are models with the config's own settings, those with others are left out. Of runs of the same model
    that with the most methods counts, then that of the main job, which has parameters and times, then the first.
    """
    named = [m for m in models if m.name == config.name]
    settings = json.loads(json.dumps(config.to_dict()))
    changed = {id(m): changes(m, settings) for m in named}
    any_own = not all(changed.values())
    result, first = [], {}
    for m in sorted(named, key=lambda m: (-len(m.cuts), m.speedup is None, m.folder)):
        left_out = ""
        if any_own and changed[id(m)]:
            left_out = "there are runs with the config's own settings"
        elif m.identity in first:
            left_out = f"the same model as in {first[m.identity]}"
        else:
            first[m.identity] = m.folder
        result.append(Entry(m, changed[id(m)], left_out))
    return sorted(result, key=lambda e: (e.model.folder, e.model.identity))


def changes(model: PrunedModel, settings: Mapping) -> list[str]:
    """Settings that a run had otherwise than a config, in words."""
    saved, own = (dict(_flat(s, "")) for s in (model.config, settings))
    keys = sorted(saved.keys() & own.keys() - _FREE)
    changed = [f"{key}={saved[key]} (not {own[key]})" for key in keys if saved[key] != own[key]]
    if settings["init"] not in ("scratch", "zoo") and model.identity.startswith("seed "):
        changed.append("trained on this data itself")
    return changed


def _flat(settings: Mapping, prefix: str) -> Iterator[tuple[str, object]]:
    """Settings of data, model, training and pruning, by dotted names."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif prefix:
            yield f"{prefix}{key}", value
