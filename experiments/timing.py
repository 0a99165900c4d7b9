"""Time functions side by side, and measure their compilation."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import Array

from aire.training.step import split_model


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled function.

    Attributes:
        seconds: of tracing and compiling.
        temporary: bytes of XLA's temporary memory.
        operations: floating-point operations of a call as XLA counts them, a loop's body once.
    """

    function: Callable[..., Any]
    seconds: float
    temporary: int
    operations: float

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


Prepared = tuple[Compiled, Callable[[], Any]]  # a compiled function, and a call on its inputs


def compiled(function: Callable[..., Any], *args: Any) -> Compiled:
    """Compile a function, jitted or not, for arguments of these shapes, without running it."""
    start = time.perf_counter()
    done = (function if hasattr(function, "lower") else jax.jit(function)).lower(*args).compile()
    seconds = time.perf_counter() - start
    return Compiled(done, seconds, done.memory_analysis().temp_size_in_bytes, done.cost_analysis().get("flops", 0.0))


def forward(model: nnx.Module, batch: Mapping[str, Array]) -> Prepared:
    """Compile the forward pass in evaluation mode for a batch's x and lengths."""
    model = nnx.clone(model)
    model.eval()
    functions, params, buffers = split_model(model)
    inputs = {name: batch[name] for name in ("x", "lengths") if name in batch}
    run = compiled(lambda *arrays: functions.apply(*arrays, train=False)[0], params, buffers, inputs)
    return run, lambda: run(params, buffers, inputs)


def interleaved(functions: Mapping[str, Callable[[], object]], repetitions: int = 15) -> dict[str, float]:
    """Return the median seconds of each function, from `repeated`."""
    return {name: float(np.median(times)) for name, times in repeated(functions, repetitions).items()}


def repeated(functions: Mapping[str, Callable[[], object]], n: int) -> dict[str, np.ndarray]:
    """Return the seconds of n calls of each function until the result is ready, after one call to warm up.

    The calls take turns, so a drift of the machine affects all functions alike.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(n):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(times) for name, times in seconds.items()}
