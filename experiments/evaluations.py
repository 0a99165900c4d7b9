"""Evaluations of masked models: each distinct mask once, and kept on disk for a sweep that is stopped and goes on."""

import dataclasses
import hashlib
import json
from collections import UserDict
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

import numpy as np
from jax import Array

import aire
from aire.data.pipeline import Split
from aire.errors import UserError
from aire.files import write_bytes, writing
from aire.models import Classifier
from aire.training.evaluate import Evaluation
from aire.weights import get_arrays


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


class MaskedEvaluator:
    """Evaluates one model under masks, which share one compilation, and remembers the results in `known`.

    Args:
        model: the whole model.
        splits: by name.
        evaluate: from `make_evaluator`, for models of this structure and shape.
        known: evaluations by `key`, which says everything that they depend on but the code: model, mask and split.
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
        config = repr(sorted(dataclasses.asdict(model.config).items()))
        self._source = {name: f"{config} {digest(get_arrays(model))} {_data(split)}" for name, split in splits.items()}

    def __call__(self, keep: Mapping[str, Array], split: str) -> Evaluation:
        """Of the model with only the states where `keep`, bool (n_states,) per layer path, is true."""
        key = self.key(keep, split)
        if key not in self.known:
            self.known[key] = self._evaluate(aire.pruning.mask(self.model, keep), self._splits[split])
        return self.known[key]

    def full(self, split: str) -> Evaluation:
        """Of the whole model."""
        return self({path: np.ones(m.margin.shape, bool) for path, m in aire.modes(self.model).items()}, split)

    def key(self, keep: Mapping[str, Array], split: str) -> str:
        return hashlib.sha256(f"{self._source[split]} {digest(keep)}".encode()).hexdigest()


def _data(split: Split) -> str:
    """A digest of what a split holds; the first example also tells how the stored data is decoded."""
    return digest({"x": split.x, "lengths": split.lengths, "y": split.y, "first": split.take(np.arange(1))["x"]})


def digest(arrays: Mapping[str, Array]) -> str:
    """SHA-256 of named arrays, in any order of the names, as hexadecimal digits."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()
