"""Exceptions that the user can fix."""


class UserError(ValueError):
    """Invalid user input. The message says what is wrong, what was expected and what to do.

    `run.py` prints the message as one line and exits with a non-zero status. In Python it is an ordinary ValueError.
    """


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that the user named does not exist."""
