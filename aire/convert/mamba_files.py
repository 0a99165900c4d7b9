"""The files of a Mamba checkpoint: safetensors, also in several parts, or PyTorch's; and config.json."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from aire.convert.arrays import Arrays
from aire.convert.readers import read_torch
from aire.io.header import read_header
from aire.utils.arguments import path as checked_path
from aire.utils.digests import parse_json
from aire.utils.errors import MissingFileError, UserError
from aire.utils.files import reading

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TORCH, _CONFIG = "pytorch_model.bin", "config.json"
_MAX_JSON = 2**24  # bytes


def read_checkpoint(path: str | os.PathLike) -> tuple[Arrays, dict[str, Any] | None, str]:
    """Read the arrays of a checkpoint, the content of config.json if there is one, and the name for messages.

    Args:
        path: a `.safetensors` or `.bin` file, or a folder.
    Raises:
        UserError: a file is missing, damaged, or of another format.
    """
    place = checked_path("path", path)
    if place.is_dir():
        return _read_folder(place), _read_config(place / _CONFIG), str(place)
    if not place.exists():
        raise MissingFileError(f"no file or folder at {place}: expected a Mamba checkpoint")
    read = {".safetensors": _read_safetensors, ".bin": read_torch}.get(place.suffix)
    if read is None:
        raise UserError(f"cannot import {place}: expected a .safetensors or .bin file, or a folder with one")
    return read(place), _read_config(place.parent / _CONFIG), str(place)


def _read_folder(folder: Path) -> Arrays:
    if (folder / _SINGLE).is_file():
        return _read_safetensors(folder / _SINGLE)
    if (folder / _INDEX).is_file():
        return _read_parts(folder)
    if (folder / _TORCH).is_file():
        return read_torch(folder / _TORCH)
    found = sorted(path.name for path in folder.iterdir())[:20]
    raise MissingFileError(f"{folder} has no {_SINGLE}, {_INDEX} or {_TORCH}; found {found}")


def _read_parts(folder: Path) -> Arrays:
    """Read a checkpoint in several files, as its index says. Every file must hold just the arrays that it should."""
    source = folder / _INDEX
    index = _read_json(source).get("weight_map")
    if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
        raise UserError(f"{source}: expected a weight_map from the names of arrays to files")
    arrays: Arrays = {}
    for file in sorted(set(index.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise UserError(f"{source}: refused, because {file[:200]!r} is not a .safetensors file of the same folder")
        if not (folder / file).is_file():
            raise MissingFileError(f"{source} names {file}, which is missing")
        part = _read_safetensors(folder / file)
        expected = {name for name, place in index.items() if place == file}
        if part.keys() != expected:
            names = ", ".join(sorted(part.keys() ^ expected)[:8])
            raise UserError(f"{folder / file}: its arrays are not those that {_INDEX} names: {names}")
        arrays |= part
    return arrays


def _read_safetensors(path: Path) -> Arrays:
    with reading(path), open(path, "rb") as file:
        read_header(file, str(path))  # the library keeps the last of two arrays of one name
    try:
        with safetensors.safe_open(path, framework="flax") as file:  # NumPy alone has no bfloat16
            return {name: np.asarray(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error


def _read_config(path: Path) -> dict[str, Any] | None:
    return _read_json(path) if path.is_file() else None


def _read_json(path: Path) -> dict[str, Any]:
    with reading(path), open(path, "rb") as file:
        text = file.read(_MAX_JSON + 1)
    if len(text) > _MAX_JSON:
        raise UserError(f"{path} has more than {_MAX_JSON:,} bytes, where at most that many are read")
    return parse_json(text, str(path))
