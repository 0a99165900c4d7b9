"""sMNIST and psMNIST: the references' split, order and scale."""

import dataclasses

import numpy as np
import pytest

from aire.data import mnist
from aire.data.formats.idx import IdxSource
from aire.data.mnist import bit_reversal, files, load
from aire.data.splits import held_out, torch_permutation
from aire.data.synthetic import idx_arrays
from tests.data.helpers import inputs
from tests.helpers import refused, write_idx


@pytest.fixture
def folder(tmp_path):
    return write_idx(tmp_path / "files", idx_arrays(train=60))


def test_the_references_split():
    """Numbers printed by PyTorch 2.13: random_split into 90 % and 10 % with seed 42."""
    assert torch_permutation(7, 42).tolist()[:5] == [1, 6, 3, 5, 4]
    assert torch_permutation(60_000, 42)[[0, 1, 2, 54_000, 54_001]].tolist() == [37542, 43087, 2992, 33841, 37977]
    for n, second, total in ((100, 10, 443), (50_000, 5_000, 125_078_647), (60_000, 6_000, 178_617_204)):
        [chosen] = np.nonzero(held_out(n))
        assert (len(chosen), chosen.sum()) == (second, total)


def test_bit_reversal_by_hand():
    assert bit_reversal(8).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]
    assert bit_reversal(6).tolist() == [0, 4, 2, 1, 5, 3]  # those of 8 that are below 6
    order = bit_reversal(784)
    assert sorted(order) == list(range(784))
    assert order[:6].tolist() == [0, 512, 256, 768, 128, 640]


@pytest.mark.parametrize("permuted", [False, True])
def test_values_and_splits(folder, tmp_path, permuted, monkeypatch):
    arrays = idx_arrays(train=60)
    splits = load(tmp_path / "data", folder, permuted=permuted)
    images, labels = arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]
    mask = held_out(60)
    assert mask.sum() == 6
    order = bit_reversal(784) if permuted else np.arange(784)
    for name, pixels, classes in (
        ("train", images[~mask], labels[~mask]),
        ("validation", images[mask], labels[mask]),
        ("test", arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"]),
    ):
        x = inputs(splits[name])
        assert (x.dtype, splits[name].x.dtype) == (np.float32, np.uint8)
        np.testing.assert_array_equal(x[..., 0], (pixels.reshape(-1, 784) / np.float32(255))[:, order])
        np.testing.assert_array_equal(splits[name].y, classes)
        assert set(splits[name].lengths.tolist()) == {784}
    monkeypatch.setattr(IdxSource, "splits", lambda self: pytest.fail("prepared a second time"))
    pooled = load(tmp_path / "data", folder, permuted=not permuted, pool=2, train_examples=5)
    assert inputs(pooled["train"]).shape == (5, 196, 1)


def test_published_files(tmp_path, monkeypatch):
    """Without a folder or a network, the error names the files, their size, their address and the option."""
    monkeypatch.setattr(mnist, "PUBLISHED", dataclasses.replace(mnist.PUBLISHED, url="http://localhost:9/"))
    with refused(r"cannot download http.*; get train-.*, 12 MB, from http.* --config\.data\.fold"):
        load(tmp_path / "data")
    assert files(tmp_path).config_name() == "published"
    assert sum(file.size for file in mnist.PUBLISHED.files.values()) == 11_594_722
