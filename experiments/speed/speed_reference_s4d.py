"""S4D layers beside the S4D reference, which is in PyTorch, from a clone of github.com/state-spaces/s4."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from aire import convert
from aire.utils.errors import UserError
from experiments.speed.table import Table
from experiments.timing import interleaved

Calls = dict[str, Callable[[], np.ndarray | jax.Array]]  # by pass; they return outputs or input gradients, (B, L, H)


def reference_s4d_table(config: ConfigDict) -> Table:
    """Compare a layer with its GELU and output map, in training mode, with the reference's.

    Raises:
        UserError: `config.reference_s4d` is not a clone of the reference, or PyTorch is not installed.
    """
    reference = _reference(Path(config.reference_s4d))
    table = Table("S4D layer", "pass", "state-spaces/s4, ms", "aire, ms", "times as fast", "agree to, relative")
    for d_model, states, length, batch in config.s4d_layers:
        theirs = reference(d_model, 2 * states)
        u = np.random.default_rng(0).normal(size=(batch, length, d_model)).astype(np.float32)
        calls = _theirs(theirs, u), _ours(convert.s4d_layer({k: v.numpy() for k, v in theirs.state_dict().items()}), u)
        for name in calls[0]:
            a, b = (np.asarray(c[name]()) for c in calls)
            difference = np.abs(a - b).max() / np.abs(a).max()
            t = interleaved({str(i): c[name] for i, c in enumerate(calls)}, config.repetitions)
            times = f"{1e3 * t['0']:.1f}", f"{1e3 * t['1']:.1f}", f"{t['0'] / t['1']:.2f}"
            layer = f"H {d_model}, {states} states per channel, L {length}, B {batch}"
            table.add(layer, name, *times, f"{difference:.0e}")
            print(f"{layer}, {name}: {times[-1]} times as fast as state-spaces/s4", flush=True)
    return table


def _reference(folder: Path) -> Callable:
    """Import the reference's layer from a clone. PyTorch gets the cores that this process may use."""
    if not (folder / "models" / "s4" / "s4d.py").is_file():
        raise UserError(f"config.reference_s4d={str(folder)!r}: expected a clone of https://github.com/state-spaces/s4")
    sys.path.insert(0, str(folder))
    try:
        import torch
        from models.s4.s4d import S4D
    except ImportError as error:
        raise UserError(f"the S4D reference needs PyTorch and einops: pip install torch einops ({error})") from None
    if hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    return S4D


def _theirs(layer: Callable, u: np.ndarray) -> Calls:
    import torch

    u_t = torch.from_numpy(u.swapaxes(1, 2).copy()).requires_grad_()  # the reference's layout, (B, H, L)

    def forward() -> np.ndarray:
        with torch.no_grad():
            return layer(u_t)[0].numpy().swapaxes(1, 2)

    def gradients() -> np.ndarray:
        layer.zero_grad()
        u_t.grad = None
        (layer(u_t)[0] ** 2).sum().backward()
        return u_t.grad.numpy().swapaxes(1, 2)

    return {"forward": forward, "with gradients": gradients}


def _ours(layer: nnx.Module, u: np.ndarray) -> Calls:
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)
    forward = jax.jit(lambda params, u: nnx.merge(graphdef, params, rest)(u))
    gradients = jax.jit(jax.grad(lambda params, u: jnp.sum(forward(params, u) ** 2), argnums=(0, 1)))
    u = jnp.asarray(u)
    return {"forward": lambda: forward(params, u), "with gradients": lambda: gradients(params, u)[1]}
