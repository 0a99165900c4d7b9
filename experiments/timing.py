"""Times of several functions side by side: interleaved, so that a machine's drift reaches all alike."""

import time
from collections.abc import Callable, Mapping

import jax
import numpy as np


def interleaved(functions: Mapping[str, Callable[[], object]], repetitions: int = 15) -> dict[str, float]:
    """Median seconds of each function, after one call of each to compile. Results are waited for."""
    for function in functions.values():
        jax.block_until_ready(function())
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repetitions):
        for name, function in functions.items():
            start = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(times)) for name, times in seconds.items()}
