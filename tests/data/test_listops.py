"""ListOps: the grammar against an independent evaluator and generator, and loading."""

import hashlib
import statistics
import time
from collections import Counter
from random import Random

import numpy as np
import pytest
from scipy.stats import binomtest, chisquare, ks_2samp

from aire.data import listops
from aire.data.listops import MAX_LENGTH, VOCABULARY, Further, Generated, load, load_further
from aire.utils.errors import UserError
from tests.data.helpers import TINY, sequences, tokens_of, vary
from tests.helpers import refused


def parse(tokens: list[str]) -> tuple:
    """Parse a tree, (operator, children) or a digit; return it with the remaining tokens."""
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
    """Draw n expressions as tokens, with their values."""
    random, found = Random(seed), []
    while len(found) < n:
        if example := options.draw(random):
            found.append((tokens_of(example[0]), example[1]))
    return found


# The grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [Generated(), Generated(min_length=20, max_length=100), Generated(min_length=0, max_depth=3, max_args=4)]
)
def test_values_and_limits(options):
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
def test_length_limits_are_exclusive(min_length):
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


def test_stopping_early_does_not_change_the_distribution():
    """Compare the lengths with those of trees that are generated completely and dropped if out of range."""

    def size(random: Random, level: int) -> int:
        if level == 10 or random.random() >= 0.25:
            return 1
        return 2 + sum(size(random, level + 1) for _ in range(random.randint(2, 10)))

    random = Random(1)
    grown = [size(random, 1) for _ in range(30_000)]
    expected = [n for n in grown if 20 < n < 100]
    found = [len(tokens) for tokens, _ in draw(Generated(min_length=20, max_length=100), 1500)]
    assert len(expected) > 600
    assert ks_2samp(expected, found).pvalue > 1e-3


def test_draws_never_change():
    """The same seed gives the same data with every version of Python and of this code."""
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
def test_invalid_options(options, message):
    with pytest.raises(UserError, match=message):
        Generated(**options)


def test_too_few_different_expressions(monkeypatch, tmp_path):
    monkeypatch.setattr(listops, "_MAX_FAILURES", 1000)
    digits = Generated(min_length=0, max_length=2, train_examples=9, validation_examples=1, test_examples=1)
    with refused("only 10 different expressions found", tmp_path):
        load(tmp_path, digits, length=8)


def test_every_option_is_in_the_name():
    changes = {name: value + 1 for name, value in vars(Generated()).items()}
    names = [Generated(**{name: value}).config_name() for name, value in changes.items()]
    assert len({*names, Generated().config_name()}) == len(changes) + 1


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> dict:
    return load(tmp_path_factory.mktemp("data"), TINY, length=32)


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


def test_expressions_are_distinct(tiny):
    every = [tuple(sequence) for split in tiny.values() for sequence in sequences(split)]
    assert len(set(every)) == len(every) == 50


def test_data_is_a_function_of_the_seed(tiny, tmp_path):
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


def test_further_examples_are_others_and_change_nothing(tiny, tmp_path):
    """They have their own random stream: n examples are the first n of more. They are prepared separately."""
    options = vars(vary(TINY, min_length=12))
    splits = load(tmp_path, Generated(**options), length=32)
    more, fewer = (
        load_further(tmp_path, Further(**options, split="selection", examples=n), length=32) for n in (30, 9)
    )
    other = load_further(tmp_path, Further(**options, split="more_test", examples=30), length=32)
    assert sequences(more)[:9] == sequences(fewer)
    every = [tuple(s) for split in (*splits.values(), more, other) for s in sequences(split)]
    assert len(set(every)) == len(every) == 50 + 60
    assert all((np.array(split.lengths) > 13).all() for split in (more, other))
    assert len(list(tmp_path.glob("list_ops/*"))) == 4


def test_prepared_once(tiny, tmp_path, monkeypatch, capsys):
    load(tmp_path, TINY, length=32)
    assert "50/50 examples (100%)" in capsys.readouterr().out
    monkeypatch.setattr(Generated, "splits", lambda self: pytest.fail("generated a second time"))
    again = load(tmp_path, TINY, length=30)
    assert capsys.readouterr() == ("", "")
    assert again["train"].x.shape == (30, 30)
    assert sequences(again["train"]) == sequences(tiny["train"])


def test_a_too_small_length_fails_before_generating(tmp_path):
    with pytest.raises(UserError, match="max_length=30 does not fit length 29"):
        load(tmp_path / "data", TINY, length=29)
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_full_size(tmp_path):
    """The full task: sizes, lengths, uniqueness, the values of the test split, and preparation within five minutes."""
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
