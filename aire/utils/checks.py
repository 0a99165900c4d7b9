"""Check options: the type and range of each, and one error that names every mistake.

check("options", {"lr": 0.0, "groups": "fast"}, lr=number(above=0), groups=choice(("standard", "slow")))

options.lr=0.0: expected a number > 0
options.groups='fast': expected one of ['slow', 'standard']
"""

import dataclasses
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any, TypeVar

from aire.utils.errors import UserError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is expected of a value: in words, and as a test of the value."""

    expected: str
    holds: Callable[[Any], bool]


def integer(low: int, high: int) -> Rule:
    """Return the rule of whole numbers from `low` to `high`."""
    return Rule(f"a whole number from {low:,} to {high:,}", lambda x: is_integer(x) and low <= x <= high)


def number(
    low: float = -math.inf, *, above: float = -math.inf, high: float = math.inf, below: float = math.inf
) -> Rule:
    """Return the rule of finite numbers with low ≤ x ≤ high and above < x < below."""
    limits = {">": above, ">=": low, "<": below, "<=": high}
    words = " and ".join(f"{sign} {limit:g}" for sign, limit in limits.items() if math.isfinite(limit))
    return Rule(
        f"a number {words}" if words else "a finite number",
        lambda x: is_number(x) and low <= x <= high and above < x < below,
    )


def choice(names: Collection[str]) -> Rule:
    """Return the rule of the names in a collection."""
    return Rule(f"one of {sorted(names)}", lambda x: isinstance(x, str) and x in names)


def boolean() -> Rule:
    """Return the rule of True and False."""
    return Rule("True or False", lambda x: isinstance(x, bool))


def text() -> Rule:
    """Return the rule of strings that can be the path of a file."""
    return Rule("a text without NUL, at most 255 bytes between two /", _is_path)


def file_name() -> Rule:
    """Return the rule of names that a file or a folder can have."""
    return Rule(
        "a name without / and NUL, at most 200 bytes",
        lambda x: _is_path(x) and "/" not in x and x not in ("", ".", "..") and len(os.fsencode(x)) <= 200,
    )


def _is_path(x: object) -> bool:
    return isinstance(x, str) and "\0" not in x and all(len(os.fsencode(part)) <= 255 for part in x.split("/"))


def several(rule: Rule, low: int, high: int) -> Rule:
    """Return the rule of lists and tuples of `low` to `high` values that follow a rule."""
    return Rule(
        f"{low:,} to {high:,} values, each {rule.expected}",
        lambda x: isinstance(x, list | tuple) and low <= len(x) <= high and all(map(rule.holds, x)),
    )


def is_integer(x: object) -> bool:
    """Whether a value is a whole number of Python or NumPy, and not a boolean."""
    return not isinstance(x, bool) and isinstance(x, Integral)


def is_number(x: object) -> bool:
    """Whether a value is a finite number of Python or NumPy, and not a boolean."""
    try:
        return not isinstance(x, bool) and isinstance(x, Real) and math.isfinite(x)
    except OverflowError:  # an integer of hundreds of digits
        return False


def compare(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> list[str]:
    """Return one line for each value that breaks its rule. Values that are missing break none."""
    return [
        f"{name}={short(values[name])}: expected {rule.expected}"
        for name, rule in rules.items()
        if name in values and not rule.holds(values[name])
    ]


def check(options: object, **rules: Rule) -> None:
    """Compare the attributes of an object with their rules.

    Raises:
        UserError: one line for each value that breaks its rule.
    """
    if wrong := compare({name: getattr(options, name) for name in rules}, rules):
        raise UserError("\n".join(wrong))


def make(kind: type[T], fields: object) -> T:
    """Make a dataclass from a mapping of its fields, which may come from a file or from the command line.

    Raises:
        UserError: `fields` is not a mapping, a name is unknown or missing, or a value is wrong.
    """
    name = kind.__name__
    if not isinstance(fields, Mapping):
        raise UserError(f"{name}: {short(fields)} is not a mapping of names to values")
    known = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    needed = {n for n, f in known.items() if f.default is f.default_factory is dataclasses.MISSING}
    wrong = []
    if unknown := [short(n) for n in fields if n not in known]:
        wrong += [f"{name}: unknown {', '.join(unknown)}: expected some of {sorted(known)}"]
    if missing := sorted(needed - fields.keys()):
        wrong += [f"{name}: missing {', '.join(missing)}"]
    if wrong:
        raise UserError("\n".join(wrong))
    return kind(**fields)


class Mistakes:
    """Collect the lines of several UserErrors, to raise them as one.

    with Mistakes() as mistakes:
        with mistakes.within("model."):
            ModelConfig(…)
    """

    def __init__(self):
        self.lines: list[str] = []

    def __enter__(self):
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None and self.lines:
            raise UserError("\n".join(dict.fromkeys(self.lines)))

    @contextmanager
    def within(self, prefix: str) -> Iterator[None]:
        """Collect the lines of a UserError raised in the block, each with a prefix, and go on after the block."""
        try:
            yield
        except UserError as error:
            self.lines += [f"{prefix}{line}" for line in str(error).splitlines()]


def seed() -> Rule:
    """Return the rule of seeds. JAX takes larger ones modulo 2³²."""
    return integer(0, 2**32 - 1)


def short(value: object, length: int = 200) -> str:
    """Return the start of a value's repr, on one line."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # of the value's own __repr__
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}…"
