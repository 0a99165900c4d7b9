"""Checkpoint formats of the reference implementations. Nothing in the files is executed.

AIRE-Prune writes `checkpoints/best_state.msgpack`, `flax.serialization.to_bytes` of the training state. S5 and LAST do
not save checkpoints, so users save the same state with Flax or Orbax. The example of state-spaces writes
`checkpoint/ckpt.pth` with the PyTorch state dict, the accuracy and the epoch.
"""

import contextlib
import math
import pickle
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from aire.convert.arrays import Arrays
from aire.utils import limits
from aire.utils.errors import MissingFileError, UserError

Tree = dict[str, Any]

_TRAINING = {"step", "opt_state"}  # other entries of a Flax training state
_TORCH_TRAINING = {"acc", "epoch"}  # other entries saved by the example of the S4D reference
_MIN_TORCH = (2, 6)  # in older versions, `weights_only` can execute code (CVE-2025-32434)


def read_flax(path: Path) -> Tree:
    """Read `{"params": …, "batch_stats": …}` from a Flax msgpack file or an Orbax folder.

    Raises:
        UserError: the file is missing, damaged, of another format, or has entries other than the model and the
            training state.
    """
    fits = path.is_dir() or path.suffix == ".msgpack" or re.fullmatch(r"checkpoint_\d+", path.name) is not None
    check_format(path, fits, "a Flax .msgpack or checkpoint_N file, or an Orbax folder")
    tree = _read_orbax(path.absolute()) if path.is_dir() else _read_msgpack(path)
    return _variables(tree, path)


def read_torch(path: Path) -> Arrays:
    """Read a state dict from a PyTorch file: the top-level object or, as in the reference's example, its "model".

    Raises:
        UserError: the file is missing, damaged, of another format, or contains anything but tensors; PyTorch is missing
            or too old.
    """
    check_format(path, path.suffix in (".pt", ".pth", ".bin"), "a PyTorch .pt, .pth or .bin file")
    saved = _load_torch(path)
    state_dict = saved.get("model", saved) if isinstance(saved, Mapping) else None
    if not isinstance(state_dict, Mapping):
        raise UserError(f"{path} contains a {type(saved).__name__}, not a state dict")
    unknown = set() if state_dict is saved else saved.keys() - {"model"} - _TORCH_TRAINING
    if unknown:
        raise UserError(f"{path} contains, besides the model, unknown {_sorted_names(unknown)}")
    return {str(name): _to_numpy(name, value, path) for name, value in state_dict.items()}


def check_format(path: Path, fits: bool, expected: str) -> None:
    """Raise UserError if `path` does not exist or its name does not fit the expected format."""
    if not path.exists():
        raise MissingFileError(f"no file or folder at {path}: expected {expected}")
    if not fits:
        raise UserError(f"cannot import {path}: expected {expected}. Pickles are not read, because they can run code")


def check_zip(path: Path) -> None:
    """Raise UserError if a zip archive has a member twice or unpacks to much more than its size.

    Raises:
        zipfile.BadZipFile: it is not a zip archive.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    limits.check_members(len(members), path)
    limits.check_unpacked(sum(member.file_size for member in members), path.stat().st_size, path)
    twice = [name for name, count in Counter(member.filename for member in members).items() if count > 1]
    if twice:
        raise UserError(f"{path}: refused, because its member {twice[0][:200]!r} occurs twice")


def _variables(tree: Any, path: Path) -> Tree:
    """Return the variables of the model; raise UserError if the checkpoint has unknown entries."""
    if isinstance(tree, Mapping) and "encoder" in tree:
        tree = {"params": tree}  # parameters only
    if not isinstance(tree, Mapping) or not isinstance(tree.get("params"), Mapping):
        found = _sorted_names(tree) if isinstance(tree, Mapping) else f"a {type(tree).__name__}"
        raise UserError(f"{path} contains {found}, but no params of a model")
    unknown = tree.keys() - {"params", "batch_stats"} - _TRAINING
    if unknown:
        raise UserError(f"{path} contains, besides the model and its training state, unknown {_sorted_names(unknown)}")
    return {"params": tree["params"], "batch_stats": tree.get("batch_stats") or {}}


def _read_msgpack(path: Path) -> Any:
    try:
        return serialization.msgpack_restore(path.read_bytes())
    except Exception as error:  # corrupt input raises many exception types
        raise UserError(f"{path} is damaged or not a Flax msgpack file: {_one_line(error)}") from error


def _read_orbax(folder: Path) -> Any:
    """Read a checkpoint, the only step in a folder of steps, or the items of a step."""
    if _is_item(folder):
        return _restore(folder)
    folders = [path for path in folder.iterdir() if path.is_dir()]
    steps = sorted(int(path.name) for path in folders if re.fullmatch("[0-9]+", path.name))
    if len(steps) > 1:
        raise UserError(f"{folder} has several steps: name one, such as {folder / str(steps[-1])}; found {steps}")
    if steps:
        return _read_orbax(folder / str(steps[0]))
    items = {path.name: path for path in folders if _is_item(path)}
    if len(items) == 1 and "params" not in items:
        return _restore(*items.values())
    if "params" not in items:
        found = sorted(path.name for path in folder.iterdir())
        raise UserError(f"{folder} is not an Orbax checkpoint: expected one item, or params; found {found}")
    return {name: _restore(path) for name, path in items.items()}


def _is_item(folder: Path) -> bool:
    return (folder / "_METADATA").is_file() or (folder / "checkpoint").is_file()  # the second up to Orbax 0.4


def _restore(folder: Path) -> Any:
    """Restore a tree as NumPy arrays, independent of the devices it was saved from."""
    import orbax.checkpoint as ocp  # here, because it would slow down `import aire` by half a second

    try:
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            if not (folder / "_METADATA").is_file():
                return handler.restore(folder)
            tree = handler.metadata(folder).tree
            _check_size(tree, folder)
            to_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
            return handler.restore(folder, args=ocp.args.PyTreeRestore(restore_args=to_numpy))
    except UserError:
        raise
    except Exception as error:  # corrupt input raises many exception types
        raise UserError(f"{folder} is damaged or not an Orbax checkpoint: {_one_line(error)}") from error


def _check_size(tree: Any, folder: Path) -> None:
    """Raise UserError if the arrays that a checkpoint describes are much larger than its files."""
    arrays = [leaf for leaf in jax.tree.leaves(tree) if getattr(leaf, "shape", None) is not None]
    unpacked = sum(math.prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays)
    packed = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    limits.check_unpacked(unpacked, packed, folder)


def _load_torch(path: Path) -> Any:
    torch = _import_torch(path)
    try:
        if zipfile.is_zipfile(path):
            check_zip(path)
        with warnings.catch_warnings(action="ignore"):  # an error follows each warning
            return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} contains more than tensors, or is damaged. It is not loaded, because that could run code. "
            "Save only the weights: torch.save(model.state_dict(), …)"
        ) from error
    except Exception as error:  # corrupt input raises many exception types
        raise UserError(f"{path} is damaged or not a PyTorch state dict: {_one_line(error)}") from error


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
        return (value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value).detach().numpy()
    except (AttributeError, TypeError, RuntimeError) as error:
        kind = getattr(value, "dtype", type(value).__name__)
        raise UserError(f"{path}: {name} has type {kind}, expected a float32 or float64 tensor") from error


def _sorted_names(names: Any) -> str:
    return str(sorted(map(str, names)))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).partition(chr(10))[0]}".strip()
