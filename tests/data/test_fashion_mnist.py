"""Fashion-MNIST: pooling by hand, the splits, the published files, one preparation for all options."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from aire.data import fashion_mnist
from aire.data.fashion_mnist import MEAN, PUBLISHED, STD, files, load
from aire.data.formats.idx import Checksums, IdxSource
from aire.data.formats.pixels import Sequences
from aire.data.synthetic import idx_arrays, idx_bytes
from tests.data.helpers import inputs
from tests.helpers import refused, write_idx


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_idx(tmp_path / "files", idx_arrays())


@pytest.fixture
def publish(folder, tmp_path, monkeypatch, serve):
    """Serve tiny files as the published ones; no package is installed."""
    packed = {name: (folder / f"{name}.gz").read_bytes() for name in idx_arrays()}
    checksums = {
        name: Checksums(len(packed[name]), sha256(packed[name]), sha256(idx_bytes(array)))
        for name, array in idx_arrays().items()
    }
    published = dataclasses.replace(PUBLISHED, url=serve(folder) + "/", package=tmp_path / "debian", files=checksums)
    monkeypatch.setattr(fashion_mnist, "PUBLISHED", published)
    return folder


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def to_sequences(images: np.ndarray, pool: int) -> np.ndarray:
    return Sequences(28, pool, MEAN, STD)(images)


# Sequences -----------------------------------------------------------------------------------------------------------


def test_pixels_row_by_row():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 0, 1], image[0, 2, 3] = 255, 51
    x = to_sequences(image, 1)
    assert (x.shape, x.dtype) == ((1, 784, 1), np.float32)
    grey = x[0, :, 0] * STD + MEAN
    np.testing.assert_allclose(grey[[1, 2 * 28 + 3]], [1, 0.2], rtol=1e-6)
    np.testing.assert_allclose(np.delete(grey, [1, 59]), 0, atol=1e-7)


def test_pooling():
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, :2, 2:4] = [[10, 20], [30, 41]]  # the second square of the first row, with mean 25.25
    image[0, 26:, 26:] = 255  # the last square
    x = to_sequences(image, 2)
    assert x.shape == (1, 196, 1)
    np.testing.assert_allclose(x[0, :3, 0] * STD + MEAN, [0, 25.25 / 255, 0], atol=1e-7)
    assert x[0, -1, 0] == pytest.approx((1 - MEAN) / STD, rel=1e-6)


@pytest.mark.parametrize("pool", [1, 2, 4, 7, 14, 28])
def test_pooling_keeps_the_mean(pool):
    images = idx_arrays()["t10k-images-idx3-ubyte"]
    x = to_sequences(images, pool)
    assert x.shape == (10, (28 // pool) ** 2, 1)
    np.testing.assert_allclose(x.mean(axis=(1, 2)) * STD + MEAN, images.mean(axis=(1, 2)) / 255, rtol=1e-5)


# Loading -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_splits_and_options_of_one_preparation(tmp_path, packed, monkeypatch):
    arrays = idx_arrays()
    folder = write_idx(tmp_path / "files", arrays, packed=packed)
    splits = load(tmp_path / "data", folder)
    images, labels = arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]
    held_out = [11, 23, 35]
    expected = {
        "train": (np.delete(images, held_out, axis=0), np.delete(labels, held_out)),
        "validation": (images[held_out], labels[held_out]),
        "test": (arrays["t10k-images-idx3-ubyte"], arrays["t10k-labels-idx1-ubyte"]),
    }
    assert list(splits) == list(expected)
    for name, split in splits.items():
        assert (inputs(split).dtype, split.lengths.dtype, split.y.dtype) == (np.float32, np.int32, np.int32)
        np.testing.assert_array_equal(inputs(split), to_sequences(expected[name][0], 1))
        np.testing.assert_array_equal(split.y, expected[name][1])
        assert set(split.lengths.tolist()) == {784}
    monkeypatch.setattr(IdxSource, "splits", lambda self: pytest.fail("prepared a second time"))
    pooled = load(tmp_path / "data", str(folder), pool=2, train_examples=30, validation_examples=2)
    assert [inputs(split).shape for split in pooled.values()] == [(30, 196, 1), (2, 196, 1), (10, 196, 1)]
    np.testing.assert_array_equal(pooled["validation"].y, splits["validation"].y[:2])


def test_changed_files_are_read_again_but_packing_does_not_matter(folder, tmp_path):
    before = files("", folder).config_name()
    assert files("", write_idx(tmp_path / "unpacked", idx_arrays(), packed=False)).config_name() == before
    assert files("", write_idx(folder, idx_arrays(seed=1))).config_name() != before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 3}, "pool=3: expected a divisor of 28"),
        ({"pool": 0}, "pool=0: expected a divisor of 28"),
        ({"validation_examples": -1}, "validation_examples=-1: expected at least 0"),
    ],
)
def test_invalid_options_fail_before_preparing(folder, tmp_path, options, message):
    with refused(message):
        load(tmp_path / "data", folder, **options)
    assert not (tmp_path / "data").exists()


def test_missing_files(folder, tmp_path):
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    with refused(r"files: missing train-labels-idx1-ubyte \(with or without .gz\); .*dataset-fashion-mnist.*http://"):
        load(tmp_path / "data", folder)
    with pytest.raises(FileNotFoundError, match=r"nowhere: missing train-images-.*, t10k-images-.*, t10k-labels"):
        load(tmp_path / "data", tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"t10k-labels-idx1-ubyte": np.zeros(9, np.uint8)}, r"t10k-labels-.*: 9 labels for the 10 images in .*t10k-im"),
        ({"t10k-labels-idx1-ubyte": np.array([*range(9), 10], np.uint8)}, r"label 9 is 10; expected 0 to 9"),
        ({"t10k-images-idx3-ubyte": np.zeros((10, 32, 32), np.uint8)}, r"items of shape \(32, 32\); expected \(28, 28"),
        (idx_arrays(train=11), r"train-labels-idx1-ubyte.gz: 11 labels; expected at least 12"),
        (idx_arrays(test=0), r"t10k-labels-idx1-ubyte.gz: 0 labels; expected at least 1"),
    ],
)
def test_invalid_files(folder, tmp_path, changes, message):
    write_idx(folder, changes)
    with refused(message, tmp_path / "data"):
        load(tmp_path / "data", folder)


# The published files -------------------------------------------------------------------------------------------------


def test_download(publish, tmp_path, capsys):
    assert files("", publish).config_name() == files("").config_name() == "published"
    splits = load(tmp_path / "data")
    assert capsys.readouterr().out.count("Fashion-MNIST: downloading ") == 4
    np.testing.assert_array_equal(splits["test"].y, idx_arrays()["t10k-labels-idx1-ubyte"])
    for path in publish.iterdir():
        path.unlink()
    np.testing.assert_array_equal(load(tmp_path / "data")["train"].x, splits["train"].x)


def test_debians_package_avoids_the_download(publish, tmp_path, capsys):
    publish.rename(tmp_path / "debian")
    assert len(load(tmp_path / "data")["test"]) == 10
    printed = capsys.readouterr().out
    assert f"using the files of Debian's package, {tmp_path / 'debian'}" in printed and "downloading" not in printed


@pytest.mark.parametrize("package", [True, False])
def test_files_other_than_the_published(publish, tmp_path, package):
    """The content of files from a package is verified, and every byte of downloaded ones."""
    write_idx(tmp_path / "debian" if package else publish, idx_arrays(seed=1))
    reason = "the SHA-256 of its content is [0-9a-f]{64}" if package else "(SHA256 hash of downloaded|more than its)"
    with refused(rf"train-images-idx3-ubyte.gz: not the published file: {reason}", tmp_path / "data"):
        load(tmp_path / "data")


def test_failed_download(publish, tmp_path):
    (publish / "t10k-images-idx3-ubyte.gz").unlink()
    with refused(r"cannot download http://.*t10k-images.*\.gz \(404 .*\); install Debian's package .*--config\.data"):
        load(tmp_path / "data")


@pytest.mark.skipif(not PUBLISHED.package.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_debians_files_are_the_published_ones():
    """Also check MEAN and STD against them."""
    source = files("", PUBLISHED.package)
    assert source.config_name() == "published"
    images = source.contents["train-images-idx3-ubyte"].parse((28, 28))
    counts = np.bincount(images.ravel(), minlength=256) / images.size
    grey = np.arange(256) / 255
    mean = counts @ grey
    assert mean == pytest.approx(MEAN, abs=1e-4)
    assert np.sqrt(counts @ (grey - mean) ** 2) == pytest.approx(STD, abs=1e-4)
