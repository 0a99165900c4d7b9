"""The training loop around the compiled step."""

import contextlib
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from aire.data import listops
from aire.data.pipeline import Batch, Batches, Split, steps_per_epoch
from aire.data.tasks import Task
from aire.models import Classifier
from aire.training.checkpoints import Checkpoints
from aire.training.loop import FETCH_EVERY, TrainConfig
from aire.training.metrics import MetricsWriter
from aire.training.record import Record
from aire.training.step import init_state, make_train_step, split_model
from aire.utils.progress import Progress
from configs import lra_listops_prune
from experiments.model_source import model_config
from experiments.speed.table import Table
from experiments.timing import repeated


def loop_table(config: ConfigDict) -> Table:
    """Measure the share of a training step spent outside the compiled function: batches, transfers, metrics, progress.

    The difference between the loop and the compiled step is as small as the noise of both. So the loop without the step
    is measured as well: its time is an upper bound on what the loop costs.
    """
    repetitions = 4 * config.repetitions  # must resolve differences of a few percent
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        metrics = stack.enter_context(MetricsWriter(folder, None))
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", fingerprint={}))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        progress = stack.enter_context(Progress("training", 2 * (repetitions + 1) * FETCH_EVERY))
        seconds = repeated(_Loop(config.loop, Record(metrics, checkpoints, {}), progress).calls(), repetitions)
    step, loop, rest = (1e3 * seconds[name] / FETCH_EVERY for name in ("step", "loop", "rest"))
    longer = " / ".join(f"{share:+.1%}" for share in np.quantile(loop / step - 1, [0.25, 0.5, 0.75]))
    step, loop, rest = (float(np.median(times)) for times in (step, loop, rest))
    columns = "compiled step, ms", "step of the loop, ms", "longer by (quartiles)", "loop without the step, ms", "share"
    table = Table(*columns)
    table.add(f"{step:.2f}", f"{loop:.2f}", longer, f"{rest:.3f}", f"{rest / (step + rest):.1%}")
    return table


class _Loop:
    """Training between two fetches of metrics, and its two parts. All share one state: its place in memory matters."""

    def __init__(self, variants: str, record: Record, progress: Progress):
        model, optimizer, self.stream = listops_training(variants)
        self.train_step = make_train_step(split_model(model)[0], optimizer)
        self.state = init_state(model, optimizer, jax.random.key(0))
        self.record, self.progress = record, progress
        self.resident = jax.device_put(self.stream[0])
        self.last = self._step(self.resident)

    def calls(self) -> dict[str, Callable[[], object]]:
        """Return calls of `FETCH_EVERY` steps each."""
        return {
            "step": lambda: [self._step(self.resident) for _ in range(FETCH_EVERY)],
            "loop": lambda: self._loop(self._step),
            "rest": lambda: self._loop(self._no_step),
        }

    def _loop(self, step: Callable[[Batch], dict]) -> None:
        """Do what `aire.training.loop.train` does between two fetches."""
        for _ in range(FETCH_EVERY):
            step_metrics = step(self.stream[self.progress.done])
            self.record.pending.append(step_metrics)
            self.progress.update(1, **step_metrics)
        self.record.flush(self.progress.done)

    def _step(self, batch: Batch) -> dict:
        self.state, step_metrics = self.train_step(self.state, batch)
        return step_metrics

    def _no_step(self, batch: Batch) -> dict:
        jax.block_until_ready(jax.device_put(batch))
        return self.last


def listops_training(variants: str) -> tuple[Classifier, optax.GradientTransformation, Batches]:
    """Return model, optimiser and batches of `lra_listops_prune` with these variants, on random tokens."""
    config = lra_listops_prune.get_config(variants)
    n, length = 40 * config.train.batch_size, config.data.length
    rng = np.random.default_rng(0)
    x = rng.integers(listops.VOCAB_SIZE, size=(n, length), dtype=np.uint8)
    lengths, y = rng.integers(1, length + 1, n, np.int32), rng.integers(listops.N_CLASSES, size=n, dtype=np.int32)
    task = Task("noise", {"train": Split(x, lengths, y)}, listops.VOCAB_SIZE, listops.N_CLASSES)
    model = Classifier(model_config(config.model, task), rngs=nnx.Rngs(0))
    model.train()
    train = TrainConfig.from_dict(config.train.to_dict())
    optimizer = train.make_optimizer(model, steps_per_epoch(task.splits["train"], train.batch_size))
    return model, optimizer, Batches(task.splits["train"], batch_size=train.batch_size, seed=0)
