"""The training loop: to the parameters that validate best. Interrupted, it goes on where it was."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from aire.data.pipeline import Batches, Split, steps_per_epoch
from aire.training.checkpoints import Checkpoints
from aire.training.evaluate import Evaluation, evaluate_arrays
from aire.training.metrics import MetricsWriter, check_finite
from aire.training.optimizer import OptimizerConfig, make_optimizer
from aire.training.step import init_state, make_eval_step, make_train_step, split_model
from aire.utils.errors import UserError
from aire.utils.progress import Progress

LOOK_EVERY = 50  # steps between looks at the losses, for a look waits for the device


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train; the optimiser's fields are explained in `OptimizerConfig`.

    Attributes:
        batch_size: examples per step.
        epochs: passes over the training split; the last, incomplete batch of each is dropped.
        warmup_epochs: of the learning-rate schedule.
        evaluate_every: steps between evaluations on the validation split, each followed by a checkpoint; 0: an epoch.
    """

    batch_size: int
    epochs: int
    warmup_epochs: int
    evaluate_every: int
    lr: float
    ssm_lr: float
    weight_decay: float
    groups: str
    dt_global: bool

    def __post_init__(self):
        if self.epochs < 1 or self.evaluate_every < 0:
            raise UserError(
                f"epochs={self.epochs}, evaluate_every={self.evaluate_every}: expected epochs >= 1 and not < 0"
            )

    def optimizer(self, epoch_steps: int) -> OptimizerConfig:
        return OptimizerConfig(
            lr=self.lr,
            ssm_lr=self.ssm_lr,
            weight_decay=self.weight_decay,
            groups=self.groups,
            dt_global=self.dt_global,
            warmup_steps=self.warmup_epochs * epoch_steps,
            total_steps=self.epochs * epoch_steps,
        )


@dataclasses.dataclass(frozen=True)
class Trained:
    """The model that validated best, in evaluation mode, the step it is from, and its validation."""

    model: nnx.Module
    step: int
    validation: Evaluation


def train(
    model: nnx.Module,
    data: Mapping[str, Split],
    config: TrainConfig,
    *,
    seed: int,
    folder: Path,
    fingerprint: Mapping[str, Any],
) -> Trained:
    """Train a model, or go on with the training that `folder` holds.

    The same command ends with bit-identical parameters however often it was interrupted: batches and dropout are pure
    functions of the seed and the step, and everything else is in the checkpoint.

    Args:
        model: initial parameters; it is not changed.
        data: splits "train" and "validation".
        config: how to train.
        seed: of the order of examples and of dropout.
        folder: for checkpoints, metrics.csv and TensorBoard events.
        fingerprint: all settings that the result depends on; a folder with another one is refused.
    Raises:
        NonFiniteError: a loss is NaN or infinite; the last good checkpoint stays.
        UserError: the folder cannot be written, or was made with other settings.
    """
    epoch_steps = steps_per_epoch(data["train"], config.batch_size)
    total, every = config.epochs * epoch_steps, config.evaluate_every or epoch_steps
    model = nnx.clone(model)
    model.train()
    optimizer = make_optimizer(config.optimizer(epoch_steps), model)
    functions, *_ = split_model(model)
    train_step, eval_step = make_train_step(functions, optimizer), make_eval_step(functions)
    stream = Batches(data["train"], batch_size=config.batch_size, seed=seed)

    with Checkpoints(folder / "checkpoints", fingerprint=dict(fingerprint)) as checkpoints:
        state = init_state(model, optimizer, jax.random.key(seed))
        start, state, _ = checkpoints.restore_latest(state) or (0, state, {})
        with MetricsWriter(folder, start or None) as metrics, Progress("training", total, done=start) as progress:
            unseen: list[dict] = []  # metrics of steps whose losses were not looked at yet
            for step in range(start + 1, total + 1):
                state, step_metrics = train_step(state, stream[step - 1])
                unseen.append(step_metrics)
                progress.update(1, **step_metrics)
                evaluating = step % every == 0 or step == total
                if evaluating or len(unseen) == LOOK_EVERY:
                    look(step, unseen, metrics, checkpoints.latest)
                    unseen = []
                if evaluating:
                    arrays = state["params"], state["buffers"]
                    validation = evaluate_arrays(eval_step, *arrays, data["validation"], config.batch_size)
                    _record(step, state, validation, metrics, checkpoints)
        step, state, meta = checkpoints.restore_best(state)
    best = nnx.merge(functions.graphdef, state["params"], state["buffers"], copy=True)
    best.eval()
    return Trained(best, step, Evaluation(**meta))


def _record(step: int, state: dict, validation: Evaluation, metrics: MetricsWriter, checkpoints: Checkpoints) -> None:
    """Write a validation, then save the state it belongs to."""
    values = dataclasses.asdict(validation)
    report = {f"validation/{name}": value for name, value in values.items()}
    check_finite(step, report, checkpoints.latest)
    metrics.write(step, report)
    checkpoints.save(step, state, values, score=validation.accuracy)


def look(last: int, unseen: list[dict], metrics: MetricsWriter, latest: Callable[[], Path | None]) -> None:
    """Fetch the metrics of the steps up to `last`, stop at the first that is not finite, write their means.

    `latest` is asked for the last good checkpoint then, for the message.
    """
    values = jax.device_get(unseen)
    for step, step_metrics in enumerate(values, start=last - len(values) + 1):
        check_finite(step, step_metrics, latest)
    metrics.write(last, {f"train/{name}": np.mean([v[name] for v in values]) for name in values[0]})
