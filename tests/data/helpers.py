"""Shared by the tests of datasets: small ListOps data, ways to read a split, a check of errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from aire.data.listops import VOCABULARY, Generated
from aire.data.pipeline import Split
from aire.utils.errors import UserError

TINY = Generated(min_length=5, max_length=30, train_examples=30, validation_examples=10, test_examples=10)


def tokens_of(indices) -> list[str]:
    return [VOCABULARY[i] for i in indices]


def vary(options: Generated, **changes) -> Generated:
    return Generated(**(vars(options) | changes))


def sequences(split: Split) -> list[list[int]]:
    """Return the tokens of all examples without padding."""
    return [x[:n].tolist() for x, n in zip(split.x, split.lengths, strict=True)]


def inputs(split: Split) -> np.ndarray:
    """Return the model inputs of all examples."""
    return split.take(np.arange(len(split)))["x"]


@contextmanager
def refused(message: str, data_dir: Path | None = None) -> Iterator[None]:
    """Expect a UserError with a one-line message, and no prepared dataset in `data_dir`."""
    with pytest.raises(UserError, match=message) as error:
        yield
    assert "\n" not in str(error.value)
    assert data_dir is None or not list(data_dir.glob("*/*/1.0.0"))
