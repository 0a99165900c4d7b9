"""Paths of layers in a model, as tuples and as text."""

import re

Path = tuple[str | int, ...]  # attribute names, keys and indices from the model down to a layer


def path_name(path: Path) -> str:
    """A path as text: its parts joined by "/". Inside a part, "~" becomes "~0" and "/" "~1", as in a JSON pointer."""
    return "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path)


def natural_order(path: str) -> list[tuple[int, int | str]]:
    """Sort key in which "blocks/10" comes after "blocks/2"."""
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", path)]
