"""S4D layers beside the S4D reference, which is in PyTorch, from a clone of github.com/state-spaces/s4."""

import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from aire import convert
from aire.utils.errors import UserError
from experiments.speed.side_by_side import clone_of, compare, relative_difference, side_by_side
from experiments.speed.speed_layers import PASSES, noise
from experiments.speed.table import Table
from experiments.timing import Compiled, Prepared


def reference_s4d_table(config: ConfigDict) -> Table:
    """Compare a layer with its GELU and output map, in training mode, with the reference's: outputs, input gradients.

    Raises:
        UserError: `config.reference_s4d` is not a clone of the reference, or PyTorch is not installed.
    """
    folder = clone_of("https://github.com/state-spaces/s4", config, "reference_s4d", "models/s4/s4d.py")
    _reference(folder)  # what is missing is said here, not in a process
    rows = {f"H {H}, {n} states per channel, L {L}, B {B}": (folder, (H, n, L, B)) for H, n, L, B in config.s4d_layers}
    titles = "S4D layer", "state-spaces/s4", "agree to, relative"
    return compare(config, titles, rows, PASSES, reference_s4d_numbers)


def reference_s4d_numbers(
    folder: str, shape: Sequence[int], name: str, ours_first: bool, repetitions: int
) -> list[float]:
    """Measure a pass of the reference's layer and of ours in this process."""
    d_model, states, length, batch = shape
    layer = _reference(folder)(d_model, 2 * states)
    ours = convert.s4d_layer({k: v.numpy() for k, v in layer.state_dict().items()})
    theirs = {"forward": _forward, "with gradients": _gradients}[name]

    def difference(a: np.ndarray, b: Any) -> float:
        return relative_difference(a, b if name == "forward" else b[1])

    return side_by_side(
        lambda: theirs(layer, np.asarray(noise(batch, length, d_model))),
        lambda: PASSES[name](ours, batch, length),
        difference,
        ours_first,
        repetitions,
    )


def _reference(folder: str) -> Callable:
    """Import the reference's layer from a clone. PyTorch gets the cores that this process may use."""
    sys.path.insert(0, folder)
    try:
        import torch
        from models.s4.s4d import S4D
    except ImportError as error:
        raise UserError(f"the S4D reference needs PyTorch and einops: pip install torch einops ({error})") from None
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    return S4D


def _forward(layer: Callable, u: np.ndarray) -> Prepared:
    import torch

    u_t = _input(u)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return layer(u_t)[0].numpy().swapaxes(1, 2)

    return _eager(forward)


def _gradients(layer: Callable, u: np.ndarray) -> Prepared:
    u_t = _input(u).requires_grad_()

    def gradients() -> np.ndarray:
        layer.zero_grad()
        u_t.grad = None
        (layer(u_t)[0] ** 2).sum().backward()
        return u_t.grad.numpy().swapaxes(1, 2)

    return _eager(gradients)


def _input(u: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(u.swapaxes(1, 2).copy())  # the reference's layout, (B, H, L)


def _eager(call: Callable[[], np.ndarray]) -> Prepared:
    """PyTorch compiles nothing here and reports no memory."""
    return Compiled(call, math.nan, math.nan, math.nan), call
