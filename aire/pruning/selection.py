"""The selector: scores of all layers in, keep masks out. Pure functions on dicts of arrays."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from aire.errors import UserError

SCOPES = ("global", "uniform")


def select(
    scores: Mapping[str, Array],
    *,
    ratio: float | None = None,
    threshold: float | None = None,
    scope: str = "global",
) -> dict[str, Array]:
    """Which states to keep.

    Args:
        scores: per layer, real (n_l,); higher matters more.
        ratio: share p of states to cut, in [0, 1). Globally, exactly round((1 − p) Σ n_l) states are kept, the
            highest-scoring of the whole network; with scope "uniform", round((1 − p) n_l) of every layer. Ties go to
            the earlier layer, then to the lower index; layers are ordered by path, numbers in it by value.
        threshold: keep every state that scores at least this much, in place of a ratio.
        scope: "global" or "uniform".
    Returns:
        Per layer, bool (n_l,).
    Raises:
        UserError: not exactly one of ratio and threshold, a ratio outside [0, 1), a threshold above every score,
            an unknown scope, or a score that is NaN (the layer is named).

    >>> keep = select({"a": jnp.array([0.9, 0.1]), "b": jnp.array([0.5, 0.4])}, ratio=0.5)
    >>> {layer: mask.tolist() for layer, mask in keep.items()}
    {'a': [True, False], 'b': [True, False]}
    """
    if (ratio is None) == (threshold is None):
        raise UserError("give either ratio=… or threshold=…, and not both")
    check_scope(scope)
    _check_scores(scores)
    if threshold is not None:
        return _above(scores, threshold)
    check_ratio(ratio)
    if scope == "uniform":
        return {layer: _keep_top([s], round((1 - ratio) * s.size))[0] for layer, s in scores.items()}
    layers = sorted(scores, key=natural_order)
    budget = round((1 - ratio) * sum(s.size for s in scores.values()))
    keep = dict(zip(layers, _keep_top([scores[layer] for layer in layers], budget), strict=True))
    return {layer: keep[layer] for layer in scores}


def check_ratio(ratio: float) -> None:
    """Raises UserError unless 0 ≤ ratio < 1."""
    if not 0 <= ratio < 1:
        raise UserError(f"ratio={ratio}: expected a share of states to cut in [0, 1)")


def check_scope(scope: str) -> None:
    """Raises UserError unless the scope is known."""
    if scope not in SCOPES:
        raise UserError(f"scope={scope!r}: expected one of {list(SCOPES)}")


def natural_order(path: str) -> list[tuple[int, int | str]]:
    """Sort key in which "blocks/10" comes after "blocks/2"."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path)]


def _check_scores(scores: Mapping[str, Array]) -> None:
    for layer, s in scores.items():
        if not isinstance(s, jax.core.Tracer) and np.isnan(s).any():
            raise UserError(f"layer {layer!r}: {int(np.isnan(s).sum())} of {s.size} scores are NaN; check its weights")


def _above(scores: Mapping[str, Array], threshold: float) -> dict[str, Array]:
    keep = {layer: s >= threshold for layer, s in scores.items()}
    kept = sum(mask.sum() for mask in keep.values())
    if not isinstance(kept, jax.core.Tracer) and kept == 0:
        highest = max((float(s.max()) for s in scores.values() if s.size), default=float("nan"))
        raise UserError(f"threshold={threshold} would keep no state at all: the highest score is {highest:.6g}")
    return keep


@jax.jit
def _keep_top(scores: list[Array], budget: int) -> list[Array]:
    """The `budget` highest of all scores together, as one mask per array; ties go to the earlier place."""
    flat = jnp.concatenate(scores)
    order = jnp.argsort(-flat, stable=True)
    keep = jnp.zeros(flat.size, bool).at[order].set(jnp.arange(flat.size) < budget)
    return jnp.split(keep, np.cumsum([s.size for s in scores])[:-1])
