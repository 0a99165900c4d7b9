"""Models in single safetensors files with the config as JSON in the header. Nothing in the files is executed."""

import dataclasses
import json
import os
from pathlib import Path

import safetensors
import safetensors.numpy

from aire.io.weights import abstract_model, check_arrays, fill_model, get_arrays, variables_of
from aire.models import Classifier, ModelConfig
from aire.utils.errors import MissingFileError, UserError
from aire.utils.files import write_bytes

_HEADER = "aire.ModelConfig.1"  # key of the config in the header; includes the format version


def save(model: Classifier, path: str | os.PathLike) -> None:
    """Write a model, pruned or not, to a `.safetensors` file. The write is atomic.

    Raises:
        UserError: the model is not a Classifier, its layers do not match its config, or the path cannot be written.
    """
    if not isinstance(model, Classifier):
        raise UserError(f"cannot save a {type(model).__name__}: expected a Classifier")
    arrays, config = get_arrays(model), model.config
    check_arrays(arrays, variables_of(abstract_model(config)), "the model to save")  # as `load` will
    # Use a single key: safetensors writes keys in random order, but equal models should give equal files.
    metadata = {_HEADER: json.dumps(dataclasses.asdict(config))}
    write_bytes(Path(path), safetensors.numpy.save(arrays, metadata))


def load(path: str | os.PathLike) -> Classifier:
    """Read a model written by `save`, in evaluation mode.

    Raises:
        UserError: the file is missing (also a FileNotFoundError), damaged or not written by `save`, or its arrays do
            not fit its config.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingFileError(f"no model file at {path}: expected a .safetensors file written by aire.save")
    config, arrays = _read(path)
    return fill_model(config, arrays, str(path))


def _read(path: Path) -> tuple[ModelConfig, dict]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _HEADER not in metadata:
                raise UserError(f"{path} is not a model written by aire.save: its header has no {_HEADER!r}")
            names = file.keys()
            return _config(path, metadata[_HEADER]), {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error


def _config(path: Path, text: str) -> ModelConfig:
    try:
        return ModelConfig.from_dict(json.loads(text))
    except UserError as error:
        mistakes = "; ".join(str(error).splitlines())
        raise UserError(f"{path} has a config that this version does not support: {mistakes}") from error
