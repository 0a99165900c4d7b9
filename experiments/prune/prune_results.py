"""What the main job finds: the choice of each method, and everything that the report shows."""

import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from aire.models import Classifier
from aire.pruning import PruneResult
from aire.training.evaluate import Evaluation
from experiments.sweep import Point


@dataclasses.dataclass(frozen=True)
class Choice:
    """The largest ratio within the tolerance for one method, the model cut there, and its only test."""

    method: str
    ratio: float
    result: PruneResult
    validation: Evaluation
    test: Evaluation


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Everything that the report shows."""

    config: ConfigDict
    origin: str
    model: Classifier
    full_validation: Evaluation
    full_test: Evaluation
    baselines: Mapping[str, Mapping[str, float]]
    points: Sequence[Point]
    choices: Sequence[Choice]
    seconds: Mapping[str, float]
    speedup: float
    provenance: Mapping
