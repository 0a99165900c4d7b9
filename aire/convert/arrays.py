"""Trees of arrays with the references' names."""

from collections.abc import Mapping

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from aire.errors import UserError
from aire.weights import check_arrays

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


def check_shapes(arrays: Arrays, shapes: Shapes, source: str) -> None:
    """Raises UserError, as `check_arrays`, where names, shapes or values are not as expected."""
    check_arrays(arrays, {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}, source)
