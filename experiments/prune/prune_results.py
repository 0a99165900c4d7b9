"""Results of the pruning job, and how they are saved and read back."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict

from aire.models import Classifier
from aire.pruning import PruneResult, count_parameters
from experiments.records import Chosen, Point, PrunedModel, Swept, Uncut, identity


@dataclasses.dataclass(frozen=True)
class Choice:
    """A method's largest ratio within the tolerance, and the model cut there."""

    method: str
    chosen: Chosen
    result: PruneResult


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything in the report."""

    config: ConfigDict
    model: Classifier
    uncut: Uncut
    baselines: Mapping[str, Mapping[str, float]]
    points: Sequence[Point]
    choices: Sequence[Choice]
    seconds: Mapping[str, float]
    speedup: float
    provenance: Mapping

    def to_json(self) -> dict:
        return {
            "config": self.config.to_dict(),
            "seed": self.config.seed,
            "model": self.uncut.origin,
            **self.provenance,
            "seconds": self.seconds,
            "baselines": self.baselines,
            "full": {
                **self.uncut.to_json(),
                "states": self.model.config.state_sizes,
                "parameters": count_parameters(self.model),
            },
            "chosen": {
                c.method: {
                    **c.chosen.to_json(),
                    "states": c.result.model.config.state_sizes,
                    "parameters": c.result.parameters[1],
                }
                for c in self.choices
            },
            "forward_speedup": self.speedup,
        }


def read_models(results: Mapping, points: Mapping[tuple[str, str, int], Sequence[Point]]) -> Iterator[PrunedModel]:
    """Read the JSON of an `Outcome`. `points` are by model (here ""), method and seed."""
    config, chosen = results["config"], results["chosen"]
    saved = {}
    if next(iter(chosen), "") == "aire":  # the first method's model is the one that is saved and timed
        parameters = int(results["full"]["parameters"]), int(chosen["aire"]["parameters"])
        saved = {"parameters": parameters, "speedup": float(results["forward_speedup"])}
    yield PrunedModel(
        folder="",
        name=config["name"],
        identity=identity(config["name"], config["init"], results["seed"]),
        config=config,
        source={key: results[key] for key in ("commit", "machine")},
        uncut=Uncut.from_json(results["model"], results["full"]),
        cuts={method: [Swept.of(c, points["", method, 0])] for method, c in chosen.items()},
        **saved,
    )
