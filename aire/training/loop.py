"""The training loop: resumable; returns the model with the best validation accuracy."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import optax
from flax import nnx

from aire.data.pipeline import Batches, Split, steps_per_epoch
from aire.training.checkpoints import Checkpoints
from aire.training.evaluate import Evaluation, batches, evaluate_arrays
from aire.training.metrics import MetricsWriter
from aire.training.optimizer import OptimizerConfig, make_optimizer
from aire.training.record import PENDING, Record
from aire.training.step import init_state, make_eval_step, make_train_step, split_model
from aire.utils import devices, stopping
from aire.utils.arguments import mapping
from aire.utils.checks import Mistakes, boolean, check, integer, make, number
from aire.utils.errors import UserError
from aire.utils.processes import Timer
from aire.utils.progress import Progress

MAX_BATCH = 2**20  # examples; a larger number is a mistake that would fill the memory
FETCH_EVERY = 50  # steps between fetches of the metrics, because a fetch waits for the device
AHEAD = 2  # steps that are given to the device at once, because a signal waits for all of them


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train.

    Attributes:
        batch_size: examples per step.
        epochs: passes over the training split; an incomplete last batch is dropped.
        optimizer: rates and parameter groups.
        warmup_epochs: of the learning-rate schedule.
        evaluate_every: steps between evaluations on the validation split, each followed by a checkpoint; 0: one epoch.
        accumulate: parts into which a batch is divided to save memory (`make_train_step`).
        fsdp: divide parameters and moments over the devices, where a model does not fit on one.
        checkpoint_minutes: the longest time between checkpoints.
        max_minutes: stop at a checkpoint after this time, to be continued by the same call; 0: no limit.

    The last three do not change the result.
    """

    batch_size: int
    epochs: int
    optimizer: OptimizerConfig
    warmup_epochs: int = 1
    evaluate_every: int = 0
    accumulate: int = 1
    fsdp: bool = False
    checkpoint_minutes: float = 10.0
    max_minutes: float = 0.0

    def __post_init__(self):
        check(
            self,
            batch_size=integer(1, MAX_BATCH),
            epochs=integer(1, 10**6),
            warmup_epochs=integer(0, 10**6),
            evaluate_every=integer(0, 10**9),
            accumulate=integer(1, MAX_BATCH),
            fsdp=boolean(),
            checkpoint_minutes=number(above=0),
            max_minutes=number(0),
        )
        if not isinstance(self.optimizer, OptimizerConfig):
            raise UserError(f"optimizer={self.optimizer!r}: expected an OptimizerConfig")
        if self.warmup_epochs >= self.epochs:
            raise UserError(f"warmup_epochs={self.warmup_epochs}: expected fewer than epochs={self.epochs}")
        if self.batch_size % self.accumulate:
            raise UserError(f"accumulate={self.accumulate}: expected a divisor of batch_size={self.batch_size}")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Invert `dataclasses.asdict`. Raise UserError that names every mistake."""
        mapping("fields", fields, "of the fields of TrainConfig")
        with Mistakes() as mistakes:
            optimizer = OptimizerConfig(lr=1, ssm_lr=1, weight_decay=0)  # so that the others are checked anyway
            with mistakes.within("optimizer."):
                optimizer = make(OptimizerConfig, fields.get("optimizer"))
            with mistakes.within(""):
                return make(cls, {**fields, "optimizer": optimizer})

    def make_optimizer(self, model: nnx.Module, epoch_steps: int) -> optax.GradientTransformation:
        """Return the optimiser, scheduled for epochs of so many steps."""
        steps = {"warmup_steps": self.warmup_epochs * epoch_steps, "total_steps": self.epochs * epoch_steps}
        return make_optimizer(self.optimizer, model, **steps)


@dataclasses.dataclass(frozen=True)
class Trained:
    """The model with the best validation accuracy, in evaluation mode, with its step and validation metrics."""

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
    """Train a model, or resume the training in `folder`.

    Interruptions do not change the result, bit for bit: batches and dropout are pure functions of the seed and the
    step, and everything else is in the checkpoint. Besides the checkpoints that follow an evaluation there are others,
    without a score: after `checkpoint_minutes`, and when a signal or `max_minutes` stop the process.

    On several devices each computes its rows of every batch, and the result differs by rounding. Several processes make
    the same call, with the same data; a run can go on with another number of them.

    Args:
        model: the initial parameters; not modified.
        data: splits "train" and "validation".
        config: how to train.
        seed: of the order of examples and of dropout.
        folder: for checkpoints, metrics.csv and TensorBoard events.
        fingerprint: all settings that the result depends on; a folder with another fingerprint is refused.
    Raises:
        NonFiniteError: a loss is NaN or infinite; the last good checkpoint is kept.
        UserError: the folder cannot be written or belongs to a run with other settings, or the batch does not divide
            over the devices.
        Stopped: a signal arrived within `stopping.on_signals`, or `max_minutes` are over. The last step that was
            finished is saved.
    """
    devices.check_batch("batch_size", config.batch_size, config.accumulate)
    epoch_steps = steps_per_epoch(data["train"], config.batch_size)
    total, every = config.epochs * epoch_steps, config.evaluate_every or epoch_steps
    model = nnx.clone(model)
    model.train()
    optimizer = config.make_optimizer(model, epoch_steps)
    functions, *_ = split_model(model)
    stream = Batches(data["train"], batch_size=config.batch_size, seed=seed, **devices.process())
    state = devices.place(init_state(model, optimizer, jax.random.key(seed)), sharded=config.fsdp)
    placed = devices.shardings(state, sharded=config.fsdp)
    train_step = make_train_step(functions, optimizer, accumulate=config.accumulate, shardings=placed)
    eval_step = make_eval_step(functions)

    with (
        Checkpoints(folder / "checkpoints", fingerprint=dict(fingerprint)) as checkpoints,
        stopping.deferred(),
        stopping.time_limit(config.max_minutes),
    ):
        start, state, meta = checkpoints.restore_latest(state) or (0, state, {})
        first = start if PENDING in meta else start + 1  # the former if what follows the step `start` was not done
        due = Timer(60 * config.checkpoint_minutes)
        with (
            MetricsWriter(folder if devices.is_first() else None, first - 1 or None) as metrics,
            Progress("training", total, done=start) as progress,
        ):
            record = Record(metrics, checkpoints, meta)
            if first <= total:  # compile the evaluation now: later a signal would wait for it while steps are unsaved
                eval_step(state["params"], state["buffers"], next(batches(data["validation"], config.batch_size)))
            for step in range(first, total + 1):
                if step > start:
                    state, step_metrics = train_step(state, devices.join_rows(stream[step - 1]))
                    record.pending.append(step_metrics)
                    jax.block_until_ready(record.pending[-AHEAD:][0])
                    progress.update(1, **step_metrics)
                evaluating = step % every == 0 or step == total
                if not evaluating and due.is_over():
                    record.save_unfinished(step, state)
                    due.restart()
                try:
                    stopping.check()
                    if evaluating:
                        arrays = state["params"], state["buffers"]
                        validation = evaluate_arrays(eval_step, *arrays, data["validation"], config.batch_size)
                except stopping.Stopped as stop:
                    record.save_unfinished(step, state)
                    stop.add_note(f"saved step {step} of {total} in {checkpoints.latest()}")
                    stop.add_note("run the same command again to go on from there")
                    raise
                if evaluating:
                    record.save_evaluated(step, state, validation)
                    due.restart()
                elif len(record.pending) == FETCH_EVERY:
                    record.flush(step)
        restored = checkpoints.restore_best(jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state))
    assert restored is not None  # the last step saved a checkpoint
    step, state, meta = restored
    best = nnx.merge(functions.graphdef, state["params"], state["buffers"], copy=True)
    best.eval()
    return Trained(best, step, Evaluation(**meta))
