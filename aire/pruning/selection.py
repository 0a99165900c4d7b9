"""The selector: from the scores of all layers to masks of kept states. Pure functions on dicts of arrays."""

import fnmatch
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from aire.ssm.paths import natural_order
from aire.utils.errors import UserError

SCOPES = ("global", "uniform")

Ratio = float | Mapping[str, float]  # share of states to cut, of the model or by layer pattern


class NothingLeft(UserError):
    """The ratio would keep no state."""


def select(
    scores: Mapping[str, Float[Array, "_"]],
    *,
    ratio: Ratio | None = None,
    threshold: float | None = None,
    scope: str = "global",
    leave_whole: Sequence[str] = (),
) -> dict[str, Bool[Array, "_"]]:
    """Select the states to keep.

    Args:
        scores: by layer path; n_l scores in layer l. Higher matters more.
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
            state, a pattern without a layer or a layer without a pattern, an unknown scope, or NaN scores (the message
            names the layer).

    >>> keep = select({"a": jnp.array([0.9, 0.1]), "b": jnp.array([0.5, 0.4])}, ratio=0.5)
    >>> {layer: mask.tolist() for layer, mask in keep.items()}
    {'a': [True, False], 'b': [True, False]}
    """
    if (ratio is None) == (threshold is None):
        raise UserError("pass either ratio=… or threshold=…, not both")
    check_scope(scope)
    _check_scores(scores)
    whole = _matching(scores, leave_whole)
    keep = {layer: jnp.ones(scores[layer].shape, bool) for layer in whole}
    others = {layer: s for layer, s in scores.items() if layer not in whole}
    if threshold is not None:
        keep |= _above(others, threshold, bool(whole))
    elif ratio is not None:
        for share, group in _groups(others, ratio):
            keep |= _highest(group, share, scope)
    return {layer: keep[layer] for layer in scores}


def check_ratio(ratio: float) -> None:
    """Raise UserError unless 0 ≤ ratio < 1."""
    if not 0 <= ratio < 1:
        raise UserError(f"ratio={ratio}: expected a share of states to cut in [0, 1)")


def check_scope(scope: str) -> None:
    """Raise UserError unless the scope is one of `SCOPES`."""
    if scope not in SCOPES:
        raise UserError(f"scope={scope!r}: expected one of {list(SCOPES)}")


def _check_scores(scores: Mapping[str, Array]) -> None:
    for layer, s in scores.items():
        if not isinstance(s, jax.core.Tracer) and np.isnan(s).any():
            raise UserError(f"layer {layer!r}: {int(np.isnan(s).sum())} of {s.size} scores are NaN; check its weights")


def _matching(scores: Mapping[str, Array], patterns: Sequence[str]) -> set[str]:
    """The layers that match any pattern. Raise UserError if a pattern matches none."""
    found = {pattern: set(fnmatch.filter(scores, pattern)) for pattern in patterns}
    for pattern, layers in found.items():
        if not layers:
            raise UserError(f"no layer matches {pattern!r}: there are {sorted(scores, key=natural_order)}")
    return set().union(*found.values())


def _groups(scores: Mapping[str, Array], ratio: Ratio) -> list[tuple[float, dict[str, Array]]]:
    """Each ratio with the layers that are selected together."""
    if not isinstance(ratio, Mapping):
        return [(ratio, dict(scores))]
    _matching(scores, list(ratio))
    first = {layer: next((p for p in ratio if fnmatch.fnmatchcase(layer, p)), None) for layer in scores}
    if unmatched := [layer for layer, pattern in first.items() if pattern is None]:
        raise UserError(f"no ratio for layers {unmatched}: add a pattern for them, such as '*'")
    return [(r, {layer: s for layer, s in scores.items() if first[layer] == p}) for p, r in ratio.items()]


def _highest(scores: Mapping[str, Array], ratio: float, scope: str) -> dict[str, Array]:
    """Select by ratio."""
    check_ratio(ratio)
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


def _above(scores: Mapping[str, Array], threshold: float, may_be_empty: bool) -> dict[str, Array]:
    keep = {layer: s >= threshold for layer, s in scores.items()}
    kept = sum(mask.sum() for mask in keep.values())
    if not may_be_empty and not isinstance(kept, jax.core.Tracer) and kept == 0:
        highest = max((float(s.max()) for s in scores.values() if s.size), default=float("nan"))
        raise UserError(f"threshold={threshold} would keep no state at all: the highest score is {highest:.6g}")
    return keep


@jax.jit
def _keep_top(scores: list[Float[Array, "_"]], budget: int | Array) -> list[Bool[Array, "_"]]:
    """Masks of the `budget` highest of all scores. Ties go to the earlier position."""
    flat = jnp.concatenate(scores)
    order = jnp.argsort(-flat, stable=True)
    keep = jnp.zeros(flat.size, bool).at[order].set(jnp.arange(flat.size) < budget)
    return jnp.split(keep, np.cumsum([s.size for s in scores])[:-1])
