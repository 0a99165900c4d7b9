"""Trees of arrays with the references' names, and checks that importers share."""

import re
from collections.abc import Mapping
from operator import attrgetter
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from aire.io.weights import check_arrays
from aire.models import ModelConfig
from aire.utils.arguments import mapping, numbers
from aire.utils.errors import UserError, differences

Arrays = dict[str, np.ndarray]  # by path, "a/b/c"
Shapes = dict[str, tuple[int, ...]]


def flatten(tree: Mapping) -> Arrays:
    """Nested or flat mapping to one level with "/" between names. Raise UserError unless it holds arrays of numbers."""
    mapping("the given arrays", tree, "from names to arrays, or nested ones")
    try:
        flat = flatten_dict(dict(tree), sep="/")
    except (TypeError, RecursionError) as error:  # names that are not strings, or a mapping that contains itself
        raise UserError(f"the given arrays: expected nested mappings with strings as names: {error}") from error
    return {name: np.asarray(numbers(f"array {name!r}", array, kinds="fciub")) for name, array in flat.items()}


def subtree(arrays: Arrays, prefix: str) -> Arrays:
    """Return the arrays whose path starts with `prefix`, and remove it from the paths."""
    return {path.removeprefix(prefix): a for path, a in arrays.items() if path.startswith(prefix)}


def shape_of(arrays: Arrays, name: str, axes: str) -> tuple[int, ...]:
    """Return the shape of an array that determines sizes of a model.

    Args:
        axes: the names of its axes, such as "H, N/2".
    Raises:
        UserError: the array is missing or has another number of axes.
    """
    if name not in arrays:
        raise UserError(f"missing array {name!r}; given: {sorted(arrays)}")
    shape = arrays[name].shape
    if len(shape) != len(axes.split(",")):
        raise UserError(f"{name} has shape {shape}, expected ({axes})")
    return shape


def count_layers(arrays: Arrays, pattern: str) -> int:
    """Count layers: the largest number matched by the group of `pattern` at the start of a path, plus one."""
    found = [re.match(pattern, path) for path in arrays]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def check_options(config: ModelConfig, fixed: Mapping[str, Any], reference: str, source: str) -> None:
    """Raise UserError with all differences between a config and the options that a reference always uses.

    Args:
        config: of the model to import.
        fixed: the reference's options by name. Options of layers are named "ssm.NAME".
        reference: the name of the reference, for the message.
        source: the origin of the arrays, for the message.
    """
    if words := differences(fixed, {name: attrgetter(name)(config) for name in fixed}):
        raise UserError(f"{source}, a model of {reference}, does not fit the config: {words}")


def check_shapes(arrays: Arrays, shapes: Shapes, source: str) -> None:
    """Raise UserError, like `check_arrays`, if names, shapes or values are not as expected."""
    check_arrays(arrays, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}, source)
