"""The regression of a layer's outputs on its features and inputs: its sums on data, its solution and its errors.

y ≈ G z + D u in every channel, where z are the features of kept states and D is diagonal: each output has one regressor
besides z.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64, Int

from aire.pruning import features, gram
from aire.ssm import StateSpaceLayer

# Maximum size of the features and their products computed at once, in numbers: 64 MiB.
_NUMBERS = 2**24


class Sums(NamedTuple):
    """Sums over the true time steps, by channel.

    Attributes:
        zz, zu, zy: Σ z zᵀ, Σ z uᵀ and Σ z yᵀ.
        uu, uy, yy: Σ u², Σ u y and Σ y² of each output.
    """

    zz: Float64[np.ndarray, "channels F F"]
    zu: Float64[np.ndarray, "channels F O"]
    zy: Float64[np.ndarray, "channels F O"]
    uu: Float64[np.ndarray, "channels O"]
    uy: Float64[np.ndarray, "channels O"]
    yy: Float64[np.ndarray, "channels O"]


class RealReadout(NamedTuple):
    """The output map y = G z + D u in channels."""

    G: Float64[np.ndarray, "channels O F"]
    D: Float64[np.ndarray, "channels O"]


def channels(layer: StateSpaceLayer) -> int:
    """The number of channels, also of those without states."""
    return layer.D.size // layer.readout().shape[1]


def slots(layer: StateSpaceLayer, keep: Bool[np.ndarray, "n"]) -> Int[np.ndarray, "channels m"]:
    """The kept state in each slot of the cut layer's features, n in an empty one.

    m is rounded up to a quarter of the uncut layer's, so that few compilations serve all cuts.
    """
    channel = np.asarray(layer.channels())
    kept, place = np.flatnonzero(keep), features.places(channel[keep])
    quarter = max(-(-features.extent(features.places(channel))[1] // 4), 1)
    m = -(-features.extent(place)[1] // quarter) * quarter
    index = np.full((channels(layer), m), channel.size)
    index[tuple(place)] = kept
    return index


def real_readout(layer: StateSpaceLayer, m: int) -> RealReadout:
    """The layer's own output map, with m slots in a channel."""
    C = channels(layer)
    return RealReadout(features.readout(layer.modes(), C, m), np.asarray(layer.D[...], np.float64).reshape(C, -1))


def sums(
    layer: StateSpaceLayer,
    index: Int[Array, "channels m"],
    u: Float[Array, "B L H"],
    y: Float[Array, "B L H"],
    mask: Float[Array, "B L"],
    sets: Float[Array, "S B"],
) -> dict[str, Array]:
    """Sums of a batch from which `expand` computes those of the regression, inside a compiled function.

    Args:
        layer: the layer whose states are the regressors.
        index: the states to use, from `slots`.
        u: its inputs.
        y: the outputs to reach.
        mask: 1 for true steps and 0 for the padding behind them.
        sets: 1 where a sequence belongs to a set.
    """
    if gram.has_single_inputs(layer):
        return gram.blocks(layer, index, [u, y], mask.sum(axis=1).astype(jnp.int32), sets)
    (_, L, H), (C, m), dtype = u.shape, index.shape, layer.D.dtype
    F, outputs = 2 * len(layer.reverse) * m, H // C

    def add(u: Array, y: Array, mask: Array, sets: Array) -> dict[str, Array]:
        z = features.stack(layer.state_pairs(u), index) * mask[..., None, None]
        u, y = ((a.astype(dtype) * mask[..., None]).reshape(*a.shape[:2], C, outputs) for a in (u, y))

        def products(a: Array, b: Array) -> Array:
            # One for each sequence. One for each set, with zeros for all others, would take twice as long.
            return jnp.einsum("blcf,blcg->bcfg", a, b, precision="highest")

        of_z = {"zz": products(z, z), "zu": products(z, u), "zy": products(z, y)}
        new = {**of_z, "uu": (u * u).sum(axis=1), "uy": (u * y).sum(axis=1), "yy": (y * y).sum(axis=1)}
        return {name: jnp.tensordot(sets.T, a, axes=1, precision="highest") for name, a in new.items()}

    rows = _NUMBERS // (C * (F + 2 * outputs) * (L + F))
    return gram.sum_chunks(add, rows, (u, y, mask, sets.T))


def expand(layer: StateSpaceLayer, index: Int[np.ndarray, "channels m"], found: Mapping[str, np.ndarray]) -> list[Sums]:
    """The sums of the regression for each set, from `sums` added over all batches in float64."""
    if "blocks" in found:
        F = 2 * len(layer.reverse) * index.shape[1]
        outer = gram.expand(layer, index, found)
        zz, zu, zy = np.split(outer[..., :F, :], [F, F + 1], axis=-1)
        uu, uy, yy = (outer[..., i, j, None] for i, j in ((F, F), (F, F + 1), (F + 1, F + 1)))
        found = {"zz": zz, "zu": zu, "zy": zy, "uu": uu, "uy": uy, "yy": yy}
    return [Sums(**dict(zip(found, parts, strict=True))) for parts in zip(*found.values(), strict=True)]


def solve(data: Sums, old: RealReadout) -> RealReadout:
    """The G and D of least squares, with ridges towards the old ones."""
    unit, scale = features.normalized(data.zz)
    # Regress what the old readout leaves of the outputs, e = y − G z − D u.
    ze = data.zy - data.zz @ old.G.swapaxes(1, 2) - data.zu * old.D[:, None]
    ue = data.uy - np.einsum("cof,cfo->co", old.G, data.zu) - old.D * data.uu
    zu, ze = (a / scale[:, :, None] for a in (data.zu, ze))
    of_u, of_e = np.split(np.linalg.solve(unit, np.concatenate([zu, ze], axis=2)), 2, axis=2)
    # The Schur complement: what z leaves of u, and of the product of u and e.
    ridge = np.maximum(features.RIDGE * data.uu, np.finfo(float).tiny)
    rest = np.maximum(data.uu - np.sum(zu * of_u, axis=1), 0) + ridge
    D = (ue - np.sum(zu * of_e, axis=1)) / rest
    G = (of_e - of_u * D[:, None]) / scale[:, :, None]
    return RealReadout(old.G + G.swapaxes(1, 2), old.D + D)


def error(data: Sums, readout: RealReadout) -> float:
    """Σ ‖y − G z − D u‖², relative to Σ ‖y‖²."""
    G, D = readout
    squares = data.yy + D**2 * data.uu + np.sum((G @ data.zz) * G, axis=2)
    products = np.einsum("cof,cfo->co", G, data.zy) + D * data.uy - D * np.einsum("cof,cfo->co", G, data.zu)
    return float(np.sum(squares - 2 * products)) / max(float(np.sum(data.yy)), np.finfo(float).tiny)
