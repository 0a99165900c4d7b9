"""Small trained models, included in the package.

Each has a JSON file with its config, seed, versions and results, and a CSV file with its training metrics.
"""

from pathlib import Path

from aire.io import model_file
from aire.models.kinds import Model
from aire.utils.errors import UserError

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of the models."""
    return sorted(path.stem for path in _FOLDER.glob("*.safetensors"))


def path(name: str) -> Path:
    """Return the file of a model. Raise UserError with the available names if there is no such model."""
    if not isinstance(name, str) or name not in names():
        raise UserError(f"no model {name!r} in the zoo, which has {names()}; train it with --config.init=scratch")
    return _FOLDER / f"{name}.safetensors"


def load(name: str) -> Model:
    """Load a model in evaluation mode. Raise UserError with the available names if there is no such model."""
    return model_file.load(path(name))
