"""The file formats of the reference implementations' checkpoints. Nothing in them is executed.

AIRE-Prune's code writes `checkpoints/best_state.msgpack`: `flax.serialization.to_bytes` of the whole training state.
The code of S5 and LAST writes none; who trained with it has saved the same state by Flax's or Orbax's own means. The
example of state-spaces writes `checkpoint/ckpt.pth`: the PyTorch state dict, the accuracy and the epoch.
"""

import contextlib
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from aire.convert.arrays import Arrays
from aire.utils.errors import UserError

Tree = dict[str, Any]

_TRAINING = {"step", "opt_state"}  # what a training state of Flax holds beside the model
_TORCH_TRAINING = {"acc", "epoch"}  # and what the S4D reference's example saves beside it
_MIN_TORCH = (2, 6)  # before it, `weights_only` could be tricked into running code (CVE-2025-32434)


def read_flax(path: Path) -> Tree:
    """The variables, `{"params": …, "batch_stats": …}`, in a msgpack file of Flax or a folder of Orbax.

    Raises:
        UserError: no such file, one of another format, a damaged one, or one that holds what is neither the model nor
            training state.
    """
    fits = path.is_dir() or path.suffix == ".msgpack" or re.fullmatch(r"checkpoint_\d+", path.name) is not None
    check_format(path, fits, "a .msgpack or checkpoint_N file of Flax, or a folder of Orbax")
    tree = _read_orbax(path.absolute()) if path.is_dir() else _read_msgpack(path)
    return _variables(tree, path)


def read_torch(path: Path) -> Arrays:
    """The state dict in a file of PyTorch, by itself or, as the reference's example saves it, under "model".

    Raises:
        UserError: no such file, one of another format, or one that is damaged or holds anything but tensors; PyTorch is
            missing or too old.
    """
    check_format(path, path.suffix in (".pt", ".pth"), "a .pt or .pth file of PyTorch")
    saved = _load_torch(path)
    state_dict = saved.get("model", saved) if isinstance(saved, Mapping) else None
    if not isinstance(state_dict, Mapping):
        raise UserError(f"{path} holds no state dict, but a {type(saved).__name__}")
    unknown = set() if state_dict is saved else saved.keys() - {"model"} - _TORCH_TRAINING
    if unknown:
        raise UserError(f"{path} holds, beside the model, unknown {_listed(unknown)}")
    return {str(name): _to_numpy(name, value, path) for name, value in state_dict.items()}


def check_format(path: Path, fits: bool, expected: str) -> None:
    """Raises UserError unless there is something at `path` whose name fits the format that is expected."""
    if not path.exists():
        raise UserError(f"no file or folder at {path}: expected {expected}")
    if not fits:
        raise UserError(f"cannot import {path}: expected {expected}. Pickles are not read, because they can run code")


def _variables(tree: Any, path: Path) -> Tree:
    """The model's part of what a checkpoint holds, after a look at all the rest."""
    if isinstance(tree, Mapping) and "encoder" in tree:
        tree = {"params": tree}  # the parameters by themselves
    if not isinstance(tree, Mapping) or not isinstance(tree.get("params"), Mapping):
        found = _listed(tree) if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
        raise UserError(f"{path} holds no params of a model, but {found}")
    unknown = tree.keys() - {"params", "batch_stats"} - _TRAINING
    if unknown:
        raise UserError(f"{path} holds, beside the model and its training state, unknown {_listed(unknown)}")
    return {"params": tree["params"], "batch_stats": tree.get("batch_stats") or {}}


def _read_msgpack(path: Path) -> Any:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # corrupt input raises many exception types
        raise UserError(f"{path} is damaged or not a msgpack file of Flax: {_one_line(error)}") from error


def _read_orbax(folder: Path) -> Any:
    """The tree in a checkpoint, in the only step of a folder of steps, or in the items of a step."""
    if _is_item(folder):
        return _restore(folder)
    folders = [path for path in folder.iterdir() if path.is_dir()]
    steps = sorted(int(path.name) for path in folders if path.name.isdigit())
    if len(steps) > 1:
        raise UserError(f"{folder} holds several steps: give one of them, as {folder / str(steps[-1])}; found {steps}")
    if steps:
        return _read_orbax(folder / str(steps[0]))
    items = {path.name: path for path in folders if _is_item(path)}
    if len(items) == 1 and "params" not in items:
        return _restore(*items.values())
    if "params" not in items:
        found = sorted(path.name for path in folder.iterdir())
        raise UserError(f"{folder} is not a checkpoint of Orbax: expected one item, or params; found {found}")
    return {name: _restore(path) for name, path in items.items()}


def _is_item(folder: Path) -> bool:
    return (folder / "_METADATA").is_file() or (folder / "checkpoint").is_file()  # the latter up to Orbax 0.4


def _restore(folder: Path) -> Any:
    """A tree of NumPy arrays, whatever devices they were saved from."""
    import orbax.checkpoint as ocp  # here, because `import aire` would take half a second longer

    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            if not (folder / "_METADATA").is_file():
                return handler.restore(folder)
            tree = handler.metadata(folder).tree
            to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=to_numpy))
    except Exception as error:  # corrupt input raises many exception types
        raise UserError(f"{folder} is damaged or not a checkpoint of Orbax: {_one_line(error)}") from error


def _load_torch(path: Path) -> Any:
    torch = _import_torch(path)
    try:
        with warnings.catch_warnings(action="ignore"):  # what it warns of, it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, or is damaged; loading it could run code, so it is refused. "
            "Save the weights alone: torch.save(model.state_dict(), …)"
        ) from error
    except Exception as error:  # corrupt input raises many exception types
        raise UserError(f"{path} is damaged or not a state dict of PyTorch: {_one_line(error)}") from error


def _import_torch(path: Path) -> Any:
    hint = f"reading {path} needs PyTorch {_MIN_TORCH[0]}.{_MIN_TORCH[1]} or newer: pip install torch"
    try:
        import torch
    except ImportError as error:
        raise UserError(hint) from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < _MIN_TORCH:
        raise UserError(f"{hint} (found {torch.__version__})")
    return torch


def _to_numpy(name: str, value: Any, path: Path) -> np.ndarray:
    try:
        return value.detach().numpy()
    except (AttributeError, TypeError, RuntimeError) as error:
        kind = getattr(value, "dtype", type(value).__name__)
        raise UserError(f"{path}: {name} is not a tensor of float32 or float64, but {kind}") from error


def _listed(names: Any) -> str:
    return str(sorted(map(str, names)))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).partition(chr(10))[0]}".strip()
