"""Trees of arrays with the references' names, and what importers check of them and of a config."""

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from aire.io.weights import check_arrays
from aire.models import ModelConfig
from aire.utils.errors import UserError, differences

Arrays = dict[str, np.ndarray]  # by path, "a/b/c"
Shapes = dict[str, tuple[int, ...]]


def flatten(tree: Mapping) -> Arrays:
    """Nested or flat mapping to one level with "/" between names."""
    return {path: np.asarray(array) for path, array in flatten_dict(dict(tree), sep="/").items()}


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
    if words := differences(fixed, {name: attrgetter(name)(config) for name in fixed}):
        raise UserError(f"{source}, a model of {reference}, does not fit the config: {words}")


def check_shapes(arrays: Arrays, shapes: Shapes, source: str) -> None:
    """Raises UserError, as `check_arrays`, where names, shapes or values are not as expected."""
    check_arrays(arrays, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}, source)
