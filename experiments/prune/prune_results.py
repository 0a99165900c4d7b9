"""Results of the pruning job, and how they are saved and read back."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from aire.models import Classifier
from aire.pruning import PruneResult, count_parameters
from experiments.records import Chosen, Point, PrunedModel, Swept, Uncut, identity


@dataclasses.dataclass(frozen=True)
class Choice:
    """A method's largest ratio within the tolerance, and the model cut there.

    Attributes:
        masks: of the kept states by ratio and layer path, at every ratio of the sweep that did not fail.
        seconds: of a forward pass of the uncut and of the cut model, side by side on one batch.
    """

    method: str
    chosen: Chosen
    result: PruneResult
    masks: Mapping[float, Mapping[str, ArrayLike]]
    seconds: tuple[float, float]

    @property
    def speedup(self) -> float:
        """How many times as fast the cut model's forward pass is."""
        return self.seconds[0] / self.seconds[1]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything in the report. The model of the last choice is the one that is saved.

    Attributes:
        predicted: output errors by method, ratio and layer path, where they are known.
    """

    config: ConfigDict
    model: Classifier
    uncut: Uncut
    baselines: Mapping[str, Mapping[str, float]]
    points: Sequence[Point]
    choices: Sequence[Choice]
    predicted: Mapping[str, Mapping[float, Mapping[str, float]]]
    seconds: Mapping[str, float]
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
                    "forward_seconds": c.seconds,
                }
                for c in self.choices
            },
        }


def read_models(results: Mapping, points: Mapping[tuple[str, str, int], Sequence[Point]]) -> Iterator[PrunedModel]:
    """Read the JSON of an `Outcome`. `points` are by model (here ""), method and seed."""
    config, chosen = results["config"], results["chosen"]
    saved = {}
    if aire := chosen.get("aire"):
        uncut, cut = map(float, aire["forward_seconds"])
        parameters = int(results["full"]["parameters"]), int(aire["parameters"])
        saved = {"parameters": parameters, "speedup": uncut / cut}
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
