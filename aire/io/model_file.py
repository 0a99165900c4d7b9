"""Models in single safetensors files, with the config and SHA-256 digests in the header. Nothing in them is executed.

The header has one key, because safetensors writes keys in random order, but equal models should give equal files. Its
value is a sealed record (`aire.utils.digests`) with the config and the digest of every array. In files of the first
version it is the config alone.
"""

import dataclasses
import io
import json
import logging
import os
import re
from collections import Counter
from pathlib import Path
from typing import BinaryIO, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from aire.io.header import Header, read_header
from aire.io.weights import abstract_model, check_arrays, get_arrays, set_arrays, variables_of
from aire.models.kinds import Config, Model, config_from
from aire.ssm import kind_of
from aire.utils import digests
from aire.utils.arguments import is_traced
from aire.utils.arguments import path as checked_path
from aire.utils.digests import DamagedError
from aire.utils.errors import MissingFileError, UserError, differences
from aire.utils.files import reading, write_bytes

_RECORD, _FIRST_VERSION = "aire.model.2", "aire.ModelConfig.1"  # keys in the header
log = logging.getLogger(__name__)


class _Description(NamedTuple):
    """What a file says about its content, with the digests of its arrays (None in files of the first version)."""

    config: Config
    header: Header
    sha256: dict[str, str] | None


def save(model: Model, path: str | os.PathLike) -> None:
    """Write a model, pruned or not, to a `.safetensors` file. The write is atomic.

    Raises:
        UserError: the model is neither a Classifier nor a MambaLM, `load` would refuse the file (NaN, layers that do
            not match the config, options that JSON does not hold), or the path cannot be written.
    """
    if not isinstance(model, Model):
        raise UserError(f"cannot save a {type(model).__name__}: expected a Classifier or a MambaLM")
    file = checked_path("path", path)
    if any(map(is_traced, jax.tree.leaves(nnx.state(model)))):
        raise UserError("save is called under jax.jit, where the model has no values: call it outside")
    arrays, config, source = get_arrays(model), model.config, "the model to save"
    check_arrays(arrays, variables_of(abstract_model(config)), source)
    record = {"config": dataclasses.asdict(config), "arrays": {name: digests.of_array(a) for name, a in arrays.items()}}
    try:
        metadata = {_RECORD: json.dumps(digests.seal(record))}
    except TypeError as error:
        raise UserError(f"{source} has options that JSON does not hold: {error}") from error
    data = safetensors.numpy.save(arrays, metadata)
    read = _describe(io.BytesIO(data), source).config  # as `load` will
    if read != config:
        raise UserError(f"{source} would be loaded with another config: {read}, not {config}")
    write_bytes(file, data)


def load(path: str | os.PathLike) -> Model:
    """Read a model written by `save`, in evaluation mode.

    Names, shapes and sizes in the header are compared with the config before memory is reserved for the arrays.

    Raises:
        UserError: the file is missing (also a FileNotFoundError), damaged or not written by `save`, or its arrays do
            not fit its config.
    """
    path = checked_path("path", path)
    if not path.is_file():
        raise MissingFileError(f"no model file at {path}: expected a .safetensors file written by aire.save")
    with reading(path), open(path, "rb") as file:
        config, header, sha256 = _describe(file, str(path))
    if len(config.state_sizes) > 16:
        _check_names(config, header, str(path))
    model = abstract_model(config)
    check_arrays(header.arrays, variables_of(model), str(path))
    arrays = _read_arrays(path)
    if sha256 is None:
        log.warning("%s has no digests, because an older version wrote it: damage cannot be found; save it again", path)
    elif changed := digests.changed(arrays, sha256):
        raise DamagedError(f"{path} is damaged: different from what was written: {', '.join(changed)}")
    set_arrays(model, arrays, str(path))
    model.eval()
    return model


def _describe(file: BinaryIO, source: str) -> _Description:
    """Read the record in the header, and compare its sizes with the arrays before anything is built from them."""
    header = read_header(file, source)
    if _RECORD in header.metadata:
        record = digests.parse_json(header.metadata[_RECORD], f"the record in the header of {source}")
        record = digests.unseal(record, f"the record in the header of {source}", required=True)
        fields, sha256 = record.get("config"), record.get("arrays")
        if not isinstance(sha256, dict):
            raise DamagedError(f"{source} is damaged: the record in its header has no digests of the arrays")
    elif _FIRST_VERSION in header.metadata:
        fields, sha256 = digests.parse_json(header.metadata[_FIRST_VERSION], f"the config in {source}"), None
    else:
        raise UserError(f"{source} is not a model written by aire.save: its header has no {_RECORD!r}")
    try:
        config = config_from(fields)
    except (UserError, KeyError, TypeError) as error:
        reason = "; ".join(str(error).splitlines())[:500]
        raise UserError(f"{source} has a config that this version does not support: {reason}") from error
    _check_sizes(config, header, source)
    return _Description(config, header, sha256)


def _check_sizes(config: Config, header: Header, source: str) -> None:
    """Raise UserError if a config has more layers or larger sizes than the arrays can hold.

    Every layer has the arrays of `STATE_AXIS`, and no size exceeds the number of numbers in the file. So the work of
    building the model is bounded by the size of the file, whatever its config says.
    """
    found = Counter(name.rpartition("/")[2] for name in header.arrays)
    layers = min(found[name] for name in kind_of(config.ssm).state_axis)
    if layers < len(config.state_sizes):
        raise UserError(f"{source}: its config has {len(config.state_sizes):,} layers, its arrays have {layers:,}")
    largest = max(config.sizes)
    if largest > header.size:
        raise UserError(f"{source}: its config has a size of {largest:,}, its arrays have {header.size:,} numbers")


def _check_names(config: Config, header: Header, source: str) -> None:
    """Compare the names of the arrays, apart from the numbers in them, with those of a model of this depth.

    The names of one layer more are known from models of one layer and of two. To build a thousand layers takes seconds,
    which a file that does not fit should not cost.
    """
    shallow = (abstract_model(dataclasses.replace(config, state_sizes=config.state_sizes[:n])) for n in (1, 2))
    one, two = (Counter(map(_kind, variables_of(model))) for model in shallow)
    more = len(config.state_sizes) - 1
    expected = {name: one[name] + more * (two[name] - one[name]) for name in two}
    found = Counter(map(_kind, header.arrays))
    if words := differences(found, expected):
        raise UserError(f"{source}: the number of its arrays does not fit {more + 1:,} layers: {words}")


def _kind(name: str) -> str:
    return re.sub("[0-9]+", "#", name)


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
