"""Results of the comparison, and how they are saved and read back."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from experiments.records import Chosen, Point, PrunedModel, Swept, Uncut, identity


@dataclasses.dataclass(frozen=True)
class Result:
    """One method on one model, with one seed.

    Attributes:
        points: by ascending ratio, without the ratios at which the method fails.
        chosen: the largest ratio within a tolerance, by tolerance in points.
    """

    model: str
    method: str
    seed: int
    points: Sequence[Point]
    chosen: Mapping[float, Chosen]

    @property
    def first(self) -> Chosen:
        """The choice within the first tolerance."""
        return next(iter(self.chosen.values()))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything in the report.

    Attributes:
        uncut: by model.
        seconds: of one cut, by model and method.
        failures: by model, what failed and why.
    """

    config: ConfigDict
    uncut: Mapping[str, Uncut]
    results: Sequence[Result]
    seconds: Mapping[str, Mapping[str, float]]
    failures: Mapping[str, Mapping[str, str]]
    provenance: Mapping

    def to_json(self) -> dict:
        return {
            "config": self.config.to_dict(),
            **self.provenance,
            "models": {name: {"origin": model.origin, **model.to_json()} for name, model in self.uncut.items()},
            "chosen": [
                {"model": r.model, "method": r.method, "draw": r.seed, "within": tolerance, **chosen.to_json()}
                for r in self.results
                for tolerance, chosen in r.chosen.items()
            ],
            "seconds": self.seconds,
            "failures": self.failures,
        }


def read_models(results: Mapping, points: Mapping[tuple[str, str, int], Sequence[Point]]) -> Iterator[PrunedModel]:
    """Read the JSON of a `Comparison`. `points` are by model, method and seed."""
    config = results["config"]
    name = config["task_name"]
    for entry, (model, fields) in zip(config["models"], results["models"].items(), strict=True):
        cuts: dict[str, list[Swept]] = {}
        for c in results["chosen"]:
            if c["model"] == model and c["within"] == config["prune"]["tolerance"]:
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
