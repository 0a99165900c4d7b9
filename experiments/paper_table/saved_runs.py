"""Find finished runs of the pruning job and of the comparison in a folder, and read them."""

import csv
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from aire.training.optimizer import OptimizerConfig
from aire.utils import digests
from experiments.compare import compare_results
from experiments.prune import prune_results
from experiments.records import Point, PrunedModel, read_points

_READERS = {"prune": prune_results.read_models, "compare": compare_results.read_models}
# Where files are, how many methods run, how fast: settings that the results of one method do not depend on.
_IGNORED = {"data.folder", "data.lra_release", "prune.methods", "prune.scores_file", "prune.batch_size"}
# How many examples evaluate a cut, and how fine the sweep is: settings that only the precision depends on.
_IGNORED |= {"train.checkpoint_minutes", "train.max_minutes", "train.fsdp", "model.remat"}  # of no effect
_IGNORED |= {"data.selection_examples", "data.more_test_examples", "prune.ratios"}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A saved model in the tables.

    Attributes:
        changes: settings that differ from the config's, in words.
        excluded: why the tables leave it out; "" if they include it.
    """

    model: PrunedModel
    changes: Sequence[str]
    excluded: str


def find(root: Path) -> tuple[list[PrunedModel], dict[str, str]]:
    """Return the models of all finished runs below a folder, by path, and by folder what is wrong with damaged runs.

    Results of other experiments, and other files of that name, are skipped.
    """
    models, damaged = [], {}
    for path in sorted(root.rglob("results.json")):
        folder = path.parent.relative_to(root).as_posix()
        try:
            models += [dataclasses.replace(model, folder=folder) for model in _read(path.parent)]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
            damaged[folder] = _reason(error)
    return models, damaged


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is missing"
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}"
    return str(error)


def _read(folder: Path) -> list[PrunedModel]:
    results = digests.parse_json((folder / "results.json").read_bytes(), "results.json")
    if isinstance(results, dict):
        results = digests.unseal(results, "results.json")
    config = results.get("config") if isinstance(results, dict) else None
    read = _READERS.get(config.get("experiment")) if isinstance(config, dict) else None
    if read is None:
        return []
    points: dict[tuple[str, str, int], list[Point]] = {}
    for row in read_points(folder, results):
        point = Point.from_row(row)
        points.setdefault((row.get("model", ""), point.method, point.seed), []).append(point)
    return list(read(results | {"config": _migrated(config)}, points))


def _migrated(config: Mapping) -> Mapping:
    """Move the optimiser's settings to `train.optimizer`; older runs have them in `train`."""
    names = {field.name for field in dataclasses.fields(OptimizerConfig)}
    moved = {name: value for name, value in config["train"].items() if name in names}
    train = {name: value for name, value in config["train"].items() if name not in names}
    return config | {"train": {"optimizer": moved, **train}}


def entries(models: Sequence[PrunedModel], config: ConfigDict) -> list[Entry]:
    """Return the saved models of a config's name; the tables include one for each identity.

    Models with other settings are excluded if there are models with the config's own. Of duplicates, prefer the run
    with the most methods, then a pruning run because it has parameters and times, then path order.
    """
    named = [m for m in models if m.name == config.name]
    settings = json.loads(json.dumps(config.to_dict()))
    changed = {id(m): changes(m, settings) for m in named}
    any_own = not all(changed.values())
    result, first = [], {}
    for m in sorted(named, key=lambda m: (-len(m.cuts), m.speedup is None, m.folder)):
        excluded = ""
        if any_own and changed[id(m)]:
            excluded = "there are runs with the config's own settings"
        elif m.identity in first:
            excluded = f"the same model as in {first[m.identity]}"
        else:
            first[m.identity] = m.folder
        result.append(Entry(m, changed[id(m)], excluded))
    return sorted(result, key=lambda e: (e.model.folder, e.model.identity))


def changes(model: PrunedModel, settings: Mapping) -> list[str]:
    """Describe the settings of a run that differ from a config's."""
    saved, own = (flatten_dict(_groups(s), sep=".") for s in (model.config, settings))
    keys = sorted(saved.keys() & own.keys() - _IGNORED)
    changed = [f"{key}={saved[key]} (not {own[key]})" for key in keys if saved[key] != own[key]]
    if settings["init"] not in ("scratch", "zoo") and model.identity.startswith("seed "):
        changed.append("trained on this data itself")
    return changed


def _groups(settings: Mapping) -> dict:
    """Settings of data, model, training and pruning."""
    return {name: group for name, group in settings.items() if isinstance(group, Mapping)}
