"""Models as single files: safetensors, with the config as JSON in the header. Nothing in them is executed."""

import os
from pathlib import Path

import safetensors
import safetensors.numpy
from flax import nnx

from aire.errors import UserError
from aire.files import write_bytes
from aire.models import Classifier, ModelConfig
from aire.weights import get_arrays, set_arrays

_FORMAT = "aire-model-1"


def save(model: Classifier, path: str | os.PathLike) -> None:
    """Write a model, cut or not, to one `.safetensors` file, whole or not at all.

    Raises:
        UserError: a model without a `ModelConfig`, or a path that cannot be written.
    """
    if not isinstance(getattr(model, "config", None), ModelConfig):
        raise UserError(f"cannot save a {type(model).__name__}: expected a model with a ModelConfig, as Classifier has")
    metadata = {"format": _FORMAT, "config": model.config.to_json()}
    write_bytes(Path(path), safetensors.numpy.save(get_arrays(model), metadata))


def load(path: str | os.PathLike) -> Classifier:
    """Read a model that `save` wrote, in evaluation mode.

    Raises:
        UserError: no such file, not a model of ours, a damaged file, or arrays that disagree with the config.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no model file at {path}: expected a .safetensors file written by aire.save")
    config, arrays = _read(path)
    model = nnx.eval_shape(lambda: Classifier(config, rngs=nnx.Rngs(0)))
    set_arrays(model, arrays, str(path))
    model.eval()
    return model


def _read(path: Path) -> tuple[ModelConfig, dict]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise UserError(f"{path} is not a model written by aire.save: its header lacks format={_FORMAT!r}")
            names = file.keys()
            return ModelConfig.from_json(metadata["config"]), {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} holds a config that this version does not know: {error}") from error
