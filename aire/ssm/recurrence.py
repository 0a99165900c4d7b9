"""A bank of independent systems as a recurrence, and the choice between it and the convolution."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float, Int

from aire.ssm.kernel import bank_kernel, bank_tiles, convolve, tile_count
from aire.ssm.scan import complex_multiply

_CHUNK = 32  # steps of a chunk, a power of two: inside a chunk the systems are a small matmul
_TILE = 4  # states of a tile
# Rows of a power of two would all lie in the same few sets of a cache. Transposing them then takes 2.5 times as long.
_SKEW = 16

MARGIN = 0.9  # choose the recurrence below this share of the convolution's cost


def run_bank(
    u: Float[Array, "B L H"],
    log_Lambda_bar: Complex[Array, "n"],
    weights: Complex[Array, "R n"],
    channel: Int[Array, "n"],
) -> Float[Array, "B L H"]:
    """The outputs of a bank of modes, forward, and also backward with the second row of weights if R = 2.

    On a CPU this is a recurrence where `is_faster` says so, and everywhere else a convolution. Gradients are always
    those of the convolution: they need the spectra of inputs and kernels, which are most of its cost.

    Args:
        u: inputs.
        log_Lambda_bar, weights, channel: as in `bank_kernel`.
    """
    form = jax.jit(_cheaper) if is_faster(*u.shape, *weights.shape) else _convolution
    return form(u, log_Lambda_bar, weights, channel)


def is_faster(batch: int, length: int, channels: int, directions: int, states: int) -> bool:
    """Whether the recurrence is faster than the convolution in a forward pass on one CPU.

    On several, batches are divided between them, and the recurrence takes one sequence after another.
    """
    by_recurrence, by_convolution = costs(batch, length, channels, directions, states)
    return by_recurrence < MARGIN * by_convolution and jax.device_count() == 1


def costs(batch: int, length: int, channels: int, directions: int, states: int) -> tuple[float, float]:
    """Nanoseconds of the recurrence and of the convolution on one CPU core, forward, in a rough model.

    Set by 108 pairs of times: 64 to 256 channels, 5 to 100 % of 32 states each, 1 to 32 sequences of 100 to 4096
    steps. The convolution's cost is a low one, as it is while a batch fits into the cache.
    """
    steps, tiles = -(-length // _CHUNK) * _CHUNK, tile_count(states, channels, _TILE)
    each_tile = (0.85 + 0.45 * directions) * (1 + length / 4096)  # long sequences leave the cache
    by_recurrence = batch * steps * (5 * channels + each_tile * tiles) + 2500 * directions * tiles + 1500 * channels
    kernel = 9.5 * directions * states * math.sqrt(length)
    return by_recurrence, 1.2 * batch * channels * length * math.log2(2 * length) + kernel


def _convolution(u: Array, log_Lambda_bar: Array, weights: Array, channel: Array) -> Array:
    _, L, H = u.shape
    return convolve(u, bank_kernel(log_Lambda_bar, weights, channel, H, L))


@jax.custom_vjp
def _cheaper(u: Array, log_Lambda_bar: Array, weights: Array, channel: Array) -> Array:
    arrays = u, log_Lambda_bar, weights, channel
    return lax.platform_dependent(*arrays, cpu=recurrence, default=_convolution)


def _cheaper_fwd(u: Array, log_Lambda_bar: Array, weights: Array, channel: Array) -> tuple[Array, Callable[..., Any]]:
    return jax.vjp(lambda u, log, w: _convolution(u, log, w, channel), u, log_Lambda_bar, weights)


def _cheaper_bwd(gradients: Callable[..., Any], g: Array) -> tuple[Array | None, ...]:
    return *gradients(g), None


_cheaper.defvjp(_cheaper_fwd, _cheaper_bwd)


def recurrence(
    u: Float[Array, "B L H"],
    log_Lambda_bar: Complex[Array, "n"],
    weights: Complex[Array, "R n"],
    channel: Int[Array, "n"],
) -> Float[Array, "B L H"]:
    """`run_bank` by a recurrence over chunks of time. Time and memory are proportional to the number of states.

    Steps reach later steps of their chunk by a Toeplitz matrix of each channel, and later chunks through the states:
    a matmul adds up what a chunk leaves in the states, a scan takes the states from chunk to chunk, and another matmul
    reads them at each step. As in `bank_kernel`, the states are in tiles of one channel each. Sequences run one after
    another, so what a sequence needs stays in the cache.
    """
    _, L, H = u.shape
    log_lam, w, tile_channel = bank_tiles(log_Lambda_bar, weights, channel, H, _TILE)
    Lambda_bar_chunk = jnp.exp(_CHUNK * log_lam)
    matrices = _matrices(log_lam, w, tile_channel, H)

    def sequence(u: Array) -> Array:
        within, enter, leave = matrices
        chunks = u.reshape(H, -1, _CHUNK)
        tiles = u.at[tile_channel].get(mode="promise_in_bounds").reshape(-1, *chunks.shape[1:])
        x = jnp.einsum("kcs,ksp->kcp", tiles, enter).reshape(*tiles.shape[:2], len(weights), 2, _TILE)
        x = _before_chunks(Lambda_bar_chunk, x)
        read = jnp.einsum("kcp,kpt->kct", x.reshape(*tiles.shape[:2], -1), leave)
        y = jnp.einsum("hcs,hst->hct", chunks, within).reshape(H, -1)
        y = y.at[tile_channel].add(read.reshape(len(read), -1), indices_are_sorted=True, mode="promise_in_bounds")
        return jnp.pad(y, [(0, 0), (0, _SKEW)])

    u = jnp.pad(u, [(0, 0), (0, -L % _CHUNK), (0, 0)])
    return lax.map(sequence, u.swapaxes(1, 2))[:, :, :L].swapaxes(1, 2)


def _matrices(log_lam: Array, w: Array, tile_channel: Array, channels: int) -> tuple[Array, Array, Array]:
    """The matrices from the inputs of a chunk to its outputs, from its inputs to states, and from states to outputs.

    Args:
        log_lam: log λ̄ of each tile, (k, S).
        w: weights of each tile, (k, R, S).
        tile_channel: channel of each tile, (k,).
        channels: H.
    Returns:
        (H, T, T), (k, T, R 2 S) and (k, R 2 S, T), T steps of a chunk.
    """
    powers = jnp.ones_like(log_lam)[:, None]  # λ̄^t: (k, T, S), by doubling
    while (steps := powers.shape[1]) < _CHUNK:
        powers = jnp.concatenate([powers, powers * jnp.exp(steps * log_lam)[:, None]], axis=1)
    responses = w[:, :, None] * powers[:, None]  # w λ̄^t: (k, R, T, S)
    later = responses * jnp.exp(log_lam)[:, None, None]  # w λ̄^(t + 1)
    R = w.shape[1]
    enter = jnp.stack([powers[:, ::-1], powers][:R], axis=2)  # (k, T, R, S)
    enter = jnp.stack([enter.real, enter.imag], axis=3).reshape(*powers.shape[:2], -1)
    leave = jnp.stack([later[:, 0], later[:, -1, ::-1]][:R], axis=1)  # (k, R, T, S)
    leave = jnp.stack([leave.real, -leave.imag], axis=2).swapaxes(3, 4).reshape(len(w), -1, _CHUNK)
    K = jax.ops.segment_sum(responses.real.sum(-1), tile_channel, channels, indices_are_sorted=True)
    return _toeplitz(K), enter, leave


def _toeplitz(K: Float[Array, "H R T"]) -> Float[Array, "H T T"]:
    """M[h, s, t] = K[h, 0, t − s], and K[h, 1, s − t] if there are two directions. The diagonal is their sum."""
    H, R, T = K.shape
    before = K[:, 1, :0:-1] if R == 2 else jnp.zeros((H, T - 1), K.dtype)
    lags = jnp.concatenate([K.sum(axis=1)[:, :1], K[:, 0, 1:], before], axis=1)  # 0 … T − 1, −(T − 1) … −1
    # Rows of one element less than the period: each starts one lag earlier than the row before it.
    return jnp.tile(lags, (1, T))[:, : T * (2 * T - 2)].reshape(H, T, 2 * T - 2)[:, :, :T]


def _before_chunks(Lambda_bar: Complex[Array, "k S"], x: Float[Array, "k C R 2 S"]) -> Float[Array, "k C R 2 S"]:
    """The states before each chunk (in the second direction: after it) from what every chunk adds to them."""
    tiles, chunks, R, _, S = x.shape
    lam = jnp.stack([Lambda_bar.real, Lambda_bar.imag], axis=1)[:, None, None]
    nothing = jnp.zeros((tiles, 1, 2, S), x.dtype)
    states = []
    for r in range(R):

        def step(k: Array, x: Array, r: int = r) -> Array:
            def at(k: Array) -> tuple[Array | int, ...]:
                return 0, chunks - 1 - k if r else k, r, 0, 0

            previous, added = (lax.dynamic_slice(x, at(i), (tiles, 1, 1, 2, S)) for i in (k - 1, k))
            return lax.dynamic_update_slice(x, complex_multiply(lam, previous) + added, at(k))

        x = lax.fori_loop(1, chunks, step, x)
        states.append([x[:, 1:, r], nothing] if r else [nothing, x[:, :-1, r]])
    return jnp.stack([jnp.concatenate(parts, axis=1) for parts in states], axis=2)
