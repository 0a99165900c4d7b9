"""IMDB: the vocabulary and tokens worked out by hand from the reference's rules, the splits, files that do not fit."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from aire.data.formats.archives import Files
from aire.data.imdb import ARCHIVE, Reviews, load
from aire.data.synthetic import reviews, write_tree
from aire.utils.errors import UserError
from tests.helpers import pack_tree

# Ten reviews of each class, in words what the vocabulary makes of them: o 35 times here and often below; é 20; X and x
# 15, in the order of their code points; n, w and Y fewer than 15 times; q 20 times, but past the 4,095th character.
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


def tokens(split) -> list[list[int]]:
    return [x[:length].tolist() for x, length in zip(split.x, split.lengths, strict=True)]


@pytest.mark.parametrize("packed", [True, False])
def test_tokens_and_splits(tmp_path, packed):
    pack_tree(tmp_path / ARCHIVE.name, TREE) if packed else write_tree(tmp_path, TREE)
    splits = load(tmp_path, source(tmp_path))
    first = [OH, OH, 1] + [LOWER] * 15 + [1] * 14 + [UPPER] * 15 + [2]
    negative, positive = [OH, OH, 2], [ACUTE, OH, ACUTE, 2]
    assert tokens(splits["train"]) == [first, positive] + [negative, positive] * 8
    assert tokens(splits["validation"]) == [negative, [ACUTE, ACUTE] + [OH] * 4093 + [2]]
    assert tokens(splits["test"]) == [[OH, ACUTE] + [1] * 10 + [2], [2]]
    for name, n in (("train", 18), ("validation", 2), ("test", 2)):
        split = splits[name]
        assert (split.x.shape, split.x.dtype, split.lengths.dtype) == ((n, 4096), np.uint8, np.int32)
        assert split.y.tolist() == [0, 1] * (n // 2)
        assert not split.x[np.arange(4096) >= split.lengths[:, None]].any()


def test_validation_as_in_the_references(tmp_path):
    write_tree(tmp_path, TREE)
    ours, theirs = (load(tmp_path, source(tmp_path), validate_on_test=choice) for choice in (False, True))
    assert tokens(theirs["train"]) == tokens(ours["train"]) + tokens(ours["validation"])
    assert tokens(theirs["validation"]) == tokens(theirs["test"]) == tokens(ours["test"])


def test_shorter_sequences_and_fewer_examples(tmp_path):
    write_tree(tmp_path, TREE)
    splits = load(tmp_path, source(tmp_path), length=3, train_examples=3, test_examples=50)
    assert tokens(splits["train"]) == [[OH, OH, 2], [ACUTE, OH, 2], [OH, OH, 2]]
    assert [len(split) for split in splits.values()] == [3, 2, 2]


def test_numbers_not_names_give_the_order(tmp_path):
    """The review 9 stands before 10; validation takes the highest."""
    tree = reviews(train=30)
    texts = [load(pack_tree(tmp_path / "packed" / ARCHIVE.name, tree), source(tmp_path / "packed"), length=80)]
    texts += [load(write_tree(tmp_path / "tree", tree), source(tmp_path / "tree"), length=80)]
    for name in texts[0]:
        np.testing.assert_array_equal(texts[0][name].x, texts[1][name].x)
    lengths = [min(len(tree[f"aclImdb/train/{c}_{r}.txt"].decode()) + 1, 80) for c, r in held_out(30)]
    assert texts[0]["validation"].lengths.tolist() == lengths


def held_out(n: int) -> list[tuple[str, int]]:
    return [(f"{label}/{i}", r) for i, (label, r) in itertools.product(range(n - n // 10, n), (("neg", 2), ("pos", 9)))]


@pytest.mark.parametrize("length", [1, 4097])
def test_bad_length(tmp_path, length):
    with pytest.raises(UserError, match=f"IMDB: length={length}: expected 2 to 4,096"):
        load(tmp_path, source(tmp_path), length=length)


def test_bad_number_of_examples(tmp_path):
    with pytest.raises(UserError, match="IMDB: test_examples=-1: expected at least 0, which means all"):
        load(tmp_path, source(tmp_path), test_examples=-1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aclImdb/train/pos/3_10.txt": b"caf\xe9"}, "IMDB: train/pos/3_10.txt is not UTF-8"),
        (
            {f"aclImdb/train/neg/{i}_1.txt": None for i in range(8)},
            "IMDB: 2 reviews in train/neg; expected at least 10",
        ),
        ({"aclImdb/test/neg/7_3.txt": None}, "IMDB: 0 reviews in test/neg; expected at least 1"),
        (
            {"aclImdb/train/pos/0_10.txt": ("".join(map(chr, range(65, 198))) * 15).encode()},
            "IMDB: 134 different characters occur at least 15 times .* at most 135 are expected",
        ),
    ],
)
def test_files_that_do_not_fit(tmp_path, changes, message):
    tree = {name: content for name, content in (TREE | changes).items() if content is not None}
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path, source(write_tree(tmp_path, tree)))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("imdb/*/1.0.0")), "data from files that do not fit was kept"


def test_nothing_there_says_what_is_needed(tmp_path):
    with pytest.raises(
        UserError, match=r"no files of IMDB in it; needed: aclImdb_v1.tar.gz, 84.1 MB; get it from http"
    ):
        load(tmp_path / "data", source(tmp_path))
    archive = pack_tree(tmp_path / "cut" / ARCHIVE.name, TREE) / ARCHIVE.name
    archive.write_bytes(archive.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"aclImdb_v1.tar.gz: damaged or no tar archive"):
        load(tmp_path / "data", source(archive.parent))
