"""The run-time type checker of the tests, which conftest.py passes to jaxtyping's import hook."""

import warnings
from typing import Any, Self

from beartype import BeartypeConf, beartype
from beartype.roar import BeartypeDecorHintPep585DeprecationWarning

_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a valid float


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
