"""Exceptions that the user can fix, and a part of their messages."""

from collections.abc import Mapping
from typing import Any


class UserError(ValueError):
    """Invalid user input. The message says what is wrong, what was expected and what to do.

    `run.py` prints the message as one line and exits with a non-zero status. In Python it is an ordinary ValueError.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""


def in_one_line(error: BaseException) -> str:
    """Return type and message of an exception without line ends, at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def differences(there: Mapping[str, Any], here: Mapping[str, Any], most: int = 8) -> str:
    """List the keys whose values differ, as "x is 1 there, 2 here; y is absent there, 3 here"; "" if all agree."""
    (a, b) = ({key: repr(value) for key, value in values.items()} for values in (there, here))
    keys = [key for key in sorted(a | b) if a.get(key) != b.get(key)]
    words = [f"{key} is {a.get(key, 'absent')} there, {b.get(key, 'absent')} here" for key in keys[:most]]
    return "; ".join(words + [f"and {len(keys) - most} more"] * (len(keys) > most))
