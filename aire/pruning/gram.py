"""Sums Σ r rᵀ over the true time steps of a batch, inside a compiled function. r holds a layer's states z.

A layer whose states see all features, such as S5, needs all its states and one matmul.

A channel with one input, as in S4D, does not. Its rows are r = [z; signals], with its inputs the first signal. In a
block of T steps they are a linear map of the states before it and its signals, r_k = M_k w, so
Σ_k r_k r_kᵀ = Σ_k M_k (Σ w wᵀ) M_kᵀ, with one product w wᵀ for T steps. `expand` applies M once, after the last batch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Complex128, Float, Float64, Int

from aire.pruning.moments import accurate_eigenvalues
from aire.ssm import StateSpaceLayer
from aire.ssm.scan import complex_multiply, diagonal_scan
from aire.utils.errors import UserError

# Numbers in the states computed at once, 16 MiB. The states of a batch would need gigabytes, and leave the caches.
_STATE_NUMBERS = 2**22
_BLOCK = 16  # T

Sums = dict[str, Array]


def moments(
    layer: StateSpaceLayer, index: Int[Array, "c m"], u: Float[Array, "B L H"], lengths: Int[Array, "B"] | None
) -> Sums:
    """Sums of all states, from which `expand_moments` computes Σ z zᵀ over the true steps.

    Args:
        layer: the layer.
        index: the state in each slot of a channel, n in an empty one.
        u: its inputs.
        lengths: the number of true steps of each sequence, or None if all are.
    Raises:
        UserError: a bank whose channels have several inputs.
    """
    (channels, m), (B, L, _) = index.shape, u.shape
    if layer.n_states == 0:
        return {"outer": jnp.zeros((channels, 0, 0))}
    if has_single_inputs(layer):
        lengths = jnp.full(B, L) if lengths is None else lengths
        return blocks(layer, index, [u[..., :channels]], lengths, jnp.ones((1, B)))
    if channels > 1:
        raise UserError(f"moments of {channels} channels with several inputs each: expected one channel, or one input")
    rows = _STATE_NUMBERS // (2 * len(layer.reverse) * m * L)
    return sum_chunks(lambda *chunk: _of_states(layer, *chunk), rows, (u,) if lengths is None else (u, lengths))


def expand_moments(
    layer: StateSpaceLayer, index: Int[np.ndarray, "c m"], found: Mapping[str, np.ndarray]
) -> Float64[np.ndarray, "c F F"]:
    """Σ z zᵀ from the `moments` of all batches."""
    if "blocks" not in found:
        return np.asarray(found["outer"], np.float64)
    F = 2 * len(layer.reverse) * index.shape[1]
    return expand(layer, index, found)[0, :, :F, :F]


def has_single_inputs(layer: StateSpaceLayer) -> bool:
    """Whether each state has one input, that of its channel, so that `blocks` applies."""
    return layer.discrete()[1].shape[1] == 1


def sum_chunks(add: Callable[..., Sums], rows: int, arrays: Sequence[Array]) -> Sums:
    """Add the sums of all sequences, a few rows of the batch at a time. Added rows hold zeros."""
    rows = int(np.clip(rows, 1, len(arrays[0])))
    chunks = [
        jnp.pad(a, [(0, -len(a) % rows)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, rows, *a.shape[1:]) for a in arrays
    ]
    return sum_scan(lambda chunk: add(*chunk), chunks)


def sum_scan(add: Callable[[Any], Sums], chunks: Any) -> Sums:
    """Add the sums of all chunks, the first axis of every array, one after the other."""
    shapes = jax.eval_shape(add, jax.tree.map(lambda a: a[0], chunks))
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.scan(lambda total, c: (jax.tree.map(jnp.add, total, add(c)), None), zero, chunks)[0]


def _of_states(layer: StateSpaceLayer, u: Float[Array, "B L H"], lengths: Int[Array, "B"] | None = None) -> Sums:
    """Σ z zᵀ from the states of one channel."""
    z = layer.state_pairs(u).reshape(*u.shape[:2], -1)
    if lengths is not None:
        z *= (jnp.arange(u.shape[1])[None] < lengths[:, None]).astype(z.dtype)[..., None]
    z = z.reshape(-1, z.shape[-1])
    return {"outer": jnp.matmul(z.T, z, precision="highest")[None]}


def blocks(
    layer: StateSpaceLayer,
    index: Int[Array, "c m"],
    signals: Sequence[Float[Array, "B L c"]],
    lengths: Int[Array, "B"],
    sets: Float[Array, "S B"],
) -> Sums:
    """Sums of each set of sequences, from which `expand` computes Σ r rᵀ of rows r = [z; signals].

    Args:
        layer: a layer whose states have one input each.
        index: the states that z holds, by channel and slot. n in an empty slot.
        signals: the inputs, then any others.
        lengths: the number of true steps of each sequence.
        sets: 1 where a sequence belongs to a set.
    """
    (channels, m), (B, L, _) = index.shape, signals[0].shape
    lam, B_bar = layer.discrete()
    lam, B_bar = (jnp.take(a, index.ravel(), mode="fill", fill_value=0) for a in (lam, B_bar[:, 0]))
    s = jnp.stack([a.astype(lam.real.dtype) for a in signals], axis=2)  # (B, L, signals, c)
    s = jnp.pad(s, [(0, 0), (0, -L % _BLOCK), (0, 0), (0, 0)])
    s = s.reshape(B, -1, _BLOCK, *s.shape[2:])  # (B, blocks, T, signals, c)
    numbers = channels * (2 * len(layer.reverse) * m + _BLOCK * len(signals)) * s.shape[1]

    def add(s: Array, lengths: Array, sets: Array) -> Sums:
        return _of_blocks(lam, B_bar, layer.reverse, s, lengths, sets)

    return sum_chunks(add, _STATE_NUMBERS // numbers, (s, lengths, sets.T))


def _of_blocks(
    lam: Complex[Array, "cm"],
    B_bar: Complex[Array, "cm"],
    reverse: tuple[bool, ...],
    s: Float[Array, "B N T S c"],
    lengths: Int[Array, "B"],
    sets: Float[Array, "B sets"],
) -> Sums:
    """Σ w wᵀ over the blocks of true steps of each channel, and Σ r rᵀ over the true steps of an incomplete block."""
    B, N, T, _, channels = s.shape
    u, size = s[:, :, :, 0], (channels, lam.size // channels)
    before = jnp.stack([_before(lam, B_bar, u, backward) for backward in reverse], axis=2)
    w = jnp.concatenate([_by_channel(before, size), jnp.moveaxis(s, (4, 3), (0, 3)).reshape(channels, B, N, -1)], -1)
    complete = lengths[:, None] // T > jnp.arange(N)[None]
    row, last = jnp.arange(B), jnp.minimum(lengths // T, N - 1)
    z = _states(lam, B_bar, u[row, last], before[row, last], reverse)
    r = jnp.concatenate([_by_channel(z, size), jnp.moveaxis(s[row, last], 3, 0)], axis=-1)
    true = jnp.arange(T)[None] < lengths[:, None] % T
    return {"blocks": _gram(w, complete, sets), "outer": _gram(r, true, sets)}


def _before(
    lam: Complex[Array, "cm"], B_bar: Complex[Array, "cm"], u: Float[Array, "B N T c"], backward: bool
) -> Float[Array, "B N 2 cm"]:
    """The states before each block, in the order of the direction."""
    B, N, T, channels = u.shape
    powers = jnp.cumprod(jnp.broadcast_to(lam, (T, lam.size)), axis=0)  # λ̄, …, λ̄^T
    lags = jnp.concatenate([jnp.ones_like(powers[:1]), powers[:-1]])
    response = _pairs(B_bar[None] * (lags if backward else lags[::-1])).reshape(T, 2, channels, -1)
    # What the inputs of a block add to the states at its end.
    v = jnp.einsum("cbkt,ctpm->cbkpm", jnp.moveaxis(u, 3, 0), jnp.moveaxis(response, 2, 0), precision="highest")
    v = jnp.moveaxis(v, 0, 3).reshape(B, N, 2, -1)
    end = diagonal_scan(powers[-1], v, reverse=(backward,))[:, :, 0]
    padded = jnp.pad(end, [(0, 0), (0, 1) if backward else (1, 0), (0, 0), (0, 0)])
    return padded[:, 1:] if backward else padded[:, :-1]


def _states(
    lam: Complex[Array, "cm"],
    B_bar: Complex[Array, "cm"],
    u: Float[Array, "B T c"],
    before: Float[Array, "B R 2 cm"],
    reverse: tuple[bool, ...],
) -> Float[Array, "B T R 2 cm"]:
    """The states of one block from its inputs and the states before it."""
    inputs = jnp.repeat(u, B_bar.size // u.shape[-1], axis=-1)[:, :, None]
    v, start = inputs * _pairs(B_bar)[None, None], complex_multiply(_pairs(lam)[None, None], before)
    return jnp.concatenate(
        [
            diagonal_scan(lam, v.at[:, -1 if backward else 0].add(start[:, r]), reverse=(backward,))
            for r, backward in enumerate(reverse)
        ],
        axis=2,
    )


def _pairs(a: Complex[Array, "*A n"]) -> Float[Array, "*A 2 n"]:
    """Real and imaginary part."""
    return jnp.stack([a.real, a.imag], axis=-2)


def _by_channel(x: Float[Array, "B K R 2 cm"], size: tuple[int, int]) -> Float[Array, "c B K F"]:
    """The features of each channel."""
    B, K, R, _, _ = x.shape
    return jnp.moveaxis(x.reshape(B, K, 2 * R, *size), 3, 0).reshape(size[0], B, K, -1)


def _gram(w: Float[Array, "c B K W"], used: Bool[Array, "B K"], sets: Float[Array, "B S"]) -> Float[Array, "S c W W"]:
    """Σ w wᵀ over the used rows of each set."""
    weights = (sets.T[:, :, None] * used.astype(w.dtype)[None]).reshape(sets.shape[1], -1)
    w = w.reshape(len(w), -1, w.shape[-1])
    return jnp.einsum("cskv,ckw->scvw", weights[None, ..., None] * w[:, None], w, precision="highest")


def expand(
    layer: StateSpaceLayer, index: Int[np.ndarray, "c m"], found: Mapping[str, np.ndarray]
) -> Float64[np.ndarray, "S c R R"]:
    """Σ r rᵀ of each set, from the `blocks` of all batches."""
    modes = layer.modes()
    lam, B_bar = accurate_eigenvalues(modes), np.asarray(modes.B_bar, np.complex128)[:, 0]
    lam, B_bar = (np.append(a, 0)[index] for a in (lam, B_bar))
    result = np.array(found["outer"], np.float64)
    for total, Grams in zip(result, found["blocks"], strict=True):
        for c, Gram in enumerate(Grams):
            crossed = _rows_of_block(lam[c], B_bar[c], layer.reverse, np.asarray(Gram, np.float64))
            total[c] += _sum_rows(lam[c], B_bar[c], layer.reverse, crossed.swapaxes(1, 2))
    return result


def _rows_of_block(
    lam: Complex128[np.ndarray, "m"],
    B_bar: Complex128[np.ndarray, "m"],
    reverse: tuple[bool, ...],
    w: Float64[np.ndarray, "W N"],
) -> Float64[np.ndarray, "T R N"]:
    """r_k = M_k w at each step of a block, by the recurrence.

    w has the states before the block, F numbers, then T numbers of each signal.
    """
    T, F, N = _BLOCK, 2 * len(reverse) * lam.size, w.shape[1]
    start, signals = w[:F].reshape(len(reverse), 2, -1, N), w[F:].reshape(-1, T, N)
    r = np.empty((T, F + len(signals), N))
    z = r[:, :F].reshape(T, *start.shape)
    for d, backward in enumerate(reverse):
        x = start[d, 0] + 1j * start[d, 1]
        for k in range(T)[:: -1 if backward else 1]:
            x = lam[:, None] * x + B_bar[:, None] * signals[0, k]
            z[k, d] = x.real, x.imag
    r[:, F:] = signals.swapaxes(0, 1)
    return r


def _sum_rows(
    lam: Complex128[np.ndarray, "m"],
    B_bar: Complex128[np.ndarray, "m"],
    reverse: tuple[bool, ...],
    w: Float64[np.ndarray, "T W N"],
) -> Float64[np.ndarray, "R N"]:
    """Σ_k M_k w_k, with another w for each step.

    Of the states that is Σ_j λ̄^j (λ̄ x_j + B̄ Σ_k u_k,k-j), with x_k and u_k the states and inputs in w_k, because
    inputs of the same lag j have the same factor. Backward, the steps count from the end.
    """
    T, F, N = _BLOCK, 2 * len(reverse) * lam.size, w.shape[2]
    start, signals = w[:, :F].reshape(T, len(reverse), 2, -1, N), w[:, F:].reshape(T, -1, T, N)
    total = np.empty((F + signals.shape[1], N))
    z = total[:F].reshape(start.shape[1:])
    powers = lam ** np.arange(T)[:, None]
    for d, backward in enumerate(reverse):
        x, u = start[:, d], signals[:, 0]
        if backward:
            x, u = x[::-1], u[::-1, ::-1]
        lagged = np.stack([np.trace(u, -lag) for lag in range(T)])
        x = np.einsum("km,kmn->mn", powers * lam, x[:, 0] + 1j * x[:, 1]) + (powers * B_bar).T @ lagged
        z[d] = x.real, x.imag
    total[F:] = np.einsum("kskn->sn", signals)
    return total
