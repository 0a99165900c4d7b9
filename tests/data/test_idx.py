"""The idx format: bytes written by hand, and damaged files."""

import gzip

import numpy as np
import pytest

from aire.data.formats.idx import IdxFile, unpack
from tests.helpers import refused

LABELS = bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 0, 9])
IMAGES = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3, *range(1, 13)])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(pack):
    assert unpack(pack(LABELS), "labels").parse(()).tolist() == [7, 0, 9]
    images = unpack(pack(IMAGES), "images").parse((2, 3))
    np.testing.assert_array_equal(images, np.arange(1, 13, dtype=np.uint8).reshape(2, 2, 3), strict=True)


@pytest.mark.parametrize(
    ("content", "item", "message"),
    [
        (b"", (), "begins with nothing; expected an idx file that begins with 00 00 08 01"),
        (b"\x00\x00", (), "begins with 00 00; expected"),
        (b"<htm" + LABELS, (), "begins with 3c 68 74 6d; expected"),
        (bytes([0, 0, 13]) + LABELS[3:], (), "begins with 00 00 0d 01; expected"),  # floats
        (LABELS, (2, 3), "begins with 00 00 08 01; expected an idx file that begins with 00 00 08 03"),
        (IMAGES[:15], (2, 3), "15 bytes, but the header needs 16: truncated"),
        (IMAGES, (28, 28), r"items of shape \(2, 3\); expected \(28, 28\)"),
        (IMAGES[:-1], (2, 3), "expected 28 bytes for 2 items, found 27; it is damaged"),
        (IMAGES + b"\x00", (2, 3), "expected 28 bytes for 2 items, found 29; it is damaged"),
        (LABELS[:4] + b"\xff" * 4 + LABELS[8:], (), "expected 4,294,967,303 bytes for 4,294,967,295 items, found 11"),
    ],
)
def test_invalid_idx(content, item, message):
    with refused(f"^some file: {message}"):
        IdxFile("some file", content).parse(item)


@pytest.mark.parametrize("damage", ["cut", "header", "flip", "trailer"])
def test_damaged_gzip(damage):
    packed = bytearray(gzip.compress(bytes(range(200))))
    match damage:
        case "cut":
            del packed[-12:]
        case "header":
            packed[2] = 99
        case "flip":
            packed[20] ^= 255
        case "trailer":
            packed += b"more"
    with refused(r"^some file: cannot be unpacked \(.*get it again$"):
        unpack(bytes(packed), "some file")


def test_files_that_unpack_to_much_more_are_refused():
    """150 MB of zeros as many gzip streams, of which only what is allowed is unpacked."""
    packed = gzip.compress(bytes(1_000_000)) * 150
    with refused(r"^some file: refused, because it unpacks to more than .* bytes, 10 times its own size"):
        unpack(packed, "some file")
