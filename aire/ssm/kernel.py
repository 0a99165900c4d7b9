"""Convolution kernels of a bank of independent systems, and the convolution itself, by FFT."""

import math

import jax
import jax.numpy as jnp
import scipy.fft
from jax import Array

from aire.ssm.scan import conj, diagonal_scan

# States that one small matmul takes together. Larger tiles waste more on channels that hold few states, smaller ones
# more on partial sums; 8 was best, or close to it, from full banks down to a tenth of the states.
_TILE = 8


def bank_kernel(log_Lambda_bar: Array, weights: Array, channel: Array, channels: int, length: int) -> Array:
    """K[r, h, l] = Σ_{i in channel h} Re(w_ri λ̄_i^l), the impulse responses of a bank of modes.

    With l = S a + b the Vandermonde matrix is a product, λ̄^l = (λ̄^S)^a λ̄^b, so that 2√L powers per state do in place
    of L, and the sum over states is a matmul. Channels hold different numbers of states, so these matmuls run
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
    fine = _responses(jnp.exp(log_lam), jnp.ones_like(log_lam)[:, None], S)  # λ̄^b
    coarse = _responses(jnp.exp(S * log_lam), w, -(-length // S))  # w (λ̄^S)^a
    # One real matmul per tile, of [Re | −Im] and [Re | Im]. In full precision also where the default is lower (TF32 on
    # GPUs), for its rounding would be an error of the kernel.
    coarse, fine = conj(coarse).reshape(tiles, -1, 2 * _TILE), fine.reshape(tiles, -1, 2 * _TILE)
    K = jnp.einsum("nat,nbt->nab", coarse, fine, precision="highest")
    return K.reshape(tiles, R, -1)[..., :length]


def _responses(lam: Array, w: Array, steps: int) -> Array:
    """w λ^k for k < steps: what an impulse w leaves, by the recurrence.

    By exponentials it would take XLA on a CPU five times as long, which forms sines and cosines anew for every use. The
    errors here grow with the steps, to 1e-5 of a float32 kernel over 128k; those of exponentials with the phase of λ^k,
    which is rounded before its sine is taken: 1e-7 for slow modes, 1e-3 for fast ones over 16k.

    Args:
        lam: λ, complex (tiles, T).
        w: complex (tiles, R, T).
        steps: how many.
    Returns:
        Real and imaginary part (tiles, R, steps, 2, T).
    """
    tiles, R, T = w.shape
    w = jnp.moveaxis(w, 1, 0).reshape(R, 1, -1)
    impulse = jnp.pad(jnp.stack([w.real, w.imag], axis=2), [(0, 0), (0, steps - 1), (0, 0), (0, 0)])
    x = diagonal_scan(lam.reshape(-1), impulse)
    return jnp.moveaxis(x.reshape(R, steps, 2, tiles, T), 3, 0)


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


@jax.custom_vjp
def convolve(u: Array, K: Array) -> Array:
    """y_k = Σ_{j ≤ k} K_0[k − j] u_j, and, where there are two kernels, + Σ_{j ≥ k} K_1[j − k] u_j, for every channel.

    Its gradient is written down in real transforms; derived automatically, it would take complex ones.

    Args:
        u: inputs (B, L, H).
        K: kernels (R, H, L): forward, and backward if R = 2.
    Returns:
        (B, L, H).
    """
    return _convolve_fwd(u, K)[0]


def _convolve_fwd(u: Array, K: Array) -> tuple[Array, tuple[Array, Array]]:
    u_f, K_f = _spectrum(u.swapaxes(1, 2)), _spectrum(K)
    return _signal(u_f * _total(K_f), u.shape[1]).swapaxes(1, 2), (u_f, K_f)


def _convolve_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Correlations: of g with K, and of g with u, at positive and, for the backward kernel, negative lags."""
    u_f, K_f = residuals
    g_f = _spectrum(g.swapaxes(1, 2))
    lags = jnp.sum(g_f * u_f.conj(), axis=0)
    grad_u = _signal(g_f * _total(K_f).conj(), g.shape[1]).swapaxes(1, 2)
    return grad_u, _signal(jnp.stack([lags, lags.conj()][: len(K_f)]), g.shape[1])


convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _total(K_f: Array) -> Array:
    """The spectrum of both directions together: running backward in time is complex conjugation in frequency."""
    return K_f[0] if len(K_f) == 1 else K_f[0] + K_f[1].conj()


def _spectrum(x: Array) -> Array:
    """The spectrum of (…, L), real, behind zeros enough that the ends of a convolution do not wrap around."""
    return jnp.fft.rfft(x, _padded(x.shape[-1]))


def _signal(x_f: Array, length: int) -> Array:
    """The first steps (…, L) of the signal of that spectrum."""
    return jnp.fft.irfft(x_f, _padded(length))[..., :length]


def _padded(length: int) -> int:
    return scipy.fft.next_fast_len(2 * length - 1, real=True)
