"""Results of the comparison, and how they are saved and read back."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from experiments.records import Chosen, Point, PrunedModel, Swept, Uncut, identity


@dataclasses.dataclass(frozen=True)
class Result:
    """One method on one model, with one seed.

    Attributes:
        points: by ascending ratio.
        chosen: the largest ratio within the tolerance.
    """

    model: str
    method: str
    seed: int
    points: Sequence[Point]
    chosen: Chosen


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything in the report. `uncut` has the models by name."""

    config: ConfigDict
    uncut: Mapping[str, Uncut]
    results: Sequence[Result]
    provenance: Mapping

    def to_json(self) -> dict:
        return {
            "config": self.config.to_dict(),
            **self.provenance,
            "models": {name: {"origin": model.origin, **model.to_json()} for name, model in self.uncut.items()},
            "chosen": [
                {"model": r.model, "method": r.method, "draw": r.seed, **r.chosen.to_json()} for r in self.results
            ],
        }


def read_models(results: Mapping, points: Mapping[tuple[str, str, int], Sequence[Point]]) -> Iterator[PrunedModel]:
    """Read the JSON of a `Comparison`. `points` are by model, method and seed."""
    config = results["config"]
    name = config["task_name"]
    for entry, (model, fields) in zip(config["models"], results["models"].items(), strict=True):
        cuts: dict[str, list[Swept]] = {}
        for c in results["chosen"]:
            if c["model"] == model:
                cuts.setdefault(c["method"], []).append(Swept.of(c, points[model, c["method"], c["draw"]]))
        yield PrunedModel(
            folder="",
            name=name,
            identity=identity(name, "scratch" if isinstance(entry, int) else entry, entry),
            config=config,
            source={key: results[key] for key in ("commit", "machine")},
            uncut=Uncut.from_json(fields["origin"], fields),
            cuts=cuts,
        )
