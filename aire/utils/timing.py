"""Time functions side by side."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


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
