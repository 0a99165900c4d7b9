"""Small trained models that ship with the code. Beside each stands a JSON with its config, seed, versions and results,
and the log of its training."""

from pathlib import Path

from aire.io import model_file
from aire.models import Classifier
from aire.utils.errors import UserError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """The file of a model; raises UserError with the names there are."""
    if name not in names():
        raise UserError(f"no model {name!r} in the zoo, which has {names()}; train it with --config.init=scratch")
    return _FOLDER / f"{name}.safetensors"


def load(name: str) -> Classifier:
    """A model, in evaluation mode; raises UserError with the names there are."""
    return model_file.load(path(name))
