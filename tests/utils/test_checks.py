"""Rules of options, and errors that name every mistake."""

import dataclasses

import numpy as np
import pytest

from aire.utils.checks import Mistakes, boolean, check, choice, file_name, integer, make, number, several, text
from aire.utils.errors import UserError

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("rule", "right", "wrong"),
    [
        (integer(1, 5), (1, 5, np.int32(3), np.uint8(1)), (0, 6, 1.0, True, "3", None, 10**30, 1 + 0j)),
        (number(0, below=1), (0, 0.5, np.float32(0.25)), (1, -1e-9, NAN, True, "0.5", None, (0.5,), 1j)),
        (number(above=0), (1e-30, 10**9), (0, -1, INFINITY, NAN, 10**400)),
        (number(), (-1e30, 0), (INFINITY, NAN, None)),
        (choice(("a", "b")), ("a",), ("c", None, ["a"], 1)),
        (boolean(), (True, False), (0, 1, "True", None)),
        (text(), ("", "a b", "é" * 127 + "/b"), (None, 3, "a\0b", "é" * 128)),
        (file_name(), ("a b", "é" * 100), (None, "", "a\0b", "..", "a/b", "é" * 101)),
        (several(integer(0, 3), 1, 2), ((1,), [0, 3]), ((), (1, 2, 3), (4,), 1, "1", None, (1.0,))),
    ],
)
def test_rules(rule, right, wrong):
    assert [x for x in right if not rule.holds(x)] == []
    assert [x for x in wrong if rule.holds(x)] == []


@dataclasses.dataclass(frozen=True)
class Options:
    rate: float
    size: int = 1
    name: str = "a"

    def __post_init__(self):
        check(self, rate=number(0, below=1), size=integer(1, 9_999), name=choice(("b", "a")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"rate": 1.0, "size": 0, "name": "c"},
            "rate=1.0: expected a number >= 0 and < 1\nsize=0: expected a whole number from 1 to 9,999\n"
            "name='c': expected one of ['a', 'b']",
        ),
        (
            {"size": 1, "sizes": 2},
            "Options: unknown 'sizes': expected some of ['name', 'rate', 'size']\nOptions: missing rate",
        ),
        ("abc", "Options: 'abc' is not a mapping of names to values"),
        ({"rate": "x" * 1000}, f"rate='{'x' * 199}…: expected a number >= 0 and < 1"),
    ],
)
def test_every_mistake_is_a_line(fields, message):
    with pytest.raises(UserError) as error:
        make(Options, fields)
    assert str(error.value) == message


def test_mistakes_of_several_sections_are_one_error():
    with pytest.raises(UserError) as error, Mistakes() as mistakes:
        for section, rate in (("a", 2), ("b", 0.5), ("c", NAN)):
            with mistakes.within(f"{section}."):
                Options(rate)
    assert str(error.value) == ("a.rate=2: expected a number >= 0 and < 1\nc.rate=nan: expected a number >= 0 and < 1")
    with pytest.raises(ZeroDivisionError), Mistakes() as mistakes, mistakes.within("d."):
        raise ZeroDivisionError  # not the user's
