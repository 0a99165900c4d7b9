"""Check the arguments of functions. The error names the argument, what it is, and what was expected."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aire.utils.checks import Rule, short, text
from aire.utils.errors import UserError

_PATH = text()


def follow(name: str, value: object, rule: Rule) -> None:
    """Raise UserError unless a value follows a rule."""
    if not rule.holds(value):
        raise UserError(f"{name}={short(value)}: expected {rule.expected}")


def instance(name: str, value: object, kind: type | UnionType, expected: str) -> None:
    """Raise UserError unless a value is an instance of a class. `expected` describes it in words."""
    if not isinstance(value, kind):
        raise UserError(f"{name}: expected {expected}, not {describe(value)}")


def mapping(name: str, value: object, expected: str) -> None:
    """Raise UserError unless a value is a mapping with strings as keys. `expected` says from what to what."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{name}: expected a mapping {expected}, not {describe(value)}")


def function(name: str, value: object, expected: str) -> None:
    """Raise UserError unless a value can be called. `expected` says of or for what."""
    if not callable(value):
        raise UserError(f"{name}: expected a function {expected}, not {describe(value)}")


def path(name: str, value: Any) -> Path:
    """Return a path. Raise UserError unless the value is a string or a path of one."""
    if not isinstance(value, str | os.PathLike) or not _PATH.holds(os.fspath(value)):
        raise UserError(f"{name}={short(value)}: expected a path, {_PATH.expected}")
    return Path(value)


def numbers(name: str, value: Any, *, kinds: str = "fiu", expected: str = "an array of numbers") -> Any:
    """Return a value as an array of NumPy, or unchanged if it is one of JAX.

    Args:
        kinds: kinds of dtype as in NumPy: "f" floats, also bfloat16; "c" complex; "i", "u" integers; "b" booleans.
    Raises:
        UserError: it is no array, or of another kind.
    """
    if not isinstance(value, jax.Array):
        try:
            value = np.asarray(value)
        except Exception as error:  # frameworks raise various types, such as for a tensor on another device
            raise UserError(f"{name} cannot be read as a NumPy array: {error}") from error
    if _kind(value.dtype) not in kinds:
        raise UserError(f"{name} has dtype {value.dtype}: expected {expected}")
    return value


def _kind(dtype: Any) -> str:
    return "f" if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype).kind if isinstance(dtype, np.dtype) else "?"


def is_traced(value: object) -> bool:
    """Whether a value is known only when a compiled function runs."""
    return isinstance(value, jax.core.Tracer)


def describe(value: object) -> str:
    """Describe a value of the wrong type in a few words."""
    if isinstance(value, np.ndarray | jax.Array):
        return f"an array {value.dtype}{list(value.shape)}"
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return short(value)
    return f"{short(value, 60)} ({type(value).__name__})"
