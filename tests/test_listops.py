"""ListOps: the grammar against an evaluator and a generator of the tests' own, the release's files, preparing once."""

import csv
import fcntl
import hashlib
import os
import re
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare, ks_2samp

from aire.data import listops
from aire.data.listops import MAX_LENGTH, VOCABULARY, Generated, Release, load
from aire.errors import UserError

TINY = Generated(min_length=5, max_length=30, train_examples=30, validation_examples=10, test_examples=10)
ROWS = {  # typed in, with the values worked out by hand; parentheses as in the release
    "train": [
        ("( ( ( [MAX 4 ) 9 ) ] )", 9),
        ("( ( ( ( [MED 1 ) 2 ) ( ( ( [SM 8 ) 7 ) ] ) ) ] )", 2),  # the median of 1, 2, 5
        ("( ( ( [MED 2 ) 5 ) ] )", 3),  # 3.5, rounded down
    ],
    "val": [("7", 7)],
    "test": [("( ( ( ( [MIN 6 ) 3 ) ( ( ( [MAX 0 ) 4 ) ] ) ) ] )", 3)],
}


def tokens_of(indices) -> list[str]:
    return [VOCABULARY[i] for i in indices]


def parse(tokens: list[str]) -> tuple:
    """A tree, (operator, children) or a digit, and the tokens left, read by recursion."""
    head, rest = tokens[0], tokens[1:]
    if not head.startswith("["):
        return int(head), rest
    children = []
    while rest[0] != "]":
        child, rest = parse(rest)
        children.append(child)
    return (head, children), rest[1:]


def evaluate(tree) -> int:
    if isinstance(tree, int):
        return tree
    operator, values = tree[0], [evaluate(child) for child in tree[1]]
    match operator:
        case "[MAX":
            return max(values)
        case "[MIN":
            return min(values)
        case "[MED":
            return int(statistics.median(values))
        case "[SM":
            return int(str(sum(values))[-1])
    raise AssertionError(operator)


def depth(tree) -> int:
    return 1 if isinstance(tree, int) else 1 + max(depth(child) for child in tree[1])


def arguments(tree) -> list[int]:
    if isinstance(tree, int):
        return []
    return [len(tree[1])] + [n for child in tree[1] for n in arguments(child)]


def draw(options: Generated, n: int, seed: int = 0) -> list[tuple[list[str], int]]:
    """n expressions as tokens, and their values."""
    random, found = Random(seed), []
    while len(found) < n:
        if example := options.draw(random):
            found.append((tokens_of(example[0]), example[1]))
    return found


# The grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [Generated(), Generated(min_length=20, max_length=100), Generated(min_length=0, max_depth=3, max_args=4)]
)
def test_expressions_have_their_value_and_keep_the_limits(options):
    trees = []
    for tokens, value in draw(options, 200):
        assert options.min_length < len(tokens) < options.max_length
        tree, rest = parse(tokens)
        assert rest == []
        assert evaluate(tree) == value
        trees.append(tree)
    assert max(map(depth, trees)) == options.max_depth
    counts = [n for tree in trees for n in arguments(tree)]
    assert (min(counts), max(counts)) == (2, options.max_args)


@pytest.mark.parametrize("min_length", [3, 4])
def test_limits_of_the_length_are_exclusive(min_length):
    options = Generated(min_length=min_length, max_length=min_length + 3)
    assert {len(tokens) for tokens, _ in draw(options, 300)} == {min_length + 1, min_length + 2}


def test_probabilities():
    options = Generated(min_length=0, max_length=10_000, max_depth=2)
    trees = [parse(tokens)[0] for tokens, _ in draw(options, 20_000)]
    inner = [tree for tree in trees if not isinstance(tree, int)]
    assert binomtest(len(inner), len(trees), 0.25).pvalue > 1e-3
    operators, n_args = Counter(op for op, _ in inner), Counter(len(children) for _, children in inner)
    digits = Counter(d for tree in trees for d in ([tree] if isinstance(tree, int) else tree[1]))
    assert set(operators) == {"[MAX", "[MED", "[MIN", "[SM"}
    assert set(n_args) == set(range(2, 11))
    assert set(digits) == set(range(10))
    for counts in (operators, n_args, digits):
        assert chisquare(list(counts.values())).pvalue > 1e-3


