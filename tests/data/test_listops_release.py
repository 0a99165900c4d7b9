"""The release of ListOps: the examples, and damaged files."""

import csv
from pathlib import Path

import pytest

from aire.data.listops import MAX_LENGTH, Release, load
from tests.data.helpers import sequences, tokens_of
from tests.helpers import refused

ROWS = {  # values computed by hand; parentheses as in the release
    "train": [
        ("( ( ( [MAX 4 ) 9 ) ] )", 9),
        ("( ( ( ( [MED 1 ) 2 ) ( ( ( [SM 8 ) 7 ) ] ) ) ] )", 2),  # the median of 1, 2, 5
        ("( ( ( [MED 2 ) 5 ) ] )", 3),  # 3.5, rounded down
    ],
    "val": [("7", 7)],
    "test": [("( ( ( ( [MIN 6 ) 3 ) ( ( ( [MAX 0 ) 4 ) ] ) ) ] )", 3)],
}


@pytest.fixture
def release(tmp_path) -> Path:
    folder = tmp_path / "listops-1000"
    folder.mkdir()
    for name, rows in ROWS.items():
        with open(folder / f"basic_{name}.tsv", "w", newline="") as file:
            csv.writer(file, delimiter="\t").writerows([("Source", "Target"), *rows])
    return folder


def test_release(release, tmp_path):
    splits = load(tmp_path / "data", Release(release), length=12)
    assert [tokens_of(s) for s in sequences(splits["train"])] == [
        ["[MAX", "4", "9", "]", "<eos>"],
        ["[MED", "1", "2", "[SM", "8", "7", "]", "]", "<eos>"],
        ["[MED", "2", "5", "]", "<eos>"],
    ]
    assert splits["train"].x[0].tolist() == [14, 8, 13, 3, 2, 0, 0, 0, 0, 0, 0, 0]
    assert splits["train"].lengths.tolist() == [5, 9, 5]
    assert splits["train"].y.tolist() == [9, 2, 3]
    assert [tokens_of(s) for s in sequences(splits["validation"])] == [["7", "<eos>"]]
    assert (splits["validation"].y.tolist(), splits["test"].y.tolist()) == ([7], [3])


def test_release_with_quotes(release, tmp_path):
    """Some writers quote all fields; the csv module reads them."""
    with open(release / "basic_val.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([("Source", "Target"), ("8", 8)])
    assert load(tmp_path / "data", Release(release), length=12)["validation"].y.tolist() == [8]


def test_changed_files_are_read_again(release, tmp_path):
    load(tmp_path / "data", Release(release), length=12)
    (release / "basic_val.tsv").write_text("Source\tTarget\n5\t5\n")
    assert load(tmp_path / "data", Release(release), length=12)["validation"].y.tolist() == [5]


@pytest.mark.parametrize("longest", [MAX_LENGTH - 1, MAX_LENGTH])
def test_maximum_length(release, tmp_path, longest):
    source = "[SM " + "1 " * (longest - 2) + "]"
    (release / "basic_test.tsv").write_text(f"Source\tTarget\n1\t1\n{source}\t{(longest - 2) % 10}\n")
    if longest < MAX_LENGTH:
        assert load(tmp_path / "data", Release(release), length=MAX_LENGTH)["test"].lengths.tolist() == [2, MAX_LENGTH]
    else:
        with refused(r"basic_test.tsv, line 3: 2049 tokens .* maximum is 2048"):
            load(tmp_path / "data", Release(release), length=4096)


def test_sequences_that_exceed_the_length(release, tmp_path):
    with refused(r"'train', example 1: 9 tokens exceed the length 8"):
        load(tmp_path / "data", Release(release), length=8)


def test_missing_files(release, tmp_path):
    with refused(r"nowhere: missing basic_train.tsv, basic_val.tsv, basic_test.tsv; .*lra_rel"):
        load(tmp_path / "data", Release(tmp_path / "nowhere"), length=12)
    (release / "basic_val.tsv").unlink()
    with refused(r"missing basic_val.tsv; expected the folder listops-1000"):
        load(tmp_path / "data", Release(release), length=12)


GOOD = "Source\tTarget\r\n1\t1\r\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + "( ( ( [MAX 1 ) 2", r"line 3: the file ends within this line"),
        (GOOD + "2\t2", r"line 3: the file ends within this line"),
        ("", r"line 1: the file ends within this line"),
        ("Source\tTarget\r\n", r"line 2: no examples"),
        ("1\t1\r\n2\t2\r\n", r"line 1: expected the header Source, Target; found \['1', '1'\]"),
        (GOOD + "[MAX 1 2 ]\r\n", r"line 3: expected 2 tab-separated columns, found 1"),
        (GOOD + "1\t2\t3\r\n", r"line 3: expected 2 tab-separated columns, found 3"),
        (GOOD + "[MAX 1 2\t2\r\n", r"line 3: the brackets do not form one complete expression"),
        (GOOD + "1 ]\t2\r\n", r"line 3: the brackets do not form one complete expression"),
        (GOOD + "] [MAX\t2\r\n", r"line 3: the brackets do not form one complete expression"),
        (GOOD + "1 2\t2\r\n", r"line 3: the brackets do not form one complete expression"),
        (GOOD + "\t2\r\n", r"line 3: the brackets do not form one complete expression"),
        (GOOD + "[AVG 1 2 ]\t2\r\n", r"line 3: token '\[AVG' is not in the vocabulary: \] 0 1 "),
        (GOOD + "[MAX 1 <eos> ]\t2\r\n", r"line 3: token '<eos>' is not in the vocabulary"),
        (GOOD + "[MAX 1 é ]\t2\r\n", r"line 3: token '.*' is not in the vocabulary"),
        (GOOD + "3\t10\r\n", r"line 3: target '10'; expected a digit"),
        (GOOD + "3\t\r\n", r"line 3: target ''; expected a digit"),
        (GOOD + "1" * 200_000 + "\t1\r\n", r"line 3: field larger than field limit"),
    ],
)
def test_damaged_files(release, tmp_path, content, message):
    (release / "basic_val.tsv").write_text(content, newline="")
    with refused(f"basic_val.tsv, {message}", tmp_path / "data"):
        load(tmp_path / "data", Release(release), length=12)
