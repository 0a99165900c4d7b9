"""Sums Σ z zᵀ of a layer's states z over the true time steps of a batch, inside a compiled function.

A layer whose states see all features, such as S5, needs all its states and one matmul.

A channel with one input, as in S4D, does not. The states in a block of T steps are a linear map of the states before
it and its T inputs, z_k = M_k w, so Σ_k z_k z_kᵀ = Σ_k M_k (Σ w wᵀ) M_kᵀ, with one product w wᵀ for T steps. `expand`
applies M once, after the last batch.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Complex128, Float, Float64, Int

from aire.pruning import features
from aire.pruning.moments import accurate_eigenvalues
from aire.ssm import Modes, StateSpaceLayer
from aire.ssm.scan import complex_multiply, diagonal_scan
from aire.utils.errors import UserError

# Numbers in the states computed at once, 16 MiB. The states of a batch would need gigabytes, and leave the caches.
_STATE_NUMBERS = 2**22
_BLOCK = 16  # T

Sums = dict[str, Array]
Extent = tuple[int, int]  # the number of channels, and the largest number m of states in one


def sums(layer: StateSpaceLayer, size: Extent, u: Float[Array, "B L H"], lengths: Int[Array, "B"] | None) -> Sums:
    """Sums from which `expand` computes Σ z zᵀ over the true steps, a few rows of the batch at a time.

    Raises:
        UserError: a bank whose channels have several inputs.
    """
    channels, m = size
    if layer.n_states == 0:
        return {"outer": jnp.zeros((channels, 0, 0))}
    B, L, _ = u.shape
    single = layer.discrete()[1].shape[1] == 1
    if channels > 1 and not single:
        raise UserError(f"moments of {channels} channels with several inputs each: expected one channel, or one input")
    add = _of_channels if single else _of_states
    numbers = 2 * len(layer.reverse) * channels * m * (-(-L // _BLOCK) if single else L)
    rows = int(np.clip(_STATE_NUMBERS // numbers, 1, B))
    # Added rows hold zeros, and so do their states.
    chunks = [_split(a, rows) for a in (u, lengths) if a is not None]
    shapes = jax.eval_shape(lambda chunk: add(layer, size, *chunk), [a[0] for a in chunks])
    zero = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return jax.lax.scan(lambda total, c: (jax.tree.map(jnp.add, total, add(layer, size, *c)), None), zero, chunks)[0]


def _split(a: Array, rows: int) -> Array:
    """Split the first axis into chunks of rows, the last filled with zeros."""
    return jnp.pad(a, [(0, -len(a) % rows)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, rows, *a.shape[1:])


def _of_states(
    layer: StateSpaceLayer, size: Extent, u: Float[Array, "B L H"], lengths: Int[Array, "B"] | None = None
) -> Sums:
    """Σ z zᵀ from the states of one channel."""
    z = layer.state_pairs(u).reshape(*u.shape[:2], -1)
    if lengths is not None:
        z *= (jnp.arange(u.shape[1])[None] < lengths[:, None]).astype(z.dtype)[..., None]
    z = z.reshape(-1, z.shape[-1])
    return {"outer": jnp.matmul(z.T, z, precision="highest")[None]}


def _of_channels(
    layer: StateSpaceLayer, size: Extent, u: Float[Array, "B L H"], lengths: Int[Array, "B"] | None = None
) -> Sums:
    """Σ w wᵀ over the blocks of true steps of each channel, and Σ z zᵀ over the true steps of an incomplete block."""
    B, L, _ = u.shape
    lam, B_bar = _flat(layer, size)
    u = u[..., : size[0]].astype(lam.real.dtype)
    u = jnp.pad(u, [(0, 0), (0, -L % _BLOCK), (0, 0)]).reshape(B, -1, _BLOCK, size[0])  # (B, blocks, T, channels)
    before = jnp.stack([_before(lam, B_bar, u, backward) for backward in layer.reverse], axis=2)
    w = jnp.concatenate([_by_channel(before, size), jnp.moveaxis(u, 3, 0)], axis=3)  # (channels, B, blocks, W)
    if lengths is None and L % _BLOCK:
        lengths = jnp.full(B, L)
    if lengths is None:
        return {"blocks": _gram(w)}
    complete = lengths[:, None] // _BLOCK > jnp.arange(u.shape[1])[None]
    last = jnp.minimum(lengths // _BLOCK, u.shape[1] - 1)
    z = _states(lam, B_bar, u[jnp.arange(B), last], before[jnp.arange(B), last], layer.reverse)
    true = jnp.arange(_BLOCK)[None] < lengths[:, None] % _BLOCK
    return {
        "blocks": _gram(w * complete.astype(w.dtype)[None, ..., None]),
        "outer": _gram(_by_channel(z, size) * true.astype(w.dtype)[None, ..., None]),
    }


def _flat(layer: StateSpaceLayer, size: Extent) -> tuple[Complex[Array, "cm"], Complex[Array, "cm"]]:
    """λ̄ and B̄ of channels of equal size m, with zeros in empty slots."""
    channel = layer.channels()
    place = channel * size[1] + jnp.arange(channel.size) - jnp.searchsorted(channel, channel)
    lam, B_bar = layer.discrete()
    return tuple(jnp.zeros(size[0] * size[1], a.dtype).at[place].set(a) for a in (lam, B_bar[:, 0]))  # type: ignore


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


def _by_channel(x: Float[Array, "B K R 2 cm"], size: Extent) -> Float[Array, "c B K F"]:
    """The features of each channel."""
    B, K, R, _, _ = x.shape
    return jnp.moveaxis(x.reshape(B, K, 2 * R, *size), 3, 0).reshape(size[0], B, K, -1)


def _gram(w: Float[Array, "c B K W"]) -> Float[Array, "c W W"]:
    w = w.reshape(len(w), -1, w.shape[-1])
    return jnp.einsum("ckv,ckw->cvw", w, w, precision="highest")


def expand(
    modes: Modes, reverse: tuple[bool, ...], place: features.Place, found: dict[str, np.ndarray]
) -> Float64[np.ndarray, "channels F F"]:
    """Σ z zᵀ from the sums of all batches."""
    outer, blocks = found.get("outer", 0), found.get("blocks")
    if blocks is None:
        return np.asarray(outer, np.float64)
    lam = features.in_channels(accurate_eigenvalues(modes), place)
    B_bar = features.in_channels(np.asarray(modes.B_bar, np.complex128)[:, 0], place)
    expanded = np.empty((len(lam), *2 * (2 * len(reverse) * lam.shape[1],)))
    for c, Gram in enumerate(blocks):
        M = _block_map(lam[c], B_bar[c], reverse)
        F, T, W = M.shape
        expanded[c] = (M.reshape(F * T, W) @ Gram).reshape(F, -1) @ M.reshape(F, -1).T
    return outer + expanded


def _block_map(
    lam: Complex128[np.ndarray, "m"], B_bar: Complex128[np.ndarray, "m"], reverse: tuple[bool, ...]
) -> Float64[np.ndarray, "F T W"]:
    """M with z_k = M_k w, where w has the states before the block, F numbers, then the T inputs of the block."""
    m, R, T = lam.size, len(reverse), _BLOCK
    powers = lam[:, None] ** np.arange(T + 1)
    k, i = np.arange(T), np.arange(m)
    M = np.zeros((R, 2, m, T, 2 * R * m + T))
    starts, responses = M[..., : 2 * R * m].reshape(R, 2, m, T, R, 2, m), M[..., 2 * R * m :]
    for r, backward in enumerate(reverse):
        age = powers[:, T - k if backward else k + 1]  # since the states before the block
        for p, q, part in ((0, 0, age.real), (0, 1, -age.imag), (1, 0, age.imag), (1, 1, age.real)):
            starts[r, p, i, :, r, q, i] = part
        lag = (k[:, None] - k[None]) * (-1 if backward else 1)  # from the input to the state
        response = np.where(lag >= 0, powers[:, abs(lag)] * B_bar[:, None, None], 0)
        responses[r] = response.real, response.imag
    return M.reshape(2 * R * m, T, -1)
