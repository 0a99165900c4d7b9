"""A model from a checkpoint of the reference implementation of its kind of layer."""

import os
import pkgutil
from pathlib import Path

from aire.models import Classifier, ModelConfig
from aire.ssm import kind_of
from aire.utils.errors import UserError


def from_file(path: str | os.PathLike, config: ModelConfig) -> Classifier:
    """A model, in evaluation mode, from a checkpoint of a reference implementation.

    Args:
        path: a file or folder in the format of the reference of its kind of layer; `from_checkpoint` of that kind's
            module in `aire.convert` says which those are.
        config: the model that the checkpoint is of; the file does not say. Its kind of layer decides how the file is
            read.
    Raises:
        UserError: no such file, one of another format, damaged, or with objects that only code can load; arrays that do
            not fit the config: unknown and missing names and other shapes are listed; or a kind of layer without
            importer.
    """
    kind = kind_of(config.ssm)
    if kind.importer is None:
        raise UserError(f"cannot import {path}: layers of kind {config.ssm.kind!r} have no importer")
    return pkgutil.resolve_name(kind.importer)(Path(path), config)