def test_stopping_early_does_not_bend_the_distribution():
    """Lengths are distributed as when whole trees are grown first, and those of the wrong length thrown away."""

    def size(random: Random, level: int) -> int:
        if level == 10 or random.random() >= 0.25:
            return 1
        return 2 + sum(size(random, level + 1) for _ in range(random.randint(2, 10)))

    random = Random(1)
    grown = [size(random, 1) for _ in range(60_000)]
    expected = [n for n in grown if 20 < n < 100]
    found = [len(tokens) for tokens, _ in draw(Generated(min_length=20, max_length=100), 3000)]
    assert len(expected) > 1000
    assert ks_2samp(expected, found).pvalue > 1e-3


def test_draws_never_change():
    """The same seed must give the same data with every version of Python, and of this code."""
    (tokens, value), *_ = draw(Generated(min_length=5, max_length=12), 1)
    assert (" ".join(tokens), value) == ("[MAX 3 5 4 4 0 ]", 5)
    source = Generated(train_examples=8, validation_examples=1, test_examples=1)
    digest = hashlib.sha256(b"".join(tokens + bytes([v]) for s in source.splits().values() for tokens, v in s))
    assert digest.hexdigest()[:16] == "12ea776f165e8270"


# Options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_length": 500, "max_length": 501}, "max_length=501: expected at least 502"),
        ({"min_length": -1}, "min_length=-1: expected at least 0"),
        ({"max_depth": 0}, "max_depth=0: expected at least 1"),
        ({"max_args": 1}, "max_args=1: expected at least 2"),
        ({"train_examples": 0}, "train_examples=0: expected at least 1"),
        ({"seed": -1}, "seed=-1: expected at least 0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        Generated(**options)


def test_too_few_different_expressions(monkeypatch, tmp_path):
    monkeypatch.setattr(listops, "_MAX_FAILURES", 1000)
    digits = Generated(min_length=0, max_length=2, train_examples=9, validation_examples=1, test_examples=1)
    with pytest.raises(UserError, match="only 10 different expressions found"):
        load(tmp_path, digits, length=8)
    assert not list(tmp_path.glob("list_ops/*/1.0.0")), "a dataset without all examples was kept"


def test_every_option_is_in_the_name():
    changes = {name: value + 1 for name, value in vars(Generated()).items()}
    names = [Generated(**{name: value}).config_name() for name, value in changes.items()]
    assert len({*names, Generated().config_name()}) == len(changes) + 1


# Loading -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict:
    return load(tmp_path_factory.mktemp("data"), TINY, length=32)


def sequences(split) -> list[tuple[int, ...]]:
    return [tuple(x[:n].tolist()) for x, n in zip(split.x, split.lengths, strict=True)]


def test_loaded_splits(tiny):
    assert {name: len(split) for name, split in tiny.items()} == {"train": 30, "validation": 10, "test": 10}
    for split in tiny.values():
        assert (split.x.dtype, split.lengths.dtype, split.y.dtype) == (np.uint8, np.int32, np.int32)
        assert split.x.shape == (len(split), 32)
        for x, length, y in zip(split.x, split.lengths, split.y, strict=True):
            assert VOCABULARY[x[length - 1]] == "<eos>"
            assert not x[length:].any()
            tree, rest = parse(tokens_of(x[: length - 1]))
            assert (evaluate(tree), rest) == (y, [])


def test_no_expression_occurs_twice(tiny):
    every = [sequence for split in tiny.values() for sequence in sequences(split)]
    assert len(set(every)) == len(every) == 50


def test_same_seed_same_data_other_seed_other_data(tiny, tmp_path):
    again = load(tmp_path, TINY, length=32)
    for name, split in tiny.items():
        for field in ("x", "lengths", "y"):
            np.testing.assert_array_equal(getattr(again[name], field), getattr(split, field))
    other = load(tmp_path, vary(TINY, seed=1), length=32)
    assert sequences(other["train"]) != sequences(tiny["train"])


def test_validation_and_test_do_not_depend_on_the_size_of_train(tiny, tmp_path):
    more = load(tmp_path, vary(TINY, train_examples=40), length=32)
    for name in ("validation", "test"):
        assert sequences(more[name]) == sequences(tiny[name])
    assert sequences(more["train"])[:30] == sequences(tiny["train"])


def test_prepared_once(tiny, tmp_path, monkeypatch, capsys):
    load(tmp_path, TINY, length=32)
    assert "50/50 examples (100%)" in capsys.readouterr().out
    monkeypatch.setattr(Generated, "splits", lambda self: pytest.fail("generated a second time"))
    again = load(tmp_path, TINY, length=30)
    assert capsys.readouterr() == ("", "")
    assert again["train"].x.shape == (30, 30)
    assert sequences(again["train"]) == sequences(tiny["train"])


def test_too_short_a_length_is_noticed_before_generating(tmp_path):
    with pytest.raises(UserError, match="max_length=30 does not fit length 29"):
        load(tmp_path / "data", TINY, length=29)
    assert not (tmp_path / "data").exists()


def vary(options: Generated, **changes) -> Generated:
    return Generated(**(vars(options) | changes))


# The release ---------------------------------------------------------------------------------------------------------


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
    """Python's csv module reads quoted fields; some writers quote all."""
    with open(release / "basic_val.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL).writerows([("Source", "Target"), ("8", 8)])
    assert load(tmp_path / "data", Release(release), length=12)["validation"].y.tolist() == [8]


def test_changed_files_are_read_anew(release, tmp_path):
    load(tmp_path / "data", Release(release), length=12)
    (release / "basic_val.tsv").write_text("Source\tTarget\n5\t5\n")
    assert load(tmp_path / "data", Release(release), length=12)["validation"].y.tolist() == [5]


def test_sequence_longer_than_the_asked_length(release, tmp_path):
    with pytest.raises(UserError, match=r"'train', example 1: 9 tokens are more than the length 8"):
        load(tmp_path / "data", Release(release), length=8)


@pytest.mark.parametrize("longest", [MAX_LENGTH - 1, MAX_LENGTH])
def test_the_task_has_a_maximum_length(release, tmp_path, longest):
    source = "[SM " + "1 " * (longest - 2) + "]"
    (release / "basic_test.tsv").write_text(f"Source\tTarget\n1\t1\n{source}\t{(longest - 2) % 10}\n")
    if longest < MAX_LENGTH:
        assert load(tmp_path / "data", Release(release), length=MAX_LENGTH)["test"].lengths.tolist() == [2, MAX_LENGTH]
    else:
        with pytest.raises(UserError, match=r"basic_test.tsv, line 3: 2049 tokens .* maximum is 2048"):
            load(tmp_path / "data", Release(release), length=4096)


def test_missing_folder_and_file(release, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: no basic_train.tsv, basic_val.tsv, basic_test.tsv there; .*lra_rel"):
        load(tmp_path / "data", Release(tmp_path / "nowhere"), length=12)
    (release / "basic_val.tsv").unlink()
    with pytest.raises(UserError, match=r"no basic_val.tsv there; expected the folder listops-1000"):
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
        (GOOD + "[MAX 1 2\t2\r\n", r"line 3: the brackets do not make one whole expression"),
        (GOOD + "1 ]\t2\r\n", r"line 3: the brackets do not make one whole expression"),
        (GOOD + "] [MAX\t2\r\n", r"line 3: the brackets do not make one whole expression"),
        (GOOD + "1 2\t2\r\n", r"line 3: the brackets do not make one whole expression"),
        (GOOD + "\t2\r\n", r"line 3: the brackets do not make one whole expression"),
        (GOOD + "[AVG 1 2 ]\t2\r\n", r"line 3: token '\[AVG' is not in the vocabulary: \] 0 1 "),
        (GOOD + "[MAX 1 <eos> ]\t2\r\n", r"line 3: token '<eos>' is not in the vocabulary"),
        (GOOD + "[MAX 1 é ]\t2\r\n", r"line 3: token '.*' is not in the vocabulary"),
        (GOOD + "3\t10\r\n", r"line 3: target '10'; expected a digit"),
        (GOOD + "3\t\r\n", r"line 3: target ''; expected a digit"),
        (GOOD + "1" * 200_000 + "\t1\r\n", r"line 3: field larger than field limit"),
    ],
)
def test_damaged_files(release, tmp_path, content, message):
    path = release / "basic_val.tsv"
    path.write_text(content, newline="")
    with pytest.raises(UserError, match=re.escape(str(path)) + ", " + message) as error:
        load(tmp_path / "data", Release(release), length=12)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("data/list_ops/*/1.0.0")), "data from a damaged file was kept"


