"""Evaluations of cut models, each distinct cut once. A file of them lets a stopped sweep resume."""

import dataclasses
import functools
import json
import logging
from collections import UserDict
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

import numpy as np

from aire.data.pipeline import Split
from aire.io.weights import get_arrays
from aire.models import Classifier
from aire.pruning import Cut, apply_masked
from aire.ssm import layers
from aire.training.evaluate import Answers
from aire.utils import devices, digests
from aire.utils.errors import UserError
from aire.utils.files import reading, write_bytes, writing
from experiments.records import Measurement

log = logging.getLogger(__name__)


class EvaluationFile(UserDict[str, Measurement]):
    """A dict of evaluations that appends each new one to a file of JSON lines, so a kill loses none.

    Of several processes the first one writes; all read, and evaluate the same.

    A kill during a write leaves an incomplete last line, which the next start drops. Each line is a sealed record.
    Lines of older versions have no digest, so damage to them cannot be found.

    Raises:
        UserError: the file cannot be read or written, or a complete line is damaged or not an evaluation.
    """

    def __init__(self, path: str | Path):
        super().__init__()
        self.path = Path(path)
        with reading(self.path):
            text = self.path.read_bytes() if self.path.exists() else b""
        complete = text[: text.rfind(b"\n") + 1]
        if devices.is_first() and (complete != text or not self.path.exists()):
            write_bytes(self.path, complete)
        records = [self._read(number, line) for number, line in enumerate(complete.split(b"\n")[:-1], 1)]
        if not all(map(digests.is_sealed, records)):
            log.warning("%s: some lines have no digest, so damage to them cannot be found", self.path)
        for record in records:
            self.data[record["key"]] = Measurement.from_json(record)

    def _read(self, number: int, line: bytes) -> dict:
        where = f"{self.path}, line {number}"
        try:
            record = digests.parse_json(line, where)
            digests.unseal(record, where)
            _check_evaluation(record, where)
        except UserError as error:
            raise UserError(f"{error}; delete this line to evaluate its cut again, or move the file away") from error
        return record

    def __setitem__(self, key: str, evaluation: Measurement) -> None:
        super().__setitem__(key, evaluation)
        if not devices.is_first():
            return
        line = json.dumps(digests.seal({"key": key, **dataclasses.asdict(evaluation)})) + "\n"
        with writing(self.path), open(self.path, "a") as file:
            file.write(line)


def _check_evaluation(record: Mapping, where: str) -> None:
    numbers = [record.get(field.name) for field in dataclasses.fields(Measurement)]
    if not isinstance(record.get("key"), str) or not all(isinstance(x, int | float) for x in numbers):
        raise UserError(f"{where} is not an evaluation")
    try:
        Measurement.from_json(record)
    except (ValueError, OverflowError) as error:
        raise UserError(f"{where} is not an evaluation: {error}") from error


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
        return digests.of_text(f"{self._source(split)} {cut.digest()}")

    def _source(self, split: str) -> str:
        """Return what an evaluation depends on besides the cut. Each split is hashed when it is first evaluated."""
        if split not in self._sources:
            self._sources[split] = f"{self._model} {_data(self._splits[split])}"
        return self._sources[split]

    @functools.cached_property
    def _model(self) -> str:
        config = repr(sorted(dataclasses.asdict(self.model.config).items()))
        return f"{config} {digests.of_arrays(get_arrays(self.model))}"


def whole(model: Classifier) -> Cut:
    """Return the cut of nothing."""
    return Cut({path: np.ones(layer.n_states, bool) for path, layer in layers(model).items()})


def _data(split: Split) -> str:
    """Return a digest of a split. The first example covers how the stored data is decoded."""
    first = split.take(np.arange(1))["x"]
    return digests.of_arrays({"x": split.x, "lengths": split.lengths, "y": split.y, "first": first})
