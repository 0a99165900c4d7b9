"""The one exception that means "the user can fix this"."""


class UserError(ValueError):
    """A mistake in what the user gave: the message names it, what was expected, and what to do.

    `run.py` prints the message as one line and exits with a non-zero code; from Python it is an ordinary ValueError.
    """
