"""CIFAR-10 in its two public formats: values, grey, the references' normalisation, pickles that are never executed."""

import dataclasses
import pickle
import struct

import numpy as np
import PIL.Image
import pytest

from aire.data import cifar10
from aire.data.cifar10 import CifarSource, load, parse_pickle, to_grey
from aire.data.formats import pickled
from aire.data.splits import held_out
from aire.data.synthetic import binary_batch, cifar_batches, write_tree
from aire.utils import digests
from aire.utils.errors import UserError
from tests.data.helpers import inputs
from tests.helpers import pack_tree, refused, write_cifar

BATCHES = cifar_batches()


# The Python version, as written by Python 2's cPickle -----------------------------------------------------------------


def short(text: bytes) -> bytes:
    return b"U" + bytes([len(text)]) + text


def pickled_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Encode a dict of batch_label, labels, data and filenames, operation by operation (protocol 2)."""
    integers = b"".join(b"K" + bytes([label]) for label in labels.tolist())
    names = b"".join(short(b"image_%d.png" % i) for i in range(len(labels)))
    raw = images.tobytes()
    parts = [
        b"\x80\x02}q\x01(" + short(b"batch_label") + b"q\x02" + short(b"training batch 1 of 5") + b"q\x03",
        short(b"labels") + b"q\x04]q\x05(" + integers + b"e",
        short(b"data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08",
        b"K\x00\x85q\x09" + short(b"b") + b"q\x0a\x87q\x0bRq\x0c(K\x01M" + struct.pack("<H", len(labels)),
        b"M\x00\x0c\x86q\x0dcnumpy\ndtype\nq\x0e" + short(b"u1") + b"q\x0fK\x00K\x01\x87q\x10Rq\x11",
        b"(K\x03" + short(b"|") + b"q\x12NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x13b\x89T",
        struct.pack("<i", len(raw)) + raw + b"r\x00\x01\x00\x00tq\x14b",
        short(b"filenames") + b"q\x15]q\x16(" + names + b"eu.",
    ]
    return b"".join(parts)


PYTHON_TREE = {f"cifar-10-batches-py/{name}": pickled_batch(*batch) for name, batch in BATCHES.items()}
PYTHON_TREE["cifar-10-batches-py/batches.meta"] = b"ignored"


def test_the_fixture_is_a_pickle():
    images, labels = BATCHES["test_batch"]
    batch = pickle.loads(pickled_batch(images, labels), encoding="latin1")
    np.testing.assert_array_equal(batch["data"], images.reshape(10, 3072))
    assert batch["labels"] == labels.tolist() and batch["filenames"][9] == "image_9.png"


@pytest.mark.parametrize("call", ["cos\nsystem\n(U\x0ctouch hackedtR.", "c__builtin__\neval\n(U\x011tR."])
def test_calls_are_recorded_and_not_executed(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = pickled.parse(b"\x80\x02" + call.encode())
    assert isinstance(found, pickled.Call) and len(found.arguments) == 1
    assert not list(tmp_path.iterdir())
    with refused("some file: not a batch of CIFAR-10"):
        parse_pickle(b"\x80\x02" + call.encode(), "some file")


def test_a_list_among_the_labels_is_refused():
    """Nested lists that share their parts would become an array of any size."""
    batch = pickled_batch(*BATCHES["test_batch"])
    start = batch.index(b"]q\x05(") + 4
    with refused("its labels are not a list of integers"):
        parse_pickle(batch[:start] + b"]" + batch[start + 2 :], "some file")


def test_damaged_pickles():
    """A truncated pickle gives one clear error. Flipped bits give an error or arrays of the same shape."""
    full = pickled_batch(*BATCHES["data_batch_1"])
    for end in (*range(0, 300, 7), len(full) // 2, len(full) - 1):
        with refused("some file: not a batch of CIFAR-10"):
            parse_pickle(full[:end], "some file")
    for place in range(300):
        for flip in (0x01, 0x55, 0xFF):
            damaged = bytearray(full)
            damaged[place] ^= flip
            try:
                images, labels = parse_pickle(bytes(damaged), "some file")
            except UserError:
                continue
            assert (images.shape, labels.shape) == ((4, 32, 32, 3), (4,))


def test_wrong_arrays():
    images, labels = BATCHES["data_batch_1"]
    with refused(r"not a batch of CIFAR-10 \(data of shape"):
        parse_pickle(pickled_batch(images, labels).replace(b"M\x04\x00M\x00\x0c", b"M\x00\x0cM\x04\x00"), "some file")
    with refused("expected an array of unsigned bytes"):
        parse_pickle(pickled_batch(images, labels).replace(b"U\x02u1", b"U\x02i1"), "some file")


# Grey and colour -----------------------------------------------------------------------------------------------------


def test_grey_equals_pillows():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 32, 32, 3), np.uint8)
    expected = [np.array(PIL.Image.fromarray(image).convert("L")) for image in images]
    np.testing.assert_array_equal(to_grey(images), expected)


def test_grey_by_hand():
    colours = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    assert to_grey(colours[None, None]).tolist() == [[[0, 255, 76, 150, 29]]]


def planes(name: str) -> np.ndarray:
    """Return the images of a batch row by row, (n, 1024, 3)."""
    return BATCHES[name][0].reshape(-1, 3, 1024).transpose(0, 2, 1)


def test_colour(tmp_path):
    splits = load(tmp_path / "data", write_cifar(tmp_path / "files", BATCHES), grey=False)
    mask = held_out(20)
    assert mask.sum() == 2
    pixels = np.concatenate([planes(f"data_batch_{i}") for i in range(1, 6)])
    labels = np.concatenate([BATCHES[f"data_batch_{i}"][1] for i in range(1, 6)])
    mean, std = [0.4914, 0.4822, 0.4465], [0.247, 0.243, 0.261]
    for name, values, classes in (
        ("train", pixels[~mask], labels[~mask]),
        ("validation", pixels[mask], labels[mask]),
        ("test", planes("test_batch"), BATCHES["test_batch"][1]),
    ):
        x = inputs(splits[name])
        assert (x.shape, x.dtype, splits[name].x.dtype) == ((len(classes), 1024, 3), np.float32, np.uint8)
        np.testing.assert_allclose(x, (values / 255 - mean) / std, atol=2e-6)
        np.testing.assert_array_equal(splits[name].y, classes)


def test_image(tmp_path):
    splits = load(tmp_path / "data", write_cifar(tmp_path / "files", BATCHES), grey=True)
    red, green, blue = np.moveaxis(planes("test_batch").astype(np.float64), -1, 0)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    x = inputs(splits["test"])
    assert (x.shape, x.dtype) == ((10, 1024, 1), np.float32)
    np.testing.assert_allclose(x[..., 0] * 61.0 + 122.6, grey, atol=0.51)  # 0.5 for rounding to a byte


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [True, False])
def test_both_versions_give_the_same_data(tmp_path, packed):
    binary = load(tmp_path / "data", write_cifar(tmp_path / "binary", BATCHES), grey=False)
    folder = tmp_path / "python"
    pack_tree(folder / "cifar-10-python.tar.gz", PYTHON_TREE) if packed else write_tree(folder, PYTHON_TREE)
    assert CifarSource(tmp_path, folder).config_name().startswith("python_folder_")
    python = load(tmp_path / "data", folder, grey=False)
    for name, split in binary.items():
        np.testing.assert_array_equal(split.x, python[name].x)
        np.testing.assert_array_equal(split.y, python[name].y)


def test_unpacked_folder_and_options_of_one_preparation(tmp_path, monkeypatch):
    tree = {f"cifar-10-batches-bin/{name}.bin": binary_batch(*batch) for name, batch in BATCHES.items()}
    full = load(tmp_path / "data", write_tree(tmp_path, tree), grey=False)
    monkeypatch.setattr(CifarSource, "splits", lambda self: pytest.fail("prepared a second time"))
    pooled = load(tmp_path / "data", tmp_path / "cifar-10-batches-bin", grey=True, pool=4, validation_examples=1)
    assert inputs(pooled["validation"]).shape == (1, 64, 1)
    np.testing.assert_array_equal(pooled["test"].x, to_grey(full["test"].x))


NEEDED = r"needed: cifar-10-binary.tar.gz, 170.1 MB; get it from https://www.cs.tor.*=FOLDER$"


@pytest.mark.parametrize(
    ("damage", "message"),
    [("missing batch", "files: missing data_batch_1; " + NEEDED), ("empty", NEEDED), ("truncated", NEEDED)],
)
def test_missing_files(tmp_path, damage, message):
    names = list(BATCHES)[1:] if damage == "missing batch" else BATCHES
    archive = write_cifar(tmp_path / "files", {name: BATCHES[name] for name in names}) / "cifar-10-binary.tar.gz"
    if damage == "empty":
        archive.unlink()
    if damage == "truncated":
        archive.write_bytes(archive.read_bytes()[:-1000])
    with refused(message, tmp_path / "data"):
        load(tmp_path / "data", archive.parent, grey=True)


def test_invalid_batches(tmp_path):
    images, labels = BATCHES["data_batch_3"]
    folder = write_cifar(tmp_path / "files", {**BATCHES, "data_batch_3": (images, labels + 10)})
    with refused(r"data batches: label 8 is 1\d; expected 0 to 9", tmp_path / "data"):
        load(tmp_path / "data", folder, grey=True)
    with refused(r"test_batch.bin: 3,074 bytes, not a multiple of 3,073: the file is damaged"):
        cifar10.parse_binary(bytes(3074), "test_batch.bin")


def test_download(tmp_path, monkeypatch, serve):
    path = write_cifar(tmp_path / "public", BATCHES) / "cifar-10-binary.tar.gz"
    fields = {"url": f"{serve(path.parent)}/{path.name}", "sha256": digests.of_file(path), "size": path.stat().st_size}
    monkeypatch.setattr(cifar10, "BINARY", dataclasses.replace(cifar10.BINARY, **fields))
    splits = load(tmp_path / "data", grey=True)
    assert (tmp_path / "data/downloads/cifar-10-binary.tar.gz").is_file()
    path.unlink()
    np.testing.assert_array_equal(load(tmp_path / "data", grey=True)["train"].x, splits["train"].x)
