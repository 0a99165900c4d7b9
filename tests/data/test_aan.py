"""AAN: tokens computed by hand from the reference's rules, folder layouts, invalid files."""

from pathlib import Path

import numpy as np
import pytest

from aire.data.aan import Release, load
from aire.data.synthetic import write_tree
from tests.helpers import refused

# Texts in the release are bytes literals, which are not evaluated. Counts of the characters in the training texts: ' 7,
# \ and b 4, a 3, n and " 2, t 1. Ties are ordered by code point.
ROWS = {
    "train": "1.0\tA00-1\tB00-2\tb'a\\n'\tb'\\\\'\n0.0\tA00-1\tC00-3\tb\"'\"\tb'aan\\t'\n",
    "eval": "0.0\tA00-1\tB00-2\tb''\tb'z'\n",
    "test": f"1.0\tA00-1\tB00-2\tb'{'a' * 5000}'\tb'{'a' * 3996}'\n",
}


def write(folder: Path, rows: dict[str, str] = ROWS) -> Path:
    return write_tree(folder, {f"new_aan_pairs.{stem}.tsv": text.encode() for stem, text in rows.items()})


def tokens(split) -> list[list[list[int]]]:
    pairs = zip(split.x, split.lengths, strict=True)
    return [[x[:n].tolist() for x, n in zip(texts, lengths, strict=True)] for texts, lengths in pairs]


def test_tokens(tmp_path):
    splits = load(tmp_path, Release(write(tmp_path)))
    apostrophe, backslash, b, a, quote, n, t = range(3, 10)
    start = [b, apostrophe]
    assert tokens(splits["train"]) == [
        [[*start, a, backslash, n, apostrophe, 2], [*start, backslash, backslash, apostrophe, 2]],
        [[b, quote, apostrophe, quote, 2], [*start, a, a, n, backslash, t, apostrophe, 2]],
    ]
    assert tokens(splits["validation"]) == [[[*start, apostrophe, 2], [*start, 1, apostrophe, 2]]]
    assert tokens(splits["test"]) == [[start + [a] * 3997 + [2], [*start, *[a] * 3996, apostrophe, 2]]]
    assert [split.y.tolist() for split in splits.values()] == [[1, 0], [0], [1]]
    assert splits["train"].x.shape == (2, 2, 4000) and splits["train"].x.dtype == np.uint8


@pytest.mark.parametrize("subfolder", ["tsv_data", "lra_release/tsv_data", "lra_release/lra_release/tsv_data"])
def test_unpacked_release(tmp_path, subfolder):
    write(tmp_path / subfolder)
    batch = load(tmp_path, Release(tmp_path), length=8)["train"].take(np.array([1, 0]))
    assert batch["lengths"].tolist() == [[5, 8], [7, 6]] and batch["y"].tolist() == [0, 1]
    assert batch["x"].shape == (2, 2, 8)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"eval.tsv: the file has no pairs"),
        ("1.0\ta\tb\tb'x'\n", r"line 1: expected 5 tab-separated columns .* found 4"),
        (ROWS["train"] + "0.0\ta\tb\tb'x'\tb'trunc", r"line 3: text \"b'trunc\"….* not a Python bytes .* truncated\?"),
        ("0.0\ta\tb\tb'\tb'x'\n", r"line 1: text .* is not a Python bytes literal"),
        ("0.0\ta\tb\tplain\tb'x'\n", r"line 1: text 'plain'….* is not a Python bytes literal"),
        ("2.0\ta\tb\tb'x'\tb'x'\n", r"line 1: label '2.0'; expected 0.0 or 1.0"),
        ("0.0\ta\tb\tb'\udcff'\tb'x'\n", r"new_aan_pairs.eval.tsv, after line 0: not UTF-8"),
    ],
)
def test_invalid_files(tmp_path, text, message):
    (write(tmp_path) / "new_aan_pairs.eval.tsv").write_bytes(text.encode(errors="surrogateescape"))
    with refused(message, tmp_path / "data"):
        load(tmp_path / "data", Release(tmp_path))


def test_too_many_characters(tmp_path):
    write(tmp_path, ROWS | {"train": f"0.0\ta\tb\tb'{''.join(map(chr, range(0x20, 0x100)))}'\tb'x'\n"})
    with refused(r"AAN: 224 different characters .* at most 98 are expected"):
        load(tmp_path / "data", Release(tmp_path))


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("", r"^AAN: no folder given; needed: new_aan_pairs.train.tsv, .* \(7.7 GB.*data.folder=FOLDER"),
        (
            "nowhere",
            r"nowhere: missing new_aan_pairs.train.tsv, new_aan_pairs.eval.tsv, new_aan_pairs.test.tsv; needed",
        ),
        ("incomplete", r"tsv_data: missing new_aan_pairs.test.tsv;"),
    ],
)
def test_missing_files(tmp_path, folder, message):
    (write(tmp_path / "incomplete/tsv_data") / "new_aan_pairs.test.tsv").unlink()
    with refused(message):
        load(tmp_path / "data", Release(folder and tmp_path / folder))
