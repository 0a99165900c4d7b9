"""The record of a training: metrics of the steps, which are fetched several at a time, and checkpoints."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from aire.training.checkpoints import Checkpoints
from aire.training.evaluate import Evaluation
from aire.training.metrics import MetricsWriter, check_finite

PENDING = "pending"  # key in the meta data of a checkpoint without evaluation: metrics that are not written yet

Metrics = Mapping[str, Any]  # of one step


class Record:
    """Writes the metrics and checkpoints of a training. All methods raise NonFiniteError at a NaN or an infinity.

    Attributes:
        pending: the metrics of the last steps, which are not written yet.
    """

    def __init__(self, metrics: MetricsWriter, checkpoints: Checkpoints, meta: Mapping[str, Any]):
        """Go on from a checkpoint with these meta data; empty for a new training."""
        self._metrics, self._checkpoints = metrics, checkpoints
        # In float32, as the training step returns them.
        self.pending: list[Metrics] = [
            {name: np.float32(v) for name, v in each.items()} for each in meta.get(PENDING, [])
        ]

    def flush(self, step: int) -> None:
        """Write the means of the pending metrics, which are those of the steps up to this one."""
        values = self._fetch(step)
        self._metrics.write(step, {f"train/{name}": np.mean([v[name] for v in values]) for name in values[0]})
        self.pending = []

    def save_evaluated(self, step: int, state: dict, validation: Evaluation) -> None:
        """Write the pending and the validation metrics, then save the state with them."""
        self.flush(step)
        values = dataclasses.asdict(validation)
        report = {f"validation/{name}": value for name, value in values.items()}
        check_finite(step, report, self._checkpoints.latest)
        self._metrics.write(step, report)
        self._checkpoints.save(step, state, values, score=validation.accuracy)

    def save_unfinished(self, step: int, state: dict) -> None:
        """Save a step before what follows it, such as an evaluation, unless it is saved already."""
        if step in self._checkpoints:
            return
        pending = [{name: float(v) for name, v in each.items()} for each in self._fetch(step)]
        self._checkpoints.save(step, state, {PENDING: pending})

    def _fetch(self, last: int) -> list[Metrics]:
        """Return the values of the pending metrics, of which the last are those of step `last`."""
        values = jax.device_get(self.pending)
        for step, each in enumerate(values, start=last - len(values) + 1):
            check_finite(step, each, self._checkpoints.latest)
        return values
