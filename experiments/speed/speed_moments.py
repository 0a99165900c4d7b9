"""Calibration: the moments of a batch beside their floors, and a whole calibrated cut of a full-size network."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

import aire
from aire.pruning import features
from aire.ssm import layers
from experiments.speed.speed_models import Shape, make
from experiments.speed.speed_process import child
from experiments.speed.table import Table
from experiments.timing import forward, interleaved

_BATCHES = 8  # of a calibration


def moments_table(config: ConfigDict) -> Table:
    """Measure the moments of all layers by sequence, in fresh processes."""
    table = Table("model", "moments, ms a sequence", "range", "forward pass alone", "matmul Σ z zᵀ of all states alone")
    for shape in (Shape(*shape) for shape in config.moments.models):
        runs = [child(moment_seconds, list(shape), config.repetitions) for _ in range(config.processes)]
        moments, run, matmul = (1e3 * np.array(times) / shape.batch for times in zip(*runs, strict=True))
        span = f"{moments.min():.2f} to {moments.max():.2f}"
        table.add(str(shape), f"{np.median(moments):.2f}", span, *(f"{np.median(a):.2f}" for a in (run, matmul)))
    return table


def moment_seconds(shape: list, repetitions: int) -> list[float]:
    """Return the median seconds of a batch: its moments, its forward pass, and the matmuls Σ z zᵀ of given states."""
    model, batch = make(Shape(*shape))
    x, found = batch["x"], layers(model).values()
    gram = jax.jit(lambda z: jnp.einsum("csf,csg->cfg", z, z))
    states = []
    for layer in found:
        channels, m = features.extent(features.places(layer.channels()))
        sizes = channels, x.shape[0] * x.shape[1], 2 * len(layer.reverse) * m
        states.append(jax.random.normal(jax.random.key(0), sizes))
    seconds = interleaved(
        {
            "moments": lambda: [m.steps for m in aire.calibrate(model, [x] * _BATCHES).values()],
            "forward": forward(model, batch)[1],
            "matmul": lambda: [gram(z) for z in states],
        },
        repetitions,
    )
    return [seconds["moments"] / _BATCHES, seconds["forward"], seconds["matmul"]]


def calibrated_table(config: ConfigDict) -> Table:
    """Measure a calibrated cut of half the states, compilation included, beside two forward passes of its inputs."""
    table = Table("method", "model", "sequences", "s", "two forward passes, s")
    shape = Shape(*config.calibrated.model)
    model, batch = make(shape)
    count = config.calibrated.batches
    twice = 2 * count * interleaved({"forward": forward(model, batch)[1]}, config.repetitions)["forward"]
    model.eval()
    for method in config.calibrated.methods:
        keys = jax.random.split(jax.random.key(0), count)
        inputs = [np.asarray(jax.random.normal(key, batch["x"].shape)) for key in keys]
        start = time.perf_counter()
        aire.prune(model, 0.5, method=method, calibration=inputs)
        seconds = time.perf_counter() - start
        table.add(method, str(shape), f"{count * shape.batch}", f"{seconds:.1f}", f"{twice:.1f}")
    return table
