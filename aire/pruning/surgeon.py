"""The surgeon: backward elimination of states by the exact rise of the layer's output error.

With y = G z and W = E[z zᵀ], the features g of a state cost G_g [(W⁻¹)_gg]⁻¹ G_gᵀ when they are dropped and the readout
of the others is fitted anew (Optimal Brain Surgeon; Hassibi and Stork, NeurIPS 1992). W⁻¹ and G are then updated:

    G ← G − G_g [(W⁻¹)_gg]⁻¹ (W⁻¹)_g:        W⁻¹ ← W⁻¹ − (W⁻¹)_:g [(W⁻¹)_gg]⁻¹ (W⁻¹)_g:

A state is one group: its real and imaginary part in all directions, or the N features of `selective`.
"""

import numpy as np
from jaxtyping import Float64, Int
from numpy.typing import ArrayLike

from aire.pruning import features, scores
from aire.pruning.moments import AnyMoments
from aire.ssm import Modes

SCORE = "surgeon"


@scores.register(SCORE, needs=("moments",), covariance=True)
def surgeon(modes: Modes, moments: AnyMoments) -> Float64[np.ndarray, "n"]:
    """The layer's output error at which the state goes, relative to the energy of its output.

    States go one after the other, the cheapest first. The error is that of all states gone so far with the readout of
    the others refitted, so one threshold on it leaves the same relative error in every layer, of any kind. Channels
    are independent: the layer's error is the sum of theirs, and its cheapest state is the cheapest of any channel.
    """
    order, rises = eliminate(moments.covariance(), moments.readout(modes), moments.per_state)
    # Merging sequences by their next element sorts them by their running maximum.
    merged = np.argsort(np.maximum.accumulate(rises, axis=1), axis=None, kind="stable")
    errors = np.empty(rises.size)
    errors[merged] = np.cumsum(rises.ravel()[merged])
    by_slot = np.empty(rises.shape)
    np.put_along_axis(by_slot, order, errors.reshape(rises.shape), axis=1)
    return moments.by_mode(by_slot) / max(moments.output_energy(), np.finfo(float).tiny)


def eliminate(
    W: Float64[np.ndarray, "channels F F"], G: Float64[np.ndarray, "channels O F"], r: int
) -> tuple[Int[np.ndarray, "channels m"], Float64[np.ndarray, "channels m"]]:
    """Drop the cheapest state of every channel, again and again, until none is left.

    Args:
        W: covariance of the features, flattened from (r, m).
        G: readout of the features.
        r: the number of features of each state.
    Returns:
        The slots in the order in which they go, and the rise of the output error with each.
    """
    channels = len(W)
    unit, scale = features.normalized(W)
    M, G = _grouped(np.linalg.inv(unit), G * scale[:, None], r)
    m = M.shape[1] // r
    slots, every = np.tile(np.arange(m), (channels, 1)), np.arange(channels)[:, None]
    order, rises = np.empty((channels, m), int), np.empty((channels, m))
    for step, left in enumerate(range(m, 0, -1)):
        costs = _costs(M, G, r)
        g = costs.argmin(axis=1)
        order[:, step], rises[:, step] = slots[every[:, 0], g], costs[every[:, 0], g]
        own = g[:, None] * r + np.arange(r)  # the features of the state that goes
        rows = M[every, own]  # (W⁻¹)_g:
        factors = np.linalg.solve(rows[every[:, :, None], np.arange(r)[:, None], own[:, None]], rows)
        G -= factors.swapaxes(1, 2) @ G[every, own]
        M -= rows.swapaxes(1, 2) @ factors
        # The last state takes the place of the one that goes, so that the others stay contiguous.
        last = (left - 1) * r + np.arange(r)
        slots[every[:, 0], g] = slots[:, left - 1]
        G[every, own] = G[:, last]
        M[every, own] = M[:, last]
        M[every[:, :, None], np.arange(left * r)[:, None], own[:, None]] = M[:, :, last]
        M, G = M[:, : last[0], : last[0]], G[:, : last[0]]
    return order, rises


def predicted_error(modes: Modes, moments: AnyMoments, keep: ArrayLike, *, refitted: bool) -> float:
    """The error of the output without the states that are not kept, relative to its energy, on these moments.

    Args:
        modes: modes of the layer.
        moments: moments of the layer.
        keep: bool (n,).
        refitted: whether the readout of the kept states is fitted anew.
    """
    kept = moments.kept(keep)
    unit, scale = features.normalized(moments.covariance())
    G = moments.readout(modes) * scale[:, None]
    lost = np.where(kept[:, None], 0, G)
    if refitted:  # the best readout of the kept features for what is lost: G_R W_RK W_KK⁻¹
        K = kept[:, :, None] & kept[:, None]
        others = np.where(kept[:, None], lost @ unit, 0).swapaxes(1, 2)
        lost = lost - np.linalg.solve(np.where(K, unit, np.eye(K.shape[1])), others).swapaxes(1, 2)
    return float(np.sum((lost @ unit) * lost)) / max(moments.output_energy(), np.finfo(float).tiny)


def _grouped(M: np.ndarray, G: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray]:
    """Reorder features so that the r features of a state are neighbours, and transpose G to (channels, F, O).

    With more outputs than features, only Gᵀ G matters: G is replaced by its triangular factor.
    """
    F = M.shape[1]
    by_state = np.arange(F).reshape(r, F // r).T.ravel()
    if G.shape[1] > F:
        G = np.asarray(np.linalg.qr(G, mode="r"))
    return M[:, by_state[:, None], by_state], np.ascontiguousarray(G[:, :, by_state].swapaxes(1, 2))


def _costs(M: np.ndarray, G: np.ndarray, r: int) -> np.ndarray:
    """tr(G_g [(W⁻¹)_gg]⁻¹ G_gᵀ) of every state, at least 0: (channels, m)."""
    channels, F, _ = G.shape
    blocks = np.stack([M[:, i::r, j::r].diagonal(axis1=1, axis2=2) for i in range(r) for j in range(r)], axis=-1)
    by_state = G.reshape(channels, F // r, r, -1)
    squares = by_state @ by_state.swapaxes(2, 3)
    costs = np.trace(np.linalg.solve(blocks.reshape(squares.shape), squares), axis1=2, axis2=3)
    return np.maximum(costs, 0)
