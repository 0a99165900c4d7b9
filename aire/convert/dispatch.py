"""Import a checkpoint with the importer for its kind of layer."""

import os
import pkgutil
from typing import Any, overload

from aire.convert.from_mamba import mamba
from aire.models import Classifier, MambaLM, ModelConfig
from aire.ssm import kind_of
from aire.utils.arguments import instance
from aire.utils.arguments import path as checked_path
from aire.utils.errors import UserError


@overload
def from_file(path: str | os.PathLike, config: ModelConfig) -> Classifier: ...
@overload
def from_file(path: str | os.PathLike, config: None = None) -> MambaLM: ...
def from_file(path: str | os.PathLike, config: ModelConfig | None = None) -> Classifier | MambaLM:
    """Load a checkpoint of a reference implementation as a model in evaluation mode.

    Args:
        path: a file or folder in a format of the reference. `from_checkpoint` in the module of each kind of layer lists
            the formats.
        config: of the model, because the file does not contain it. Its kind of layer selects the importer. None for
            a Mamba language model, see `mamba`, which has its sizes in its arrays.
    Raises:
        UserError: the file is missing, damaged, of another format, or contains pickled objects; its arrays do not fit
            the config (all differences are listed); or the kind of layer has no importer.
    """
    file = checked_path("path", path)
    if config is None:
        if file.is_file() and file.suffix not in (".safetensors", ".bin"):
            raise UserError(
                f"{file}: pass config=aire.ModelConfig(…), because the file does not contain it; without a config, "
                "expected a Mamba language model: a .safetensors or .bin file, or a folder with one"
            )
        return mamba(file)
    instance("config", config, ModelConfig, "an aire.ModelConfig")
    return pkgutil.resolve_name(importer(file, config.ssm))(file, config)


def importer(path: str | os.PathLike, ssm: Any) -> str:
    """The name of the function that imports classifiers with layers of this config. Raise UserError if none does."""
    found = kind_of(ssm).importer
    if found is None:
        raise UserError(
            f"cannot import {path}: classifiers with layers of kind {ssm.kind!r} have no importer; "
            "aire.convert.mamba reads Mamba language models"
        )
    return found
