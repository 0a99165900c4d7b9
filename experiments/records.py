"""What runs save in results.json and results.csv, and what the papers' tables read back."""

import csv
import dataclasses
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from aire import zoo
from aire.report import tables
from aire.training.evaluate import Answers, Evaluation
from aire.utils import digests
from aire.utils.files import write_json, write_text

_TABLE = "results.csv"


def write_results(folder: Path, results: Mapping[str, Any], points: Sequence[Sequence[object]]) -> None:
    """Write the points of a sweep to results.csv, and a sealed record with the digest of that file to results.json."""
    text = tables.csv_text(points)
    write_text(folder / _TABLE, text)
    write_json(folder / "results.json", digests.seal({**results, _TABLE: digests.of_text(text)}))


def read_points(folder: Path, results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Read the rows of results.csv, which belongs to the JSON object in results.json.

    Raises:
        OSError: the file cannot be read.
        DamagedError: it differs from its digest. Results of older versions have none.
    """
    content = (folder / _TABLE).read_bytes()
    if results.get(_TABLE, digest := digests.of_bytes(content)) != digest:
        raise digests.DamagedError(f"{_TABLE} is damaged, or of another run than results.json")
    return list(csv.DictReader(io.StringIO(content.decode(), newline="")))


@dataclasses.dataclass(frozen=True)
class Measurement(Evaluation):
    """An evaluation of a model after a cut, beside the uncut model on the same examples.

    Attributes:
        examples: number of examples.
        lost: examples that only the uncut model classifies right.
        gained: examples that only the cut model classifies right.
    """

    examples: int
    lost: int
    gained: int

    @classmethod
    def beside(cls, answers: Answers, uncut: np.ndarray) -> Self:
        """From the answers after the cut, and the examples that the uncut model classifies right."""
        lost, gained = int(np.sum(uncut & ~answers.right)), int(np.sum(~uncut & answers.right))
        return cls(answers.loss, answers.accuracy, len(uncut), lost, gained)

    @classmethod
    def from_json(cls, fields: Mapping) -> Self:
        """From `vars` of a measurement."""
        counts = (int(fields[name]) for name in ("examples", "lost", "gained"))
        return cls(float(fields["loss"]), _share(fields["accuracy"]), *counts)

    @property
    def change(self) -> float:
        """The cut model's accuracy minus the uncut model's."""
        return (self.gained - self.lost) / self.examples

    @property
    def standard_error(self) -> float:
        """The standard error of `change`: the examples are paired, so only those that changed count."""
        return math.sqrt(((self.lost + self.gained) / self.examples - self.change**2) / self.examples)


@dataclasses.dataclass(frozen=True)
class Point:
    """One cut of a sweep: the share of states cut, the number of states left, and the accuracy on selection."""

    method: str
    seed: int
    ratio: float
    states: int
    selection: Evaluation

    def to_row(self) -> dict[str, object]:
        accuracy = {"selection_accuracy": self.selection.accuracy, "selection_loss": self.selection.loss}
        return {"method": self.method, "draw": self.seed, "ratio": self.ratio, "states": self.states, **accuracy}

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> Self:
        selection = Evaluation(float(row["selection_loss"]), _share(row["selection_accuracy"]))
        return cls(row["method"], int(row.get("draw", 0)), float(row["ratio"]), int(row["states"]), selection)


@dataclasses.dataclass(frozen=True)
class Uncut:
    """A model before any cut: its origin in words, and its evaluations."""

    origin: str
    selection: Measurement
    test: Measurement

    def to_json(self) -> dict:
        return {"selection": vars(self.selection), "test": vars(self.test)}

    @classmethod
    def from_json(cls, origin: str, fields: Mapping) -> Self:
        return cls(origin, *(Measurement.from_json(fields[split]) for split in ("selection", "test")))


@dataclasses.dataclass(frozen=True)
class Chosen:
    """The ratio that the selection split chose for a method, and the evaluations of the model cut there."""

    ratio: float
    selection: Measurement
    test: Measurement

    def to_json(self) -> dict:
        return {"ratio": self.ratio, "selection": vars(self.selection), "test": vars(self.test)}

    @classmethod
    def from_json(cls, fields: Mapping) -> Self:
        evaluations = (Measurement.from_json(fields[split]) for split in ("selection", "test"))
        return cls(_share(fields["ratio"]), *evaluations)


@dataclasses.dataclass(frozen=True)
class Swept:
    """One method on one model: the chosen ratio, and the accuracy on selection at each ratio."""

    chosen: Chosen
    accuracies: Mapping[float, float]

    @classmethod
    def of(cls, fields: Mapping, points: Sequence[Point]) -> Self:
        """From the JSON of `Chosen` and the points of the same method and model."""
        swept = cls(Chosen.from_json(fields), {p.ratio: p.selection.accuracy for p in points})
        if swept.chosen.ratio not in swept.accuracies:
            raise ValueError(f"results.csv lacks the chosen ratio {swept.chosen.ratio:g}")
        return swept


@dataclasses.dataclass(frozen=True)
class PrunedModel:
    """One trained model of a finished run.

    Attributes:
        folder: of the run, relative to the folder that was searched.
        name: of the config: task, layer and size.
        identity: "seed N" or the file it was loaded from. Distinguishes the trained models of one config.
        config: all settings of the run.
        source: commit and machine.
        uncut: the model before any cut.
        cuts: by method, one for each seed.
        parameters: before and after AIRE's cut, if saved.
        speedup: of the forward pass by AIRE's cut, if saved.
    """

    folder: str
    name: str
    identity: str
    config: Mapping
    source: Mapping[str, str]
    uncut: Uncut
    cuts: Mapping[str, Sequence[Swept]]
    parameters: tuple[int, int] | None = None
    speedup: float | None = None


def identity(name: str, init: str, seed: int) -> str:
    """Return what distinguishes the trained model of a run from others of the same config name."""
    if init == "zoo" and name in zoo.names():
        seed = json.loads(zoo.path(name).with_suffix(".json").read_text())["seed"]
    return f"seed {seed}" if init in ("scratch", "zoo") else init


def _share(value: object) -> float:
    share = float(value)
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is not between 0 and 1")
    return share
