"""Save model files again, in the newest format, with digests of their arrays and config. The arrays keep their bits.

    python -m experiments.tools.add_digests [FILE …]

Without files: all models of the zoo. A damaged file is refused if it has digests already.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import aire
from aire import zoo
from aire.io.weights import get_arrays
from aire.utils import digests
from aire.utils.errors import UserError


def add_digests(path: Path) -> None:
    """Save a model file again. Raise UserError if it cannot be read or written."""
    model = aire.load(path)
    aire.save(model, path)
    assert digests.of_arrays(get_arrays(aire.load(path))) == digests.of_arrays(get_arrays(model))


def main(arguments: Sequence[str]) -> None:
    try:
        for path in map(Path, arguments) if arguments else map(zoo.path, zoo.names()):
            add_digests(path)
            print(path)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
