"""The selector: from the scores of all layers to masks of kept states. Pure functions on dicts of arrays."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Real

from aire.ssm.paths import natural_order
from aire.utils.arguments import describe, follow, is_traced, mapping, numbers
from aire.utils.checks import choice, short
from aire.utils.errors import UserError
from aire.utils.traced import require

SCOPES = ("global", "uniform")

Ratio = float | Mapping[str, float]  # share of states to cut, of the model or by layer pattern
AnyArray = Array | np.ndarray


class NothingLeft(UserError):
    """The ratio would keep no state."""


def select(
    scores: Mapping[str, Real[AnyArray, "_"]],
    *,
    ratio: Ratio | None = None,
    threshold: float | None = None,
    scope: str = "global",
    leave_whole: Sequence[str] = (),
) -> dict[str, Bool[Array, "_"]]:
    """Select the states to keep.

    Args:
        scores: by layer path; n_l scores in layer l, arrays of JAX or NumPy. Higher matters more.
        ratio: share p of states to cut, in [0, 1). Globally, exactly round((1 − p) Σ n_l) states are kept, the
            highest-scoring of the network; with scope "uniform", round((1 − p) n_l) of every layer. `round` is Python's
            and rounds halves to even, after binary rounding of (1 − p) n. Ties go to the earlier layer, then to the
            lower index. Layers are sorted by path, numbers in it by value.
            Or shares by pattern of the layer path, {"blocks/0/*": 0.2, "*": 0.6}: a layer belongs to the first pattern
            that it matches, and the layers of a pattern are selected as if they were the entire network.
        threshold: keep every state that scores at least this much, in place of a ratio.
        scope: "global" or "uniform".
        leave_whole: patterns of layers that keep all states. A ratio then counts only the states of the other layers.
    Returns:
        Masks of kept states by layer path.
    Raises:
        UserError: both or neither of ratio and threshold, a ratio outside [0, 1), a ratio or threshold that keeps no
            state, a pattern without a layer or a layer without a pattern, an unknown scope, or scores that are no
            vectors of real numbers or NaN (the message names the layer). Under `jax.jit`, NaN scores and a threshold
            that keeps no state are not found; `aire.checked` finds NaN scores.

    >>> keep = select({"a": jnp.array([0.9, 0.1]), "b": jnp.array([0.5, 0.4])}, ratio=0.5)
    >>> {layer: mask.tolist() for layer, mask in keep.items()}
    {'a': [True, False], 'b': [True, False]}
    """
    if (ratio is None) == (threshold is None):
        raise UserError("pass either ratio=… or threshold=…, not both")
    check_scope(scope)
    scores = _vectors(scores)
    whole = _matching(scores, _patterns(leave_whole))
    keep: dict[str, AnyArray] = {layer: np.ones(scores[layer].shape, bool) for layer in whole}
    others = {layer: s for layer, s in scores.items() if layer not in whole}
    if threshold is not None:
        keep |= _above(others, _number("threshold", threshold), bool(whole))
    elif ratio is not None:
        for share, group in _groups(others, ratio):
            keep |= _highest(group, share, scope)
    return {layer: jnp.asarray(keep[layer]) for layer in scores}


def check_ratio(ratio: object) -> float:
    """Return a ratio as a number. Raise UserError unless 0 ≤ ratio < 1."""
    share = _number("ratio", ratio)
    if not 0 <= share < 1:
        raise UserError(f"ratio={share}: expected a share of states to cut in [0, 1)")
    return share


def check_scope(scope: object) -> None:
    """Raise UserError unless the scope is one of `SCOPES`."""
    follow("scope", scope, choice(SCOPES))


def _number(name: str, value: Any) -> float:
    """Return a number, also of an array without axes. A threshold may be traced. Raise UserError if it is NaN."""
    if is_traced(value) and name == "threshold":
        return value
    found = numbers(name, value, expected="a number")
    if is_traced(found) or found.ndim or math.isnan(found):
        raise UserError(f"{name}={short(value)}: expected a number")
    return float(found)


def _patterns(leave_whole: Sequence[str]) -> list[str]:
    if isinstance(leave_whole, str) or not isinstance(leave_whole, Sequence | set | frozenset):
        raise UserError(f"leave_whole: expected a list of patterns such as ['blocks/0/*'], not {describe(leave_whole)}")
    if wrong := [pattern for pattern in leave_whole if not isinstance(pattern, str)]:
        raise UserError(f"leave_whole: expected patterns of layer paths, not {describe(wrong[0])}")
    return list(leave_whole)


def _vectors(scores: Mapping[str, Any]) -> dict[str, AnyArray]:
    """Return the scores as arrays. Raise UserError unless there is one real number per state."""
    mapping("scores", scores, "from layer paths to scores")
    if not scores:
        raise UserError("scores: expected at least one layer")
    arrays = {}
    for layer, given in scores.items():
        s = arrays[layer] = numbers(f"scores of layer {layer!r}", given, expected="real numbers")
        if s.ndim != 1:
            raise UserError(
                f"scores of layer {layer!r} have shape {list(s.shape)}: expected one number per state, (n,)"
            )
        if is_traced(s):
            require(~jnp.isnan(s).any(), f"layer {layer!r}: scores are NaN; check its weights")
            continue
        s = arrays[layer] = np.asarray(s)
        if nan := int(np.isnan(s).sum()):
            raise UserError(f"layer {layer!r}: {nan} of {s.size} scores are NaN; check its weights")
    return arrays


def _matching(scores: Mapping[str, AnyArray], patterns: Sequence[str]) -> set[str]:
    """The layers that match any pattern. Raise UserError if a pattern matches none."""
    found = {pattern: set(fnmatch.filter(scores, pattern)) for pattern in patterns}
    for pattern, layers in found.items():
        if not layers:
            raise UserError(f"no layer matches {pattern!r}: there are {sorted(scores, key=natural_order)}")
    return set().union(*found.values())


def _groups(scores: Mapping[str, AnyArray], ratio: Ratio) -> list[tuple[float, dict[str, AnyArray]]]:
    """Each ratio with the layers that are selected together."""
    if not isinstance(ratio, Mapping):
        return [(check_ratio(ratio), dict(scores))]
    mapping("ratio", ratio, "from patterns of layer paths to shares")
    ratio = {pattern: check_ratio(share) for pattern, share in ratio.items()}
    _matching(scores, list(ratio))
    first = {layer: next((p for p in ratio if fnmatch.fnmatchcase(layer, p)), None) for layer in scores}
    if unmatched := [layer for layer, pattern in first.items() if pattern is None]:
        raise UserError(f"no ratio for layers {unmatched}: add a pattern for them, such as '*'")
    return [(r, {layer: s for layer, s in scores.items() if first[layer] == p}) for p, r in ratio.items()]


def _highest(scores: Mapping[str, AnyArray], ratio: float, scope: str) -> dict[str, AnyArray]:
    """Select by ratio."""
    total = sum(s.size for s in scores.values())
    if scope == "uniform":
        budgets = {layer: round((1 - ratio) * s.size) for layer, s in scores.items()}
        _check_budget(ratio, sum(budgets.values()), total)
        return {layer: _keep_top([s], budgets[layer])[0] for layer, s in scores.items()}
    budget = round((1 - ratio) * total)
    _check_budget(ratio, budget, total)
    if not scores:
        return {}
    layers = sorted(scores, key=natural_order)
    return dict(zip(layers, _keep_top([scores[layer] for layer in layers], budget), strict=True))


def _check_budget(ratio: float, budget: int, total: int) -> None:
    if total and not budget:
        raise NothingLeft(f"ratio={ratio} would keep none of the {total} states: pass a smaller ratio")


def _above(scores: Mapping[str, AnyArray], threshold: float, may_be_empty: bool) -> dict[str, AnyArray]:
    with np.errstate(over="ignore"):  # a threshold above the largest float32 is infinite there
        keep = {layer: s >= threshold for layer, s in scores.items()}
    kept = sum(mask.sum() for mask in keep.values())
    if not may_be_empty and not is_traced(kept) and kept == 0:
        highest = max((float(s.max()) for s in scores.values() if s.size), default=float("nan"))
        raise UserError(f"threshold={threshold} would keep no state at all: the highest score is {highest:.6g}")
    return keep


def _keep_top(scores: Sequence[AnyArray], budget: int) -> list[AnyArray]:
    """Masks of the `budget` highest of all scores. Ties go to the earlier position.

    Known scores are compared by NumPy, in their own precision. Nothing is negated, because that wraps integers.
    """
    xp: Any = jnp if any(map(is_traced, scores)) else np
    flat = xp.concatenate(scores)
    order = flat.size - 1 - xp.argsort(flat[::-1], stable=True)[::-1]  # descending
    keep = xp.argsort(order) < budget
    return xp.split(keep, np.cumsum([s.size for s in scores])[:-1])
