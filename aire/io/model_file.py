"""Models as single files: safetensors, with the config as JSON in the header. Nothing in them is executed."""

import dataclasses
import json
import os
from pathlib import Path

import safetensors
import safetensors.numpy

from aire.io.weights import abstract_model, check_arrays, fill_model, get_arrays, variables_of
from aire.models import Classifier, ModelConfig
from aire.utils.errors import UserError
from aire.utils.files import write_bytes

_HEADER = "aire.ModelConfig.1"  # the header's key for the config, with the version of the format


def save(model: Classifier, path: str | os.PathLike) -> None:
    """Write a model, cut or not, to one `.safetensors` file, whole or not at all.

    Raises:
        UserError: anything but a Classifier, one whose layers its config does not describe, or a path that cannot be
            written.
    """
    if not isinstance(model, Classifier):
        raise UserError(f"cannot save a {type(model).__name__}: expected a Classifier")
    arrays, config = get_arrays(model), model.config
    check_arrays(arrays, variables_of(abstract_model(config)), "the model to save")  # as `load` will
    # One key only: safetensors writes several in random order, and equal models should be equal files.
    metadata = {_HEADER: json.dumps(dataclasses.asdict(config))}
    write_bytes(Path(path), safetensors.numpy.save(arrays, metadata))


def load(path: str | os.PathLike) -> Classifier:
    """Read a model that `save` wrote, in evaluation mode.

    Raises:
        UserError: no such file, not a model of ours, a damaged file, or arrays that disagree with the config.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no model file at {path}: expected a .safetensors file written by aire.save")
    config, arrays = _read(path)
    return fill_model(config, arrays, str(path))


def _read(path: Path) -> tuple[ModelConfig, dict]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _HEADER not in metadata:
                raise UserError(f"{path} is not a model written by aire.save: its header has no {_HEADER!r}")
            names = file.keys()
            return ModelConfig.from_dict(json.loads(metadata[_HEADER])), {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} holds a config that this version does not know: {error}") from error
