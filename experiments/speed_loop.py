"""What is not the model: the training loop around the compiled step, and the start of a process."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from aire.data.pipeline import Batches, Split
from aire.progress import Progress
from aire.training.loop import LOOK_EVERY, look
from aire.training.metrics import MetricsWriter
from aire.training.optimizer import make_optimizer
from aire.training.step import init_state, make_train_step, split_model
from experiments.speed_models import OPTIMIZER, Shape, make
from experiments.timing import interleaved

Rows = list[tuple[str, ...]]


def loop_rows(config: ConfigDict) -> Rows:
    """The share of a training step that is spent outside the compiled function: batches, transfers, looks, progress."""
    shape = Shape(*config.loop)
    model, _ = make(shape)
    model.train()
    functions, *_ = split_model(model)
    step_fn = make_train_step(functions, make_optimizer(OPTIMIZER))
    stream = Batches(_noise(shape, 40 * shape.batch), batch_size=shape.batch, seed=0)
    state = init_state(model, make_optimizer(OPTIMIZER), jax.random.key(0))  # one for both: its place in memory matters
    resident = jax.device_put(stream[0])
    repetitions = 4 * config.repetitions  # a few hundredths are to be told from nothing

    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(MetricsWriter(Path(stack.enter_context(tempfile.TemporaryDirectory())), None))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        progress = stack.enter_context(Progress("training", (repetitions + 1) * LOOK_EVERY))

        def alone():
            nonlocal state
            for _ in range(LOOK_EVERY):
                state, last = step_fn(state, resident)
            return last

        def in_the_loop():
            nonlocal state
            unseen = []
            for _ in range(LOOK_EVERY):
                state, last = step_fn(state, stream[progress.done])
                unseen.append(last)
                progress.update(1, **last)
            look(progress.done, unseen, metrics, lambda: None)

        t = interleaved({"alone": alone, "loop": in_the_loop}, repetitions)
    step, loop = (1e3 * seconds / LOOK_EVERY for seconds in t.values())
    return [
        ("compiled step alone, ms", "step of the loop, ms", "outside the compiled step"),
        (f"{step:.2f}", f"{loop:.2f}", f"{1 - step / loop:.1%}"),
    ]


def _noise(shape: Shape, examples: int) -> Split:
    x = np.random.default_rng(0).normal(size=(examples, shape.length, 1)).astype(np.float32)
    return Split(x, np.full(examples, shape.length, np.int32), np.zeros(examples, np.int32))


def start_rows(config: ConfigDict) -> Rows:
    """Seconds from the start of a process to the end of its first training step, with an empty compilation cache and
    with the one that the first process left."""
    rows: Rows = [("compilation cache", "imports, s", "model and optimiser, s", "first training step, s", "second, s")]
    code = f"from experiments.speed_loop import first_step; first_step({list(config.loop)})"
    with tempfile.TemporaryDirectory() as cache:
        variables = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
        for state in ("empty", "filled"):
            start = time.time()
            command = [sys.executable, "-c", code]
            out = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True).stdout
            imports, *rest = json.loads(out.splitlines()[-1])
            rows.append((state, f"{imports - start:.1f}", *(f"{seconds:.1f}" for seconds in rest)))
    return rows


def first_step(shape: list) -> None:
    """In a process of its own: print when imports were done and how long each stage then took."""
    times = [time.time()]
    model, batch = make(Shape(*shape))
    model.train()
    functions, *_ = split_model(model)
    state = init_state(model, make_optimizer(OPTIMIZER), jax.random.key(0))
    times.append(time.time())
    step_fn = make_train_step(functions, make_optimizer(OPTIMIZER))
    for _ in range(2):
        state, _ = jax.block_until_ready(step_fn(state, batch))
        times.append(time.time())
    print(json.dumps([times[0], *np.diff(times).tolist()]))
