"""Processes: their start, and the size of their memory pages."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from aire.training.step import init_state, make_train_step, split_model
from experiments.speed.speed_loop import listops_training
from experiments.speed.speed_models import Shape, make, training
from experiments.speed.table import Table
from experiments.timing import interleaved

_ROUNDS = 3  # of processes for each page size


def start_table(config: ConfigDict) -> Table:
    """Measure the start of a process up to its first training steps, with an empty and a filled compilation cache."""
    table = Table("compilation cache", "imports, s", "model and optimiser, s", "first training step, s", "second, s")
    with tempfile.TemporaryDirectory() as cache:
        variables = {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
        for state in ("empty", "filled"):
            start = time.time()
            imports, *rest = child(first_step, config.loop, variables=variables)
            table.add(state, f"{imports - start:.1f}", *(f"{seconds:.1f}" for seconds in rest))
    return table


def first_step(variants: str) -> list[float]:
    """Return the time when imports were done, and the seconds of each later stage."""
    times = [time.time()]
    model, optimizer, stream = listops_training(variants)
    state = init_state(model, optimizer, jax.random.key(0))
    times.append(time.time())
    step_fn = make_train_step(split_model(model)[0], optimizer)
    for step in range(2):
        state, _ = jax.block_until_ready(step_fn(state, stream[step]))
        times.append(time.time())
    return [times[0], *np.diff(times).tolist()]


def pages_table(config: ConfigDict) -> Table:
    """Compare training steps with ordinary and with huge pages, which `run.py` requests; the processes take turns."""
    shapes = [Shape(*shape) for shape in config.pages]
    times: dict[int, list[list[float]]] = {0: [], 1: []}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(_ROUNDS):
            for huge, medians in times.items():
                variables = {"GLIBC_TUNABLES": f"glibc.malloc.hugetlb={huge}", "JAX_COMPILATION_CACHE_DIR": cache}
                medians.append(child(training_seconds, shapes, config.repetitions, variables=variables))
    table = Table("training step", "ordinary pages, ms", "huge pages, ms", "times as fast")
    for shape, a, b in zip(shapes, *(np.median(medians, axis=0) for medians in times.values()), strict=True):
        table.add(str(shape), f"{1e3 * a:.1f}", f"{1e3 * b:.1f}", f"{a / b:.2f}")
    return table


def training_seconds(shapes: list[list], repetitions: int) -> list[float]:
    """Return the median seconds of a training step of each model."""
    calls = {str(i): training(*make(Shape(*shape)))[1] for i, shape in enumerate(shapes)}
    return list(interleaved(calls, repetitions).values())


def child(
    function: Callable[..., list[float]], *arguments: object, variables: Mapping[str, str] | None = None
) -> list[float]:
    """Call a function of a module in a new process with these environment variables; return its result."""
    start = f"from {__name__} import answer; answer()"
    command = [sys.executable, "-c", start, function.__module__, function.__name__, json.dumps(arguments)]
    root, environment = Path(__file__).parents[2], os.environ | (variables or {})
    done = subprocess.run(command, env=environment, cwd=root, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def answer() -> None:
    """Print the result of the function that the arguments name: the other end of `child`."""
    module, name, given = sys.argv[1:]
    print(json.dumps(getattr(importlib.import_module(module), name)(*json.loads(given))))