# Preparing -----------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the one dataset prepared in a folder, but for its lock."""
    (dataset,) = folder.glob("list_ops/*")
    files = {str(path.relative_to(dataset)): path for path in dataset.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "lock"}


def test_killed_while_preparing(tmp_path):
    """kill -9, then the same call: it works, the data is that of a preparation that was left alone, nothing is left."""
    options = vary(TINY, train_examples=3000, max_length=100)
    code = f"from aire.data.listops import *; load({str(tmp_path / 'killed')!r}, {options!r}, length=100)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if re.match(r"preparing ListOps: \d+/3020", line):  # some examples are done
            break
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
    leftovers = [path.name for path in (tmp_path / "killed").glob("list_ops/*/*")]
    assert "1.0.0" not in leftovers
    assert any(name.startswith("incomplete.") for name in leftovers)
    resumed, whole = (load(tmp_path / name, options, length=100) for name in ("killed", "whole"))
    for name, split in whole.items():
        np.testing.assert_array_equal(resumed[name].x, split.x)
        np.testing.assert_array_equal(resumed[name].y, split.y)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_waits_for_another_process_that_prepares(tiny, tmp_path, capsys):
    folder = tmp_path / "list_ops" / TINY.config_name()
    folder.mkdir(parents=True)
    found: list[dict] = []
    thread = threading.Thread(target=lambda: found.append(load(tmp_path, TINY, length=32)))
    with open(folder / "lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        output = wait_for(lambda: capsys.readouterr().out)
        assert "waiting for another process that prepares" in output
        assert not found
    thread.join()
    assert sequences(found[0]["train"]) == sequences(tiny["train"])


def wait_for(read: Callable[[], str], seconds: float = 30) -> str:
    end = time.monotonic() + seconds
    while not (text := read()) and time.monotonic() < end:
        time.sleep(0.01)
    return text


def test_data_dir_that_is_a_file(tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*/data/.*: Not a directory; .* choose another folder"):
        load(tmp_path / "data", TINY, length=32)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_data_dir_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"cannot write .*: Permission denied"):
        load(tmp_path / "data", TINY, length=32)


def test_full_disk(tmp_path):
    """A limit on the size of files fails as a full disk does, half-way; afterwards nothing half-written is taken."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"cannot write .*list_ops.*: File too large; free some space") as error:
            load(tmp_path, TINY, length=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("list_ops/*/*1.0.0"))
    assert len(load(tmp_path, TINY, length=32)["train"]) == 30


@pytest.mark.parametrize("damage", ["cut", "flip", "remove", "info"])
def test_damaged_after_preparing(tmp_path, damage):
    load(tmp_path, TINY, length=32)
    (path,) = tmp_path.glob(
        "list_ops/*/1.0.0/" + ("dataset_info.json" if damage == "info" else "*-train.array_record*")
    )
    content = path.read_bytes()
    match damage:
        case "cut" | "info":
            path.write_bytes(content[: len(content) // 2])
        case "flip":
            place = content.index(b"\x00" * 64) // 2  # within the records, which come before the padding
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        case "remove":
            path.unlink()
    with pytest.raises(UserError, match=r"what was prepared in .*list_ops.* is damaged .*delete that folder"):
        load(tmp_path, TINY, length=32)


@pytest.mark.slow
def test_full_size(tmp_path):
    """The whole task: sizes, lengths, uniqueness, the values of some, and that preparing takes at most five minutes."""
    start = time.process_time()
    splits = load(tmp_path, Generated(), length=MAX_LENGTH)
    assert time.process_time() - start < 300
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 96_000,
        "validation": 2_000,
        "test": 2_000,
    }
    lengths = np.concatenate([split.lengths for split in splits.values()])
    assert (lengths.min(), lengths.max()) == (502, 2000)
    assert len({x.tobytes() for split in splits.values() for x in split.x}) == 100_000
    for x, length, y in zip(splits["test"].x, splits["test"].lengths, splits["test"].y, strict=True):
        assert evaluate(parse(tokens_of(x[: length - 1]))[0]) == y
