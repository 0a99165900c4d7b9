"""AAN: tokens worked out by hand from the reference's rules, where the files may lie, files that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from aire.data.aan import Release, load
from aire.data.synthetic import pairs, write_tree
from aire.utils.errors import UserError

# As the release has them: literals of bytes, which stay literals. The training texts' characters: ' 5 times, a 3, \ 3,
# b 3 + 1, n 2, " 2, so, by code point where equally frequent: ' b \ a " n t.
ROWS = {
    "train": "1.0\tA00-1\tB00-2\tb'a\\n'\tb'\\\\'\n0.0\tA00-1\tC00-3\tb\"'\"\tb'aan\\t'\n",
    "eval": "0.0\tA00-1\tB00-2\tb''\tb'z'\n",
    "test": f"1.0\tA00-1\tB00-2\tb'{'a' * 5000}'\tb'{'a' * 3996}'\n",
}


def write(folder: Path, rows: dict[str, str] = ROWS) -> Path:
    return write_tree(folder, {f"new_aan_pairs.{stem}.tsv": text.encode() for stem, text in rows.items()})


def tokens(split) -> list[list[list[int]]]:
    both = zip(split.x, split.lengths, strict=True)
    return [[x[:n].tolist() for x, n in zip(texts, lengths, strict=True)] for texts, lengths in both]


def test_tokens(tmp_path):
    # b 4, ' 7, a 3, \ 4, n 2, t 1, " 2
    splits = load(tmp_path, Release(write(tmp_path)))
    apostrophe, backslash, b, a, quote, n, t = range(3, 10)
    opening = [b, apostrophe]
    assert tokens(splits["train"]) == [
        [[*opening, a, backslash, n, apostrophe, 2], [*opening, backslash, backslash, apostrophe, 2]],
        [[b, quote, apostrophe, quote, 2], [*opening, a, a, n, backslash, t, apostrophe, 2]],
    ]
    assert tokens(splits["validation"]) == [[[*opening, apostrophe, 2], [*opening, 1, apostrophe, 2]]]
    assert tokens(splits["test"]) == [[opening + [a] * 3997 + [2], [*opening, *[a] * 3996, apostrophe, 2]]]
    assert [split.y.tolist() for split in splits.values()] == [[1, 0], [0], [1]]
    assert splits["train"].x.shape == (2, 2, 4000) and splits["train"].x.dtype == np.uint8


@pytest.mark.parametrize("below", ["tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data"])
def test_the_release_itself_is_a_folder_too(tmp_path, below):
    write(tmp_path / below)
    assert load(tmp_path, Release(tmp_path), length=8)["train"].lengths.tolist() == [[7, 6], [5, 8]]


def test_two_documents_to_a_batch(tmp_path):
    batch = load(tmp_path, Release(write(tmp_path)), length=9)["train"].take(np.array([1, 0]))
    assert batch["lengths"].tolist() == [[5, 9], [7, 6]] and batch["y"].tolist() == [0, 1]
    assert batch["x"].shape == (2, 2, 9)


def test_changed_files_are_read_anew(tmp_path):
    before = Release(write(tmp_path)).config_name()
    assert Release(tmp_path).config_name() == before
    assert Release(write(tmp_path, ROWS | {"eval": ROWS["train"]})).config_name() != before


def test_fewer_examples(tmp_path):
    splits = load(tmp_path, Release(write_tree(tmp_path, pairs())), length=50, train_examples=7, test_examples=5)
    assert [len(split) for split in splits.values()] == [7, 40, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"eval.tsv: the file has no pairs"),
        ("1.0\ta\tb\tb'x'\n", r"line 1: expected 5 tab-separated columns .* found 4"),
        (
            ROWS["train"] + "0.0\ta\tb\tb'x'\tb'trunc",
            r"line 3: text \"b'trunc\"….* is not a Python bytes literal, .* truncated\?",
        ),
        ("0.0\ta\tb\tb'\tb'x'\n", r"line 1: text .* is not a Python bytes literal"),
        ("0.0\ta\tb\tplain\tb'x'\n", r"line 1: text 'plain'….* is not a Python bytes literal"),
        ("2.0\ta\tb\tb'x'\tb'x'\n", r"line 1: label '2.0'; expected 0.0 or 1.0"),
    ],
)
def test_files_that_do_not_fit(tmp_path, text, message):
    write(tmp_path, ROWS | {"eval": text})
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "data", Release(tmp_path))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("data/aan/*/1.0.0")), "data from files that do not fit was kept"


def test_other_bytes_than_text(tmp_path):
    (write(tmp_path) / "new_aan_pairs.test.tsv").write_bytes(b"0.0\ta\tb\tb'\xff'\tb'x'\n")
    with pytest.raises(UserError, match=r"new_aan_pairs.test.tsv, after line 0: not UTF-8"):
        load(tmp_path / "data", Release(tmp_path))


def test_more_characters_than_ascii_has(tmp_path):
    write(tmp_path, ROWS | {"train": f"0.0\ta\tb\tb'{''.join(map(chr, range(0x20, 0x100)))}'\tb'x'\n"})
    with pytest.raises(UserError, match=r"AAN: 224 different characters .* at most 98 are expected"):
        load(tmp_path / "data", Release(tmp_path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            False,
            r"^AAN: no folder given; needed: new_aan_pairs.train.tsv, .* lra_release.gz \(7.7 GB.*data.folder=FOLDER",
        ),
        (True, r"nowhere: missing new_aan_pairs.train.tsv, new_aan_pairs.eval.tsv, new_aan_pairs.test.tsv; needed: "),
    ],
)
def test_nothing_there_says_what_is_needed(tmp_path, given, message):
    with pytest.raises(UserError, match=message) as error:
        load(tmp_path / "data", Release(tmp_path / "nowhere" if given else ""))
    assert "\n" not in str(error.value)


def test_one_file_missing(tmp_path):
    (write(tmp_path / "tsv_data") / "new_aan_pairs.test.tsv").unlink()
    with pytest.raises(UserError, match=r"tsv_data: missing new_aan_pairs.test.tsv;"):
        load(tmp_path / "data", Release(tmp_path))
