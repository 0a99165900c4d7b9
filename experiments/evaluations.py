"""Evaluations of cut models: each distinct cut once, and kept on disk for a sweep that is stopped and goes on."""

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
from aire.training.evaluate import Evaluation
from aire.utils.errors import UserError
from aire.utils.files import write_bytes, writing


class EvaluationFile(UserDict[str, Evaluation]):
    """A dict of evaluations that appends each new one to a file of JSON lines, so that a kill loses none.

    A kill in the middle of a write leaves a last line without its end; it is dropped at the next start.

    Raises:
        UserError: the file cannot be written, or an earlier line of it is not an evaluation.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)
        text = self.path.read_bytes() if self.path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text or not self.path.exists():
            write_bytes(self.path, whole)
        for number, line in enumerate(whole.splitlines(), 1):
            key, evaluation = self._parse(number, line)
            self.data[key] = evaluation

    def _parse(self, number: int, line: bytes) -> tuple[str, Evaluation]:
        try:
            record = json.loads(line)
            return str(record["key"]), Evaluation(float(record["loss"]), float(record["accuracy"]))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self.path}, line {number} is not an evaluation; move the file away to go on") from error

    def __setitem__(self, key: str, evaluation: Evaluation) -> None:
        line = json.dumps({"key": key, **dataclasses.asdict(evaluation)}) + "\n"
        with writing(self.path), open(self.path, "a") as file:
            file.write(line)
        super().__setitem__(key, evaluation)


class CutEvaluator:
    """Evaluates one model after cuts, which share one compilation, and remembers the results in `known`.

    Args:
        model: the uncut model.
        splits: by name.
        evaluate: from `make_evaluator`, for models of this structure and shape.
        known: evaluations by `key`, which covers everything that they depend on but the code: model, cut and split.
    """

    def __init__(
        self,
        model: Classifier,
        splits: Mapping[str, Split],
        evaluate: Callable[[Classifier, Split], Evaluation],
        known: MutableMapping[str, Evaluation],
    ):
        self.model, self.known = model, known
        self._splits, self._evaluate = splits, evaluate
        self._sources: dict[str, str] = {}

    def __call__(self, cut: Cut, split: str) -> Evaluation:
        """Of the model after this cut."""
        key = self.key(cut, split)
        if key not in self.known:
            self.known[key] = self._evaluate(apply_masked(self.model, cut), self._splits[split])
        return self.known[key]

    def uncut(self, split: str) -> Evaluation:
        """Of the model with all its states."""
        return self(Cut({path: np.ones(layer.n_states, bool) for path, layer in layers(self.model).items()}), split)

    def key(self, cut: Cut, split: str) -> str:
        return hashlib.sha256(f"{self._source(split)} {cut.digest()}".encode()).hexdigest()

    def _source(self, split: str) -> str:
        """What an evaluation on a split depends on beside the cut; hashed once for each split that is evaluated."""
        if split not in self._sources:
            self._sources[split] = f"{self._model} {_data(self._splits[split])}"
        return self._sources[split]

    @functools.cached_property
    def _model(self) -> str:
        config = repr(sorted(dataclasses.asdict(self.model.config).items()))
        return f"{config} {digest(get_arrays(self.model))}"


def _data(split: Split) -> str:
    """A digest of what a split holds; the first example also tells how the stored data is decoded."""
    return digest({"x": split.x, "lengths": split.lengths, "y": split.y, "first": split.take(np.arange(1))["x"]})
