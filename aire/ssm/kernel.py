"""Convolution kernels of a bank of independent systems, in closed form, and the convolution itself, by FFT."""

import math

import jax
import jax.numpy as jnp
import scipy.fft
from jax import Array

# States that one small matmul takes together. Larger tiles waste more on channels that hold few states, smaller ones
# more on partial sums; 8 was best, or close to it, from full banks down to a tenth of the states.
_TILE = 8


def bank_kernel(log_Lambda_bar: Array, weights: Array, channel: Array, channels: int, length: int) -> Array:
    """K[r, h, l] = Σ_{i in channel h} Re(w_ri λ̄_i^l), the impulse responses of a bank of modes.

    With l = S a + b the Vandermonde matrix is a product, λ̄^l = (λ̄^S)^a λ̄^b, so that 2√L exponentials per state do in
    place of L, and the sum over states is a matmul. Channels hold different numbers of states, so these matmuls run
    over tiles of a few states of one channel each; memory and time go with the states that there are.

    Args:
        log_Lambda_bar: logarithms of the discrete eigenvalues, complex (n,).
        weights: w = C B̄, complex (R, n).
        channel: of each state, int32 (n,), ascending.
        channels: H.
        length: L.
    Returns:
        Real (R, H, L).
    """
    R, n = weights.shape
    if n == 0:
        return jnp.zeros((R, channels, length), weights.real.dtype)
    index, tile_channel = _tiles(channel, channels)
    log_lam = jnp.take(log_Lambda_bar, index, mode="fill", fill_value=0)
    w = jnp.take(weights, index, axis=1, mode="fill", fill_value=0)  # an empty place of a tile adds nothing
    K = _tile_kernels(log_lam, jnp.moveaxis(w, 0, 1), length)
    return jnp.moveaxis(jax.ops.segment_sum(K, tile_channel, channels, indices_are_sorted=True), 0, 1)


def _tile_kernels(log_lam: Array, w: Array, length: int) -> Array:
    """Every tile's own kernel, (tiles, R, L), from its log λ̄, (tiles, T), and weights, (tiles, R, T)."""
    tiles, R, _ = w.shape
    S = math.isqrt(length - 1) + 1  # ⌈√L⌉
    fine = jnp.exp(log_lam[:, None] * jnp.arange(S)[:, None])  # λ̄^b: (tiles, S, T)
    coarse = jnp.exp(log_lam[:, None] * (S * jnp.arange(-(-length // S)))[:, None])  # (λ̄^S)^a: (tiles, L/S, T)
    coarse = (w[:, :, None] * coarse[:, None]).reshape(tiles, -1, _TILE)  # (tiles, R L/S, T)
    # One real matmul per tile, of [Re | −Im] and [Re | Im]. In full precision also where the default is lower (TF32 on
    # GPUs), for its rounding would be an error of the kernel.
    fine = jnp.concatenate([fine.real, fine.imag], axis=-1)
    coarse = jnp.concatenate([coarse.real, -coarse.imag], axis=-1)
    K = jnp.einsum("nat,nbt->nab", coarse, fine, precision="highest")
    return K.reshape(tiles, R, -1)[..., :length]


def _tiles(channel: Array, channels: int) -> tuple[Array, Array]:
    """Lay the states out in tiles of one channel each.

    Returns:
        Index of the state at every place of every tile, int (tiles, T), n where the place is empty; and the channel of
        every tile, int32 (tiles,), ascending. How many tiles are in use depends on the channels' values, so there are
        as many as can be needed: every channel may begin one that it does not fill.
    """
    n = channel.size
    tiles = min(n, n // _TILE + channels)
    states = jnp.bincount(channel, length=channels)
    used = -(-states // _TILE)
    first_state, first_tile = jnp.cumsum(states) - states, jnp.cumsum(used) - used
    place = _TILE * first_tile[channel] + jnp.arange(n) - first_state[channel]
    index = jnp.full(tiles * _TILE, n).at[place].set(jnp.arange(n)).reshape(tiles, _TILE)
    tile_channel = jnp.full(tiles, channels - 1, channel.dtype).at[place // _TILE].set(channel)
    return index, tile_channel


def convolve(u: Array, K: Array) -> Array:
    """y_k = Σ_{j ≤ k} K_0[k − j] u_j, and, where there are two kernels, + Σ_{j ≥ k} K_1[j − k] u_j, for every channel.

    Args:
        u: inputs (B, L, H).
        K: kernels (R, H, L): forward, and backward if R = 2.
    Returns:
        (B, L, H).
    """
    length = u.shape[1]
    size = scipy.fft.next_fast_len(2 * length - 1, real=True)  # long enough that the ends do not wrap around
    K_f = jnp.fft.rfft(K, size)
    # Running backward in time is complex conjugation in frequency.
    K_f = K_f[0] if len(K) == 1 else K_f[0] + K_f[1].conj()
    u_f = jnp.fft.rfft(u.swapaxes(1, 2), size)
    return jnp.fft.irfft(u_f * K_f, size)[..., :length].swapaxes(1, 2)
