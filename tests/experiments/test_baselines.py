"""The baselines on data with known best answers."""

import numpy as np
import pytest

from aire.data.pipeline import Split, pad
from aire.data.tasks import Task
from experiments import baselines


def task(make_split, d_input: int) -> Task:
    splits = {
        name: make_split(np.random.default_rng(i))
        for i, name in enumerate(("train", "validation", "selection", "test"))
    }
    return Task("synthetic", splits, d_input, 3)


def tokens(rng) -> Split:
    """A sequence contains one of the tokens 1, 2 and 3, which gives the class, and token 0, as in padding."""
    labels = rng.integers(0, 3, 60)
    return pad([np.array([0] * rng.integers(0, 4) + [label + 1]) for label in labels], labels, 8, name="any")


def pixels(rng) -> Split:
    """The class is the position of the brightest of three pixels, which a bag of pixels does not show."""
    labels = rng.integers(0, 3, 60).astype(np.int32)
    x = rng.uniform(0, 0.5, (60, 3, 1)).astype(np.float32)
    x[np.arange(60), labels] += 1
    return Split(x, np.full(60, 3, np.int32), labels)


def stored_pixels(rng) -> Split:
    """The same pixels, stored as bytes."""
    split = pixels(rng)
    stored = np.rint(100 * split.x[..., 0]).astype(np.uint8)
    return Split(stored, split.lengths, split.y, decode=lambda x: x[..., None].astype(np.float32) / 100)


def pairs(rng) -> Split:
    """Two documents. Only the second gives the class, and its padding would give another."""
    split = tokens(rng)
    x = np.stack([np.ones_like(split.x), split.x], axis=1)
    x[:, 1][np.arange(8) >= split.lengths[:, None]] = 3
    return Split(x, np.stack([np.full(60, 8, np.int32), split.lengths], axis=1), split.y)


@pytest.mark.parametrize(
    ("make_split", "d_input", "name"),
    [
        (tokens, 4, "bag of tokens"),
        (pairs, 4, "bag of tokens"),
        (pixels, 1, "linear classifier"),
        (stored_pixels, 1, "linear classifier"),
    ],
)
def test_a_linear_classifier_finds_what_is_linear(make_split, d_input, name):
    assert baselines.measure(task(make_split, d_input))[name] == {"selection": 1.0, "test": 1.0}


def test_majority_is_that_of_the_training_split():
    made = task(pixels, 1)
    answer = np.bincount(made.splits["train"].y).argmax()
    expected = {name: np.mean(made.splits[name].y == answer) for name in ("selection", "test")}
    assert baselines.measure(made)["majority class"] == expected


def test_no_linear_classifier_on_long_inputs():
    def sound(rng) -> Split:
        return Split(np.zeros((4, 5000, 1), np.float32), np.full(4, 5000, np.int32), np.zeros(4, np.int32))

    assert set(baselines.measure(task(sound, 1))) == {"majority class"}
