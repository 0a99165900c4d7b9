"""Shared by the tests of datasets: small ListOps data, and ways to read a split."""

import numpy as np

from aire.data.listops import VOCABULARY, Generated
from aire.data.pipeline import Split

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
