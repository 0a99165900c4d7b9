"""Texts as sequences of characters, by the rules of the S5 and S4 references for the Long Range Arena.

A character is a Unicode code point, upper and lower case apart. Token 0 pads, 1 stands for characters outside the
vocabulary, 2 ends every text; characters follow, the most frequent first. Axis: L characters of a text.
"""

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Self

import numpy as np

from aire.utils.errors import UserError

SPECIALS = ("<pad>", "<unk>", "<eos>")
UNKNOWN, EOS = 1, 2


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The characters that have a token of their own, in the order of the tokens."""

    characters: str

    @classmethod
    def of(cls, counts: Mapping[str, int], *, least: int, most: int, title: str) -> Self:
        """Of the characters that occur at least `least` times; equally frequent ones by code point.

        Raises:
            UserError: with the specials these are more than `most` tokens; `title` names the texts in the message.
        """
        frequent = sorted((c for c, n in counts.items() if n >= least), key=lambda c: (-counts[c], c))
        if len(frequent) + len(SPECIALS) > most:
            raise UserError(
                f"{title}: {len(frequent)} different characters occur at least {least} times in the training texts; "
                f"with {len(SPECIALS)} special tokens, at most {most} are expected: are these the published texts?"
            )
        return cls("".join(frequent))

    def encode(self, text: str) -> np.ndarray:
        """Tokens (L,) uint8, without the end token."""
        return self._table[_code_points(text)]

    @cached_property
    def _table(self) -> np.ndarray:
        """The token of every code point."""
        table = np.full(0x110000, UNKNOWN, np.uint8)
        table[_code_points(self.characters)] = len(SPECIALS) + np.arange(len(self.characters))
        return table


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def ended(tokens: np.ndarray, length: int) -> np.ndarray:
    """The first `length` - 1 tokens of a text, then the end token: (at most `length`,) uint8."""
    return np.append(tokens[: length - 1], np.uint8(EOS))


def check_length(length: int, most: int, title: str) -> None:
    """Raises UserError unless 2 <= length <= most."""
    if not 2 <= length <= most:
        raise UserError(f"{title}: length={length}: expected 2 to {most:,}, the end token included")
