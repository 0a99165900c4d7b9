"""The selector: hand-worked trees, and properties over random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import aire
from aire.utils.errors import UserError

TREE = {"b/0": jnp.array([1.0, 0.2, 0.5]), "b/1": jnp.array([0.3, 1.0]), "b/10": jnp.array([0.5, 0.1, 0.4, 1.0])}


def as_lists(keep):
    return {layer: np.asarray(mask).astype(int).tolist() for layer, mask in keep.items()}


@pytest.mark.parametrize(
    "options,expected",
    [
        ({"ratio": 0.0}, {"b/0": [1, 1, 1], "b/1": [1, 1], "b/10": [1, 1, 1, 1]}),
        # round(0.5 · 9) = 4 by round-half-to-even: the three ones, then 0.5 of the earlier layer.
        ({"ratio": 0.5}, {"b/0": [1, 0, 1], "b/1": [0, 1], "b/10": [0, 0, 0, 1]}),
        ({"ratio": 0.8}, {"b/0": [1, 0, 0], "b/1": [0, 1], "b/10": [0, 0, 0, 0]}),
        ({"ratio": 0.5, "scope": "uniform"}, {"b/0": [1, 0, 1], "b/1": [0, 1], "b/10": [1, 0, 0, 1]}),
        ({"threshold": 0.4}, {"b/0": [1, 0, 1], "b/1": [0, 1], "b/10": [1, 0, 1, 1]}),
        ({"threshold": 0.5}, {"b/0": [1, 0, 1], "b/1": [0, 1], "b/10": [1, 0, 0, 1]}),
        # Of b/0 and b/1, round(0.6 · 5) = 3; of b/10, round(0.25 · 4) = 1.
        ({"ratio": {"b/10": 0.75, "*": 0.4}}, {"b/0": [1, 0, 1], "b/1": [0, 1], "b/10": [0, 0, 0, 1]}),
        ({"ratio": {"b/1*": 0.5, "*": 0.0}}, {"b/0": [1, 1, 1], "b/1": [0, 1], "b/10": [1, 0, 0, 1]}),
        ({"ratio": 0.75, "leave_whole": ["b/0", "b/1"]}, {"b/0": [1, 1, 1], "b/1": [1, 1], "b/10": [0, 0, 0, 1]}),
        ({"threshold": 2.0, "leave_whole": ["b/0"]}, {"b/0": [1, 1, 1], "b/1": [0, 0], "b/10": [0, 0, 0, 0]}),
    ],
)
@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
def test_hand_worked_trees(options, expected, jit):
    select = lambda scores: aire.select(scores, **options)  # noqa: E731
    assert as_lists((jax.jit(select) if jit else select)(TREE)) == expected


@pytest.mark.parametrize(
    "options,message",
    [
        ({}, "pass either ratio"),
        ({"ratio": 0.5, "threshold": 0.5}, "pass either ratio"),
        ({"ratio": 1.0}, r"ratio=1.0: expected a share of states to cut in \[0, 1\)"),
        ({"ratio": -0.1}, "ratio=-0.1"),
        ({"ratio": float("nan")}, "ratio=nan"),
        ({"threshold": float("nan")}, "threshold=nan: expected a number"),
        ({"threshold": 1.5}, "threshold=1.5 would keep no state at all: the highest score is 1"),
        ({"ratio": 0.95}, "ratio=0.95 would keep none of the 9 states"),
        ({"ratio": 0.9, "scope": "uniform"}, "ratio=0.9 would keep none of the 9 states"),
        ({"ratio": {"b/*": 0.99}}, "ratio=0.99 would keep none of the 9 states"),
        ({"ratio": {"b/0": 0.5}}, r"no ratio for layers \['b/1', 'b/10'\]: add a pattern"),
        ({"ratio": {"*": 0.5, "c/*": 0.2}}, r"no layer matches 'c/\*': there are \['b/0', 'b/1', 'b/10'\]"),
        ({"ratio": 0.5, "leave_whole": ["c"]}, "no layer matches 'c'"),
        ({"ratio": 0.5, "scope": "local"}, "scope='local'"),
    ],
)
def test_wrong_requests_are_named(options, message):
    with pytest.raises(UserError, match=message):
        aire.select(TREE, **options)


@pytest.mark.parametrize(
    ("scores", "lowest"),
    [
        (np.array([1, 0, 255], np.uint8), 1),
        (np.array([2**64 - 1, 2**64 - 2, 2**64 - 3], np.uint64), 2),
        (np.array([-1, -128, 127], np.int8), 1),
        (np.array([0, 5, -(2**63)]), 2),
        (np.array([1.0, 1.0 - 2**-53, 1.0]), 1),  # equal in float32
        (jnp.array([3, 1, 2], jnp.uint32), 1),
        (jnp.array([1, -(2**31), 0]), 1),
        (jnp.array([0.5, 0.25, 1.0], jnp.bfloat16), 1),
        ([0.5, 0.25, 1.0], 1),
    ],
)
def test_scores_of_any_type_of_number(scores, lowest, unchecked_types):
    """Nothing is negated, because that wraps 0 of unsigned and the smallest of signed integers."""
    expected = [i != lowest for i in range(3)]
    assert np.asarray(aire.select({"a": scores}, ratio=0.3)["a"]).tolist() == expected
    if isinstance(scores, jax.Array):
        assert np.asarray(jax.jit(lambda s: aire.select({"a": s}, ratio=0.3))(scores)["a"]).tolist() == expected


@pytest.mark.parametrize("scores", [np.ones(2) * 1j, np.ones(2, bool), np.ones((2, 1)), np.array(["a"]), np.float64(1)])
def test_what_is_no_vector_of_numbers_is_refused(scores, unchecked_types):
    with pytest.raises(UserError, match=r"scores of layer 'a' have (shape|dtype)|scores of layer 'a' has dtype"):
        aire.select({"a": scores}, ratio=0.5)


def test_nan_scores_are_found_in_compiled_functions_by_checked():
    select = lambda scores: aire.select({"a": scores}, ratio=0.5)["a"]  # noqa: E731
    assert aire.checked(select)(jnp.array([0.5, 1.0])).tolist() == [False, True]
    with pytest.raises(UserError, match="layer 'a': scores are NaN"):
        aire.checked(select)(jnp.array([jnp.nan, 1.0]))


def test_nan_scores_are_named():
    with pytest.raises(UserError, match="layer 'b/1': 1 of 2 scores are NaN"):
        aire.select(TREE | {"b/1": jnp.array([jnp.nan, 1.0])}, ratio=0.5)


# XLA on CPUs flushes subnormal numbers to zero, so they would be ties.
layer_scores = st.lists(st.floats(0, 1, width=32, allow_subnormal=False), max_size=12)
trees = st.lists(layer_scores, min_size=1, max_size=4).filter(lambda layers: any(layers))
ratios = st.floats(0, 1, exclude_max=True)
fast = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def keeps_any(ratio, *sizes):
    """Skip examples whose ratio keeps no state, because that is an error."""
    assume(any(round((1 - ratio) * n) for n in sizes))


def as_tree(layers):
    return {f"layers/{i}": jnp.asarray(s, jnp.float32) for i, s in enumerate(layers)}


@given(trees, ratios)
@fast
def test_budget_is_exact(layers, ratio):
    keeps_any(ratio, sum(map(len, layers)))
    keep = aire.select(as_tree(layers), ratio=ratio)
    assert sum(int(mask.sum()) for mask in keep.values()) == round((1 - ratio) * sum(map(len, layers)))


@given(trees, ratios)
@fast
def test_uniform_budget_is_exact_in_every_layer(layers, ratio):
    keeps_any(ratio, *map(len, layers))
    keep = aire.select(as_tree(layers), ratio=ratio, scope="uniform")
    assert [int(mask.sum()) for mask in keep.values()] == [round((1 - ratio) * len(s)) for s in layers]


@given(trees, ratios, ratios, st.sampled_from(["global", "uniform"]))
@fast
def test_kept_at_a_higher_ratio_is_kept_at_every_lower_one(layers, a, b, scope):
    keeps_any(max(a, b), *(map(len, layers) if scope == "uniform" else [sum(map(len, layers))]))
    fewer, more = (aire.select(as_tree(layers), ratio=r, scope=scope) for r in (max(a, b), min(a, b)))
    assert all(bool(jnp.all(more[layer] | ~fewer[layer])) for layer in fewer)


@given(trees, ratios)
@fast
def test_nothing_cut_scores_higher_than_anything_kept(layers, ratio):
    keeps_any(ratio, sum(map(len, layers)))
    scores = as_tree(layers)
    keep = aire.select(scores, ratio=ratio)
    flat, kept = np.concatenate(list(scores.values())), np.concatenate(list(keep.values()))
    assert flat[kept].min(initial=np.inf) >= flat[~kept].max(initial=-np.inf)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any), ratios)
@fast
def test_ties_go_to_the_earlier_layer_then_the_lower_index(sizes, ratio):
    keeps_any(ratio, sum(sizes))
    keep = aire.select(as_tree([[0.5] * n for n in sizes]), ratio=ratio)
    flat = np.concatenate(list(keep.values()))
    budget = round((1 - ratio) * len(flat))
    assert flat[:budget].all() and not flat[budget:].any()


@given(trees, ratios, st.randoms(use_true_random=False))
@fast
def test_order_of_the_dict_does_not_matter(layers, ratio, random):
    keeps_any(ratio, sum(map(len, layers)))
    tree = as_tree(layers)
    names = list(tree)
    random.shuffle(names)
    assert as_lists(aire.select({n: tree[n] for n in names}, ratio=ratio)) == {
        n: as_lists(aire.select(tree, ratio=ratio))[n] for n in names
    }


@given(st.integers(0, 2), st.integers(-8, 8), ratios, st.sampled_from(["aire", "last"]))
@settings(fast, max_examples=15)
def test_rescaling_the_B_and_C_of_one_layer_changes_nothing(make_model, layer, exponent, ratio, name):
    keeps_any(ratio, 18)
    model, scaled = make_model(), make_model()
    for array in ("B_re", "B_im", "C_re", "C_im"):
        variable = getattr(scaled.blocks[layer].ssm, array)
        variable[...] = variable[...] * 2.0**exponent
    a, b = (aire.prune(m, ratio, name).keep for m in (model, scaled))
    assert as_lists(a) == as_lists(b)
