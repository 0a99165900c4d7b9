"""Time functions side by side, and measure their compilation."""

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array

from aire.training.step import split_model
from aire.utils.timing import interleaved, repeated

__all__ = ["Compiled", "Prepared", "compiled", "forward", "interleaved", "repeated"]


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
    temporary: float
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
