"""Evaluations of cut models, each distinct cut once. A file of them lets a stopped sweep resume."""

import dataclasses
import functools
import hashlib
import json
from collections import UserDict
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

import numpy as np

from aire.data.pipeline import Split
from aire.io.weights import get_arrays
from aire.models import Classifier
from aire.pruning import Cut, apply_masked
from aire.pruning.surgery import digest
from aire.ssm import layers
from aire.training.evaluate import Answers
from aire.utils.errors import UserError
from aire.utils.files import write_bytes, writing
from experiments.records import Measurement


class EvaluationFile(UserDict[str, Measurement]):
    """A dict of evaluations that appends each new one to a file of JSON lines, so a kill loses none.

    A kill during a write leaves an incomplete last line, which the next start drops.

    Raises:
        UserError: the file cannot be written, or a complete line is not an evaluation.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)
        text = self.path.read_bytes() if self.path.exists() else b""
        complete = text[: text.rfind(b"\n") + 1]
        if complete != text or not self.path.exists():
            write_bytes(self.path, complete)
        for number, line in enumerate(complete.splitlines(), 1):
            key, evaluation = self._parse(number, line)
            self.data[key] = evaluation

    def _parse(self, number: int, line: bytes) -> tuple[str, Measurement]:
        try:
            record = json.loads(line)
            return str(record["key"]), Measurement.from_json(record)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}, line {number} is not an evaluation; move the file away") from error

    def __setitem__(self, key: str, evaluation: Measurement) -> None:
        line = json.dumps({"key": key, **dataclasses.asdict(evaluation)}) + "\n"
        with writing(self.path), open(self.path, "a") as file:
            file.write(line)
        super().__setitem__(key, evaluation)


class CutEvaluator:
    """Evaluate one model after different cuts, which share one compilation.

    Args:
        model: the uncut model.
        splits: by name.
        evaluate: from `make_evaluator`, for models of this structure and shape.
        cache: evaluations by `key`, a digest of all they depend on except the code: model, cut and split.
    """

    def __init__(
        self,
        model: Classifier,
        splits: Mapping[str, Split],
        evaluate: Callable[[Classifier, Split], Answers],
        cache: MutableMapping[str, Measurement],
    ):
        self.model, self.cache = model, cache
        self._splits, self._evaluate = splits, evaluate
        self._sources: dict[str, str] = {}
        self._uncut: dict[str, np.ndarray] = {}

    def __call__(self, cut: Cut, split: str) -> Measurement:
        """Evaluate the model after this cut, beside the uncut model."""
        key = self.key(cut, split)
        if key not in self.cache:
            answers = self._evaluate(apply_masked(self.model, cut), self._splits[split])
            self.cache[key] = self.beside_uncut(answers, split)
        return self.cache[key]

    def uncut(self, split: str) -> Measurement:
        """Evaluate the model with all its states."""
        return self(whole(self.model), split)

    def beside_uncut(self, answers: Answers, split: str) -> Measurement:
        """Compare a model's answers with the uncut model's, which is evaluated once on each split."""
        if split not in self._uncut:
            self._uncut[split] = self._evaluate(self.model, self._splits[split]).right
        return Measurement.beside(answers, self._uncut[split])

    def key(self, cut: Cut, split: str) -> str:
        return hashlib.sha256(f"{self._source(split)} {cut.digest()}".encode()).hexdigest()

    def _source(self, split: str) -> str:
        """Return what an evaluation depends on besides the cut. Each split is hashed when it is first evaluated."""
        if split not in self._sources:
            self._sources[split] = f"{self._model} {_data(self._splits[split])}"
        return self._sources[split]

    @functools.cached_property
    def _model(self) -> str:
        config = repr(sorted(dataclasses.asdict(self.model.config).items()))
        return f"{config} {digest(get_arrays(self.model))}"


def whole(model: Classifier) -> Cut:
    """Return the cut of nothing."""
    return Cut({path: np.ones(layer.n_states, bool) for path, layer in layers(model).items()})


def _data(split: Split) -> str:
    """Return a digest of a split. The first example covers how the stored data is decoded."""
    return digest({"x": split.x, "lengths": split.lengths, "y": split.y, "first": split.take(np.arange(1))["x"]})
