"""What is not the model: the training loop around the compiled step."""

import contextlib
import io
import tempfile
from pathlib import Path

import jax
import numpy as np
import optax
from flax import nnx
from ml_collections import ConfigDict

from aire.data import listops
from aire.data.pipeline import Batches, Split, steps_per_epoch
from aire.data.tasks import Task
from aire.models import Classifier
from aire.progress import Progress
from aire.training.loop import LOOK_EVERY, TrainConfig, look
from aire.training.metrics import MetricsWriter
from aire.training.optimizer import make_optimizer
from aire.training.step import init_state, make_train_step, split_model
from configs import lra_listops_prune
from experiments.timing import repeated
from experiments.train import model_config

Rows = list[tuple[str, ...]]


def loop_rows(config: ConfigDict) -> Rows:
    """The share of a training step that is spent outside the compiled function: batches, transfers, looks, progress.

    Measured twice. The loop beside the compiled step alone tells what training takes, but their difference is as small
    as the noise of both. So all of the loop but the step runs alone, too: what it takes is at most what is lost.
    """
    model, optimizer, stream = listops_training(config.loop)
    step_fn = make_train_step(split_model(model)[0], optimizer)
    state = init_state(model, optimizer, jax.random.key(0))  # one for all: its place in memory matters
    resident = jax.device_put(stream[0])
    state, ready = step_fn(state, resident)
    repetitions = 4 * config.repetitions  # a few hundredths are to be told from nothing

    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(MetricsWriter(Path(stack.enter_context(tempfile.TemporaryDirectory())), None))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        progress = stack.enter_context(Progress("training", 2 * (repetitions + 1) * LOOK_EVERY))

        def step_alone():
            nonlocal state
            for _ in range(LOOK_EVERY):
                state, last = step_fn(state, resident)
            return last

        def training(step):
            unseen = []
            for _ in range(LOOK_EVERY):
                last = step(stream[progress.done])
                unseen.append(last)
                progress.update(1, **last)
            look(progress.done, unseen, metrics, lambda: None)

        def step(batch):
            nonlocal state
            state, last = step_fn(state, batch)
            return last

        def no_step(batch):
            jax.block_until_ready(jax.device_put(batch))
            return ready

        calls = {"step": step_alone, "loop": lambda: training(step), "rest": lambda: training(no_step)}
        seconds = {name: 1e3 * times / LOOK_EVERY for name, times in repeated(calls, repetitions).items()}
    alone, loop, rest = (float(np.median(seconds[name])) for name in ("step", "loop", "rest"))
    differences = np.quantile((seconds["loop"] - seconds["step"]) / seconds["step"], [0.25, 0.5, 0.75])
    return [
        (
            "compiled step, ms",
            "step of the loop, ms",
            "longer by (quartiles)",
            "the loop without the step, ms",
            "share",
        ),
        (
            f"{alone:.2f}",
            f"{loop:.2f}",
            " / ".join(f"{share:+.1%}" for share in differences),
            f"{rest:.3f}",
            f"{rest / (alone + rest):.1%}",
        ),
    ]


def listops_training(variants: str) -> tuple[Classifier, optax.GradientTransformation, Batches]:
    """Model, optimiser and batches of `lra_listops_prune` with these variants, on tokens drawn at random."""
    config = lra_listops_prune.get_config(variants)
    n, length = 40 * config.train.batch_size, config.data.length
    rng = np.random.default_rng(0)
    x = rng.integers(listops.VOCAB_SIZE, size=(n, length), dtype=np.uint8)
    lengths, y = rng.integers(1, length + 1, n, np.int32), rng.integers(listops.N_CLASSES, size=n, dtype=np.int32)
    task = Task("noise", {"train": Split(x, lengths, y)}, listops.VOCAB_SIZE, listops.N_CLASSES)
    model = Classifier(model_config(config.model, task), rngs=nnx.Rngs(0))
    model.train()
    train = TrainConfig(**config.train.to_dict())
    optimizer = make_optimizer(train.optimizer(steps_per_epoch(task.splits["train"], train.batch_size)))
    return model, optimizer, Batches(task.splits["train"], batch_size=train.batch_size, seed=0)
