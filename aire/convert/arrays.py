"""Trees of arrays with the references' names, and what importers check of them and of a config."""

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import jax
import numpy as np

from aire.io.weights import check_arrays
from aire.models import ModelConfig
from aire.utils.errors import UserError

Arrays = dict[str, np.ndarray]  # by path, "a/b/c"
Shapes = dict[str, tuple[int, ...]]


def flatten(tree: Mapping, prefix: str = "") -> Arrays:
    """Nested or flat mapping to one level with "/" between names."""
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: np.asarray(value)}
    return flat


def below(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose path begins with `prefix`, without it."""
    return {path.removeprefix(prefix): a for path, a in arrays.items() if path.startswith(prefix)}


def sizes(arrays: Arrays, name: str, axes: str) -> tuple[int, ...]:
    """The shape of an array that others are measured by.

    Args:
        axes: the names of its axes, "H, N/2".
    Raises:
        UserError: it is missing, or has another number of axes.
    """
    if name not in arrays:
        raise UserError(f"missing array {name!r}; given: {sorted(arrays)}")
    shape = arrays[name].shape
    if len(shape) != len(axes.split(",")):
        raise UserError(f"{name} has shape {shape}, expected ({axes})")
    return shape


def depth(arrays: Arrays, pattern: str) -> int:
    """Layers that the paths name: one more than the largest number in the group of `pattern` at their beginning."""
    found = [re.match(pattern, path) for path in arrays]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def check_options(config: ModelConfig, fixed: Mapping[str, Any], reference: str, source: str) -> None:
    """Raises UserError, listing all differences, where a config has other options than a reference's models always do.

    Args:
        config: of the model to import.
        fixed: the reference's options by name, those of its layers as "ssm.NAME".
        reference: its name, for the message.
        source: where the arrays come from, for the message.
    """
    pairs = [(name, there, attrgetter(name)(config)) for name, there in fixed.items()]
    differences = [f"{name} is {there!r} there, {here!r} here" for name, there, here in pairs if there != here]
    if differences:
        raise UserError(f"{source}, a model of {reference}, does not fit the config: {'; '.join(differences)}")


def check_shapes(arrays: Arrays, shapes: Shapes, source: str) -> None:
    """Raises UserError, as `check_arrays`, where names, shapes or values are not as expected."""
    check_arrays(arrays, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}, source)
