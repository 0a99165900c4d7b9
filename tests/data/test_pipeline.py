"""The input pipeline: contents of batches, epoch coverage, sharding by process, resuming."""

import numpy as np
import pytest
from flax import nnx

from aire.data.pipeline import Batches, Split, evaluation_batches, pad, steps_per_epoch
from aire.models import Classifier, ModelConfig
from aire.ssm import S5Config
from aire.utils.errors import UserError
from tests.helpers import forward


def make_split(n: int) -> Split:
    """Make a split in which every field of an example gives its index."""
    i = np.arange(n)
    return Split(np.stack([i, i + 1], axis=1).astype(np.uint8), i.astype(np.int32), (i % 10).astype(np.int32))


def indices(stream, steps) -> np.ndarray:
    return np.array([stream[t]["lengths"] for t in steps])


def test_pad():
    split = pad([np.array([7, 8], np.uint8), np.array([9], np.uint8)], [3, 4], 3, name="train")
    np.testing.assert_array_equal(split.x, np.array([[7, 8, 0], [9, 0, 0]], np.uint8), strict=True)
    np.testing.assert_array_equal(split.lengths, np.array([2, 1], np.int32), strict=True)
    np.testing.assert_array_equal(split.y, np.array([3, 4], np.int32), strict=True)
    assert len(split) == 2
    assert pad([np.array([7, 8], np.uint8)], [0], 2, name="train").x.tolist() == [[7, 8]]


def test_pad_names_the_first_sequence_that_is_too_long():
    sequences = [np.ones(n, np.uint8) for n in (3, 5, 4, 9)]
    with pytest.raises(UserError, match=r"'test', example 1: 5 tokens exceed the length 4; .* has 9"):
        pad(sequences, [0] * 4, 4, name="test")


@pytest.mark.parametrize(
    ("largest", "dtype"), [(255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)]
)
def test_pad_uses_the_smallest_dtype(largest, dtype):
    split = pad([np.array([1, largest]), np.array([2])], [0, 0], 3, name="train")
    np.testing.assert_array_equal(split.x, np.array([[1, largest, 0], [2, 0, 0]], dtype), strict=True)
    assert split.holds_tokens


def test_pad_of_sequences_without_tokens():
    split = pad([np.array([], np.int64)] * 2, [0, 1], 3, name="train")
    np.testing.assert_array_equal(split.x, np.zeros((2, 3), np.uint8), strict=True)


def test_pad_names_the_example_of_a_negative_token():
    sequences = [np.array([1, 2]), np.array([], int), np.array([3]), np.array([4, -1]), np.array([-2])]
    with pytest.raises(UserError, match="split 'test', example 3: token -1 is negative; expected 0 or more"):
        pad(sequences, [0] * 5, 4, name="test")


def test_a_model_accepts_tokens_above_255():
    """The logits are those of one-hot vectors."""
    model = Classifier(ModelConfig(300, 4, 2, (4,), S5Config(blocks=1)), rngs=nnx.Rngs(0))
    model.eval()
    tokens = np.array([[1, 299, 256]], np.uint16)
    batch = Split(tokens, np.array([3], np.int32), np.zeros(1, np.int32)).take(np.array([0]))
    expected = forward(model, np.eye(300, dtype=np.float32)[tokens], batch["lengths"])
    for dtype in (np.uint16, np.uint32, np.int32):
        actual = forward(model, batch["x"].astype(dtype), batch["lengths"])
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_split_needs_as_many_labels_as_inputs():
    with pytest.raises(UserError, match="2 inputs, 2 lengths and 3 labels"):
        Split(np.zeros((2, 4), np.uint8), np.zeros(2, np.int32), np.zeros(3, np.int32))


def test_a_batch_has_the_rows_of_its_examples():
    split = make_split(20)
    batch = Batches(split, batch_size=4, seed=0)[2]
    assert set(batch) == {"x", "lengths", "y"}
    rows = batch["lengths"]
    for name in batch:
        np.testing.assert_array_equal(batch[name], getattr(split, name)[rows], strict=True)
        assert batch[name].shape[0] == 4


def test_batches_cannot_be_iterated():
    with pytest.raises(TypeError, match=r"Batches is infinite: index it by step, batches\[step\]"):
        next(iter(Batches(make_split(20), batch_size=4, seed=0)))


def test_pairs_of_documents_are_one_row_of_a_batch():
    x = np.arange(24, dtype=np.uint8).reshape(4, 2, 3)
    lengths = np.array([[1, 2], [3, 1], [2, 2], [1, 3]], np.int32)
    batch = Split(x, lengths, np.arange(4, dtype=np.int32)).take(np.array([2, 0]))
    np.testing.assert_array_equal(batch["x"], np.stack([x[2], x[0]]), strict=True)
    assert batch["lengths"].tolist() == [[2, 2], [1, 2]]
    assert batch["y"].tolist() == [2, 0]


def test_bytes_are_decoded_batch_by_batch():
    grey = np.array([[0, 255], [51, 102]], np.uint8)
    split = Split(grey, np.full(2, 2, np.int32), np.zeros(2, np.int32), decode=lambda x: x[..., None] / np.float32(255))
    expected = np.array([[[0.2], [0.4]], [[0], [1]]], np.float32)
    np.testing.assert_allclose(split.take(np.array([1, 0]))["x"], expected, rtol=1e-6)
    assert not split.holds_tokens


