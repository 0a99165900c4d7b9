"""Cut the state of an optimiser with a model, so that a training goes on after a cut."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from aire.pruning.surgery import Cut
from aire.ssm import KINDS
from aire.utils.errors import UserError

_Place = tuple[tuple[str, ...], str]  # path of a layer, and the name of one of its arrays


def cut_optimizer(state: Any, keep: Cut | Mapping[str, ArrayLike]) -> Any:
    """Return the state of an optimiser for the model after a cut: moments of the kept states, all else unchanged.

        smaller = aire.cut(model, keep)
        opt_state = aire.cut_optimizer(opt_state, keep)  # as optimizer.init(params of smaller), with the moments

    Args:
        state: any pytree with arrays of the parameters' shapes at the parameters' paths, such as the state of an Optax
            optimiser, or a training state with parameters.
        keep: masks of the kept states by layer path, or a `Cut`.
    Raises:
        UserError: the state has no arrays of a layer that is cut, arrays of another size, or of no registered kind.
    """
    masks: Mapping[str, Any] = keep.keep if isinstance(keep, Cut) else keep
    kept = {tuple(path.split("/")) if path else (): np.asarray(m) for path, m in masks.items()}
    leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    places = [_place(path, kept) for path, _ in leaves]
    axes = {layer: _axes(layer, {name for found, name in filter(None, places) if found == layer}) for layer in kept}
    cut = [
        leaf if place is None else _take(leaf, kept[place[0]], axes[place[0]].get(place[1]), place)
        for (_, leaf), place in zip(leaves, places, strict=True)
    ]
    return jax.tree_util.tree_unflatten(structure, cut)


def _place(path: Iterable[Any], layers: Iterable[tuple[str, ...]]) -> _Place | None:
    """Return the layer and the array that the path of a leaf ends with; None if it is no array of these layers."""
    names = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    if names[-1:] == ["value"]:  # of an nnx.Variable
        names.pop()
    known = {name for kind in _layer_types() for name in (*kind.ROLES, *kind.STATE_AXIS)}
    for layer in layers:
        if names and tuple(names[-1 - len(layer) : -1]) == layer and names[-1] in known:
            return layer, names[-1]
    return None


def _layer_types() -> list[Any]:
    return [kind.layer for kind in KINDS.values()]


def _axes(layer: tuple[str, ...], names: set[str]) -> Mapping[str, int]:
    """Return the state axes of a layer with arrays of these names."""
    for kind in _layer_types():
        if set(kind.ROLES) <= names <= {*kind.ROLES, *kind.STATE_AXIS}:
            return kind.STATE_AXIS
    raise UserError(
        f"layer {'/'.join(layer)!r}: the optimiser's state has its arrays {sorted(names)}, which are those of no "
        "kind of layer; expected the state of an optimiser of this model's parameters"
    )


def _take(leaf: Any, mask: np.ndarray, axis: int | None, place: _Place) -> Any:
    if axis is None or not np.ndim(leaf):
        return leaf
    if leaf.shape[axis] != mask.size:
        where = "/".join((*place[0], place[1]))
        raise UserError(f"{where}: {leaf.shape[axis]} states in the optimiser's state, {mask.size} in the mask")
    return jnp.take(leaf, np.flatnonzero(mask), axis=axis)
