"""Character tokens of texts, by the rules of the S5 and S4 references for the Long Range Arena.

A character is a Unicode code point; case is preserved. Token 0 is padding, 1 an unknown character and 2 the end of a
text. The characters of the vocabulary follow, the most frequent first. Axis: L characters of a text.
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
    """The characters with a token, in the order of the tokens."""

    characters: str

    @classmethod
    def from_counts(cls, counts: Mapping[str, int], *, min_count: int, max_tokens: int, title: str) -> Self:
        """Select the characters that occur at least `min_count` times. Ties are ordered by code point.

        `title` is used in error messages.

        Raises:
            UserError: there are more than `max_tokens` tokens, including special ones.
        """
        frequent = sorted((c for c, n in counts.items() if n >= min_count), key=lambda c: (-counts[c], c))
        if len(frequent) + len(SPECIALS) > max_tokens:
            raise UserError(
                f"{title}: {len(frequent)} different characters occur at least {min_count} times in the training "
                f"texts; with {len(SPECIALS)} special tokens, at most {max_tokens} are expected: are these the "
                "published texts?"
            )
        return cls("".join(frequent))

    def encode(self, text: str) -> np.ndarray:
        """Return tokens (L,) uint8, without the end token."""
        return self._table[_code_points(text)]

    @cached_property
    def _table(self) -> np.ndarray:
        """The token of every code point."""
        table = np.full(0x110000, UNKNOWN, np.uint8)
        table[_code_points(self.characters)] = len(SPECIALS) + np.arange(len(self.characters))
        return table


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def append_eos(tokens: np.ndarray, length: int) -> np.ndarray:
    """Cut a text to `length` - 1 tokens and append the end token."""
    return np.append(tokens[: length - 1], np.uint8(EOS))


def check_length(length: int, maximum: int, title: str) -> None:
    """Raise UserError unless 2 <= length <= maximum."""
    if not 2 <= length <= maximum:
        raise UserError(f"{title}: length={length}: expected 2 to {maximum:,}, including the end token")