@pytest.mark.parametrize(("n", "batch_size"), [(12, 4), (14, 4), (7, 7), (5, 1)])
def test_an_epoch_has_every_example_once_except_the_remainder(n, batch_size):
    split = make_split(n)
    steps = steps_per_epoch(split, batch_size)
    assert steps == n // batch_size
    stream = Batches(split, batch_size=batch_size, seed=3)
    orders = []
    for epoch in range(4):
        order = indices(stream, range(epoch * steps, (epoch + 1) * steps)).ravel()
        assert len(set(order)) == len(order) == steps * batch_size
        orders.append(tuple(order))
    assert len(set(orders)) > 1


def test_the_remainder_differs_between_epochs():
    stream = Batches(make_split(10), batch_size=4, seed=0)
    dropped = [frozenset(range(10)) - set(indices(stream, (2 * epoch, 2 * epoch + 1)).flat) for epoch in range(8)]
    assert len(set(dropped)) > 4


def test_neighbouring_seeds_do_not_share_epochs():
    """They would if the epoch were added to the seed."""
    split = make_split(100)
    first, second = (Batches(split, batch_size=100, seed=seed) for seed in (1, 2))
    orders = {tuple(stream[epoch]["lengths"]) for stream in (first, second) for epoch in range(5)}
    assert len(orders) == 10


def test_the_shuffle_is_uniform():
    """Count examples by twentieths of their index and place: chi-square with 19 * 19 degrees of freedom."""
    n, epochs = 2000, 30
    order = indices(Batches(make_split(n), batch_size=n, seed=0), range(epochs))
    counts = np.zeros((20, 20))
    np.add.at(counts, (np.arange(n) * 20 // n, order * 20 // n), 1)
    expected = n * epochs / 400
    assert counts.sum() == n * epochs
    assert np.sum((counts - expected) ** 2 / expected) < 361 + 5 * 27  # mean and deviations


def test_batches_are_a_function_of_the_seed():
    split = make_split(50)
    one, same, other = (indices(Batches(split, batch_size=5, seed=seed), range(20)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_resuming_in_the_middle_of_an_epoch():
    split = make_split(23)
    full = indices(Batches(split, batch_size=4, seed=9), range(17))
    np.testing.assert_array_equal(indices(Batches(split, batch_size=4, seed=9), range(7, 17)), full[7:])


@pytest.mark.parametrize("process_count", [2, 3])
def test_processes_share_each_batch(process_count):
    split = make_split(32)
    alone = indices(Batches(split, batch_size=6, seed=4), range(12))
    shares = [
        indices(Batches(split, batch_size=6, seed=4, process_index=i, process_count=process_count), range(12))
        for i in range(process_count)
    ]
    assert {share.shape for share in shares} == {(12, 6 // process_count)}
    np.testing.assert_array_equal(np.concatenate(shares, axis=1), alone)
    for epoch in np.split(np.concatenate(shares, axis=1)[:10], 2):
        assert len(set(epoch.flat)) == epoch.size


def test_processes_do_not_mix_the_documents_of_pairs():
    """The rows of all processes together are the pairs of a single process."""
    x = np.arange(32, dtype=np.uint8).reshape(8, 2, 2)
    split = Split(x, np.full((8, 2), 2, np.int32), np.arange(8, dtype=np.int32))
    alone = Batches(split, batch_size=4, seed=0)[0]
    parts = [Batches(split, batch_size=4, seed=0, process_index=i, process_count=2)[0] for i in range(2)]
    together = {name: np.concatenate([part[name] for part in parts]) for name in alone}
    for y, documents in zip(together["y"], together["x"], strict=True):
        np.testing.assert_array_equal(documents, x[y])
    np.testing.assert_array_equal(together["y"], alone["y"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 11}, r"batch_size=11: expected 1 to 10"),
        ({"batch_size": 0}, r"batch_size=0: expected 1 to 10"),
        ({"batch_size": 5, "process_count": 2}, r"batch_size=5: expected a multiple of the 2 processes"),
        ({"batch_size": 4, "process_count": 2, "process_index": 2}, r"process_index=2: expected 0 to 1"),
        ({"batch_size": 4, "process_index": -1}, r"process_index=-1: expected 0 to 0"),
        ({"batch_size": 4, "seed": -1}, r"seed=-1: expected at least 0"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(UserError, match=message):
        Batches(make_split(10), **({"seed": 0} | options))


def test_evaluation_covers_every_example_once_in_order():
    split = make_split(10)
    found = list(evaluation_batches(split, 4))
    assert [batch["x"].shape for batch in found] == [(4, 2)] * 3
    weight = np.concatenate([batch["weight"] for batch in found])
    np.testing.assert_array_equal(weight, np.array([1] * 10 + [0, 0], np.float32), strict=True)
    for name in ("x", "lengths", "y"):
        real = np.concatenate([batch[name] for batch in found])[weight == 1]
        np.testing.assert_array_equal(real, getattr(split, name), strict=True)


def test_evaluation_pads_with_examples_that_have_tokens():
    split = pad([np.ones(2, np.uint8)] * 5, [1] * 5, 4, name="test")
    *_, last = evaluation_batches(split, 3)
    np.testing.assert_array_equal(last["lengths"], [2] * 3)
    np.testing.assert_array_equal(last["weight"], [1, 1, 0])


def test_a_batch_is_no_larger_than_the_split():
    [batch] = evaluation_batches(make_split(3), 10**9)
    np.testing.assert_array_equal(batch["y"], [0, 1, 2])


def test_evaluation_needs_a_batch_size():
    with pytest.raises(UserError, match="batch_size=0: expected at least 1"):
        evaluation_batches(make_split(3), 0)
