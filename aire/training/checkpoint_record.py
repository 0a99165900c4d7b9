"""The record of a checkpoint: what it says, and the checks of one that is read from a disk."""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from aire.utils import digests
from aire.utils.checks import is_integer, is_number


def _texts(x: object) -> bool:
    return isinstance(x, dict) and all(isinstance(value, str) for value in x.values())


# By field. Older versions write no step and no best.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "settings": lambda x: isinstance(x, dict),
    "meta": lambda x: isinstance(x, dict),
    "score": lambda x: x is None or is_number(x),
    "arrays": _texts,
    "sha256": _texts,
}
_OPTIONAL: dict[str, Callable[[Any], bool]] = {"step": is_integer, "best": is_integer}


def parse(item: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Return the record of a step from the item that Orbax has read.

    Raises:
        ValueError: it differs from its digest, is of another step, or a field is missing or of another type.
    """
    if digests.of_text(item["text"]) != item["sha256"]:
        raise ValueError("its record differs from what was written")
    record = json.loads(item["text"])
    if not isinstance(record, dict):
        raise ValueError("its record is no JSON object")
    fields = _FIELDS | {name: rule for name, rule in _OPTIONAL.items() if name in record}
    if wrong := [name for name, holds in fields.items() if name not in record or not holds(record[name])]:
        raise ValueError(f"its record has no valid {', '.join(wrong)}")
    if record.get("step", step) != step:
        raise ValueError(f"it is a copy of step {record['step']}")
    return record


def quality(step: int, record: Mapping[str, Any]) -> tuple[float, ...]:
    """The order of checkpoints from worst to best: by score, of equal scores the earliest. Without score the newest."""
    score = record["score"]
    return (-math.inf, step) if score is None else (score, -step)
