"""Small ListOps data for several tests, and its sequences as people read them."""

from aire.data.listops import VOCABULARY, Generated

TINY = Generated(min_length=5, max_length=30, train_examples=30, validation_examples=10, test_examples=10)


def tokens_of(indices) -> list[str]:
    return [VOCABULARY[i] for i in indices]


def sequences(split) -> list[tuple[int, ...]]:
    return [tuple(x[:n].tolist()) for x, n in zip(split.x, split.lengths, strict=True)]


def vary(options: Generated, **changes) -> Generated:
    return Generated(**(vars(options) | changes))
