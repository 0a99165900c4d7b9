"""Checks of values that are known only when a compiled function runs.

Under `jax.jit`, a function cannot raise for the values of its arrays, such as a token outside the vocabulary. `require`
says what must hold of them, which costs nothing. `checked` makes a function that verifies it, for tests and debugging.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import checkify
from jaxtyping import Array

from aire.utils.errors import UserError

_REQUIRED = contextvars.ContextVar("required", default=True)


@contextlib.contextmanager
def not_required() -> Iterator[None]:
    """Trace without the conditions of `require`, because an exported program cannot contain them."""
    token = _REQUIRED.set(False)
    try:
        yield
    finally:
        _REQUIRED.reset(token)


def require(holds: Array | bool, message: str) -> None:
    """Say that a value, which may be traced, must be true. Only functions of `checked` verify it."""
    if _REQUIRED.get():
        checkify.debug_check(holds, message.replace("{", "{{").replace("}", "}}"))


def checked(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function so that it verifies the values of its inputs, too.

    Without it, compiled functions verify only shapes and dtypes. Models then give NaN or a wrong result for tokens
    outside the vocabulary and for lengths outside 1…L, and `select` for NaN scores. Arguments are as for `jax.jit`:
    arrays, and trees of arrays such as modules. It is slower, so use it for tests and debugging.

    >>> logits = aire.checked(model)(tokens, lengths)  # doctest: +SKIP
    >>> loss = aire.checked(lambda model, batch: loss_of(model, batch))(model, batch)  # doctest: +SKIP

    Raises:
        UserError: (by the returned function) a value is wrong. The message is that of the eager call.
    """
    compiled = jax.jit(checkify.checkify(fn, errors=checkify.user_checks))

    @functools.wraps(fn, assigned=("__doc__",), updated=())
    def call(*args: Any, **options: Any) -> Any:
        error, result = compiled(*args, **options)
        if message := error.get():
            raise UserError(str(message).partition(" (`check` failed)")[0])
        return result

    return call
