"""IMDB: vocabulary and tokens computed by hand from the reference's rules, the splits, invalid files."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from aire.data.formats.archives import Files
from aire.data.imdb import ARCHIVE, Reviews, load
from aire.data.synthetic import reviews, write_tree
from tests.data.helpers import sequences
from tests.helpers import pack_tree, refused

# Ten reviews per class. Counts: o at least 35; é 20; X and x 15 (ordered by code point); n, w and Y fewer than 15.
# q occurs 20 times, but only after the 4,095th character.
NEGATIVE = ["oon" + "x" * 15 + "w" * 14 + "X" * 15] + ["oo"] * 9
POSITIVE = ["éoé"] * 9 + ["éé" + "o" * 4093 + "q" * 20]
OH, ACUTE, UPPER, LOWER = 3, 4, 5, 6
TREE = (
    {f"aclImdb/train/neg/{i}_1.txt": text.encode() for i, text in enumerate(NEGATIVE)}
    | {f"aclImdb/train/pos/{i}_10.txt": text.encode() for i, text in enumerate(POSITIVE)}
    | {"aclImdb/test/pos/7_8.txt": b"", "aclImdb/test/neg/7_3.txt": "oéqO\n\t<br />".encode()}
)


def source(folder: Path) -> Reviews:
    return Reviews(Files(ARCHIVE, folder, folder))


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_and_splits(tmp_path, packed):
    pack_tree(tmp_path / ARCHIVE.name, TREE) if packed else write_tree(tmp_path, TREE)
    splits = load(tmp_path, source(tmp_path))
    first = [OH, OH, 1] + [LOWER] * 15 + [1] * 14 + [UPPER] * 15 + [2]
    negative, positive = [OH, OH, 2], [ACUTE, OH, ACUTE, 2]
    assert sequences(splits["train"]) == [first, positive] + [negative, positive] * 8
    assert sequences(splits["validation"]) == [negative, [ACUTE, ACUTE] + [OH] * 4093 + [2]]
    assert sequences(splits["test"]) == [[OH, ACUTE] + [1] * 10 + [2], [2]]
    for name, n in (("train", 18), ("validation", 2), ("test", 2)):
        split = splits[name]
        assert (split.x.shape, split.x.dtype, split.lengths.dtype) == ((n, 4096), np.uint8, np.int32)
        assert split.y.tolist() == [0, 1] * (n // 2)
        assert not split.x[np.arange(4096) >= split.lengths[:, None]].any()


def test_options(tmp_path):
    """All options use the same prepared dataset."""
    folder = source(write_tree(tmp_path, TREE))
    ours, theirs = (load(tmp_path, folder, validate_on_test=choice) for choice in (False, True))
    assert sequences(theirs["train"]) == sequences(ours["train"]) + sequences(ours["validation"])
    assert sequences(theirs["validation"]) == sequences(theirs["test"]) == sequences(ours["test"])
    splits = load(tmp_path, folder, length=3, train_examples=3, test_examples=50)
    assert sequences(splits["train"]) == [[OH, OH, 2], [ACUTE, OH, 2], [OH, OH, 2]]
    assert [len(split) for split in splits.values()] == [3, 2, 2]


def test_reviews_are_ordered_by_number(tmp_path):
    """Review 9 comes before 10, packed or not. The validation split has the highest numbers."""
    tree = reviews(train=30)
    packed = load(pack_tree(tmp_path / "packed" / ARCHIVE.name, tree), source(tmp_path / "packed"), length=80)
    unpacked = load(write_tree(tmp_path / "tree", tree), source(tmp_path / "tree"), length=80)
    for name in packed:
        np.testing.assert_array_equal(packed[name].x, unpacked[name].x)
    held_out = [f"{c}/{i}_{r}" for i, (c, r) in itertools.product(range(27, 30), (("neg", 2), ("pos", 9)))]
    lengths = [min(len(tree[f"aclImdb/train/{name}.txt"].decode()) + 1, 80) for name in held_out]
    assert packed["validation"].lengths.tolist() == lengths


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 1}, "IMDB: length=1: expected 2 to 4,096"),
        ({"length": 4097}, "IMDB: length=4097: expected 2 to 4,096"),
        ({"test_examples": -1}, "IMDB: test_examples=-1: expected at least 0, which means all"),
    ],
)
def test_invalid_options(tmp_path, options, message):
    with refused(message):
        load(tmp_path, source(tmp_path), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train/pos/3_10.txt": b"caf\xe9"}, "IMDB: train/pos/3_10.txt is not UTF-8"),
        ({f"train/neg/{i}_1.txt": None for i in range(8)}, "IMDB: 2 reviews in train/neg; expected at least 10"),
        ({"test/neg/7_3.txt": None}, "IMDB: 0 reviews in test/neg; expected at least 1"),
        (
            {"train/pos/0_10.txt": ("".join(map(chr, range(65, 198))) * 15).encode()},
            "IMDB: 134 different characters occur at least 15 times .* at most 135 are expected",
        ),
    ],
)
def test_invalid_files(tmp_path, changes, message):
    tree = TREE | {f"aclImdb/{name}": content for name, content in changes.items()}
    write_tree(tmp_path, {name: content for name, content in tree.items() if content is not None})
    with refused(message, tmp_path):
        load(tmp_path, source(tmp_path))


def test_missing_files(tmp_path):
    with refused(r"no files of IMDB in it; needed: aclImdb_v1.tar.gz, 84.1 MB; get it from http"):
        load(tmp_path / "data", source(tmp_path))
    archive = pack_tree(tmp_path / "cut" / ARCHIVE.name, TREE) / ARCHIVE.name
    archive.write_bytes(archive.read_bytes()[:-50])
    with refused(r"aclImdb_v1.tar.gz: damaged or not a tar archive"):
        load(tmp_path / "data", source(archive.parent))
