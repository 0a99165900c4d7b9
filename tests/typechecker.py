"""The run-time type checker of the tests, for jaxtyping's import hook."""

import functools
import inspect
import typing
import warnings
from collections.abc import Callable
from typing import Any, Self

import jaxtyping
from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a valid float
_jaxtyped = jaxtyping.jaxtyped


def install(packages: list[str]) -> None:
    """Check the shapes in the annotations of these packages, which must not be imported yet."""
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook(packages, "typechecker.check")


def jaxtyped(fn: Any = None, *, typechecker: Callable) -> Any:
    """Decorate as `jaxtyping.jaxtyped` does, but only functions whose annotations have shapes.

    The decorator slows every call, and a nested function is decorated whenever the function around it runs.
    """
    if fn is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    return _jaxtyped(fn, typechecker=typechecker) if _has_shapes(fn) else fn


def _has_shapes(fn: Any) -> bool:
    if inspect.isclass(fn):  # a dataclass, whose fields are not checked, see `check`
        return False
    function = fn.fget if isinstance(fn, property) else getattr(fn, "__func__", fn)
    return any(map(_is_shape, function.__annotations__.values()))


def _is_shape(hint: Any) -> bool:
    is_array = inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)
    return is_array or any(map(_is_shape, typing.get_args(hint)))


def check(fn: Any) -> Any:
    """Check arguments and results.

    Not of `__init__`, because JAX also makes dataclasses of other leaves than arrays. Not `Self`, because beartype
    supports it only if it decorates the class.
    """
    if fn.__name__ == "__init__":
        return fn
    fn.__annotations__ = {name: hint for name, hint in fn.__annotations__.items() if hint is not Self}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BeartypeDecorHintPep585DeprecationWarning)  # of Flax's own annotations
        return _check(fn)
