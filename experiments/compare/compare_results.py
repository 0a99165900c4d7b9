"""What the comparison finds: the uncut models, and each method on each model."""

import dataclasses
from collections.abc import Mapping, Sequence

from ml_collections import ConfigDict

from aire.training.evaluate import Evaluation
from experiments.sweep import Point


@dataclasses.dataclass(frozen=True)
class Uncut:
    """A model before any cut: where it comes from, in words, and its accuracy."""

    origin: str
    validation: Evaluation
    test: Evaluation


@dataclasses.dataclass(frozen=True)
class Result:
    """One method on one model; `draw` numbers the repetitions of one that draws.

    Attributes:
        points: by ascending ratio.
        chosen: the one with the largest ratio within the tolerance.
        test: of the model cut there.
    """

    model: str
    method: str
    draw: int
    points: Sequence[Point]
    chosen: Point
    test: Evaluation


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Everything that the report shows."""

    config: ConfigDict
    wholes: Mapping[str, Uncut]
    results: Sequence[Result]
    provenance: Mapping
