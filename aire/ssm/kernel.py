"""Convolution kernels of a bank of independent systems, and the convolution itself, by FFT."""

import math

import jax
import jax.numpy as jnp
import scipy.fft
from jaxtyping import Array, Complex, Float, Int

from aire.ssm.scan import conj, diagonal_scan

# States per tile, that is per small matmul. Larger tiles waste more work on channels with few states, smaller tiles on
# partial sums. 8 was best, or close to it, from full banks down to a tenth of the states.
_TILE = 8


def bank_kernel(
    log_Lambda_bar: Complex[Array, "n"],
    weights: Complex[Array, "R n"],
    channel: Int[Array, "n"],
    channels: int,
    length: int,
) -> Float[Array, "R {channels} {length}"]:
    """K[r, h, l] = Σ_{i in channel h} Re(w_ri λ̄_i^l), the impulse responses of a bank of modes.

    With l = S a + b the Vandermonde matrix is a product, λ̄^l = (λ̄^S)^a λ̄^b. Each state then needs 2√L powers in place
    of L, and the sum over states is a matmul. Channels hold different numbers of states, so the matmuls run over tiles:
    a few states of one channel each. Memory and time are proportional to the number of states.

    Args:
        log_Lambda_bar: logarithms of the discrete eigenvalues.
        weights: w = C B̄.
        channel: channel of each state, ascending.
        channels: H.
        length: L.
    """
    R, n = weights.shape
    if n == 0:
        return jnp.zeros((R, channels, length), weights.real.dtype)
    log_lam, w, tile_channel = bank_tiles(log_Lambda_bar, weights, channel, channels, _TILE)
    K = _tile_kernels(log_lam, w, length)
    return jnp.moveaxis(jax.ops.segment_sum(K, tile_channel, channels, indices_are_sorted=True), 0, 1)


def _tile_kernels(log_lam: Array, w: Array, length: int) -> Array:
    """The kernel of each tile, (tiles, R, L), from its log λ̄, (tiles, T), and weights, (tiles, R, T)."""
    tiles, R, _ = w.shape
    S = math.isqrt(length - 1) + 1  # ⌈√L⌉
    fine = _responses(jnp.exp(log_lam), jnp.ones_like(log_lam)[:, None], S)  # λ̄^b
    coarse = _responses(jnp.exp(S * log_lam), w, -(-length // S))  # w (λ̄^S)^a
    # One real matmul per tile, of [Re | −Im] and [Re | Im]. Highest precision, because the rounding of a lower default
    # (TF32 on GPUs) would be an error of the kernel.
    coarse, fine = conj(coarse).reshape(tiles, -1, 2 * _TILE), fine.reshape(tiles, -1, 2 * _TILE)
    K = jnp.einsum("nat,nbt->nab", coarse, fine, precision="highest")
    return K.reshape(tiles, R, -1)[..., :length]


def _responses(lam: Array, w: Array, steps: int) -> Array:
    """The responses w λ^k to impulses w for k < steps, by the recurrence.

    Exponentials would take five times as long on a CPU, where XLA recomputes sines and cosines for every use. The
    errors of the recurrence grow with the steps, to 1e-5 of a float32 kernel over 128k steps. Those of exponentials
    grow with the phase of λ^k, because it is rounded before its sine is computed: over 16k steps, 1e-7 for slow modes
    and 1e-3 for fast ones.

    Args:
        lam: λ, complex (tiles, T).
        w: complex (tiles, R, T).
        steps: number of steps.
    Returns:
        Real and imaginary part (tiles, R, steps, 2, T).
    """
    tiles, R, T = w.shape
    w = jnp.moveaxis(w, 1, 0).reshape(R, 1, -1)
    impulse = jnp.pad(jnp.stack([w.real, w.imag], axis=2), [(0, 0), (0, steps - 1), (0, 0), (0, 0)])
    x = diagonal_scan(lam.reshape(-1), impulse)
    return jnp.moveaxis(x.reshape(R, steps, 2, tiles, T), 3, 0)


def tile_count(states: int, channels: int, size: int) -> int:
    """The number of tiles of a bank.

    How many are in use depends on the values of `channel`, so this is the upper bound: every channel may have one tile
    that is not full.
    """
    return min(states, states // size + channels)


def bank_tiles(
    log_Lambda_bar: Complex[Array, "n"],
    weights: Complex[Array, "R n"],
    channel: Int[Array, "n"],
    channels: int,
    size: int,
) -> tuple[Complex[Array, "tiles {size}"], Complex[Array, "tiles R {size}"], Int[Array, "tiles"]]:
    """Arrange the states in tiles of one channel each.

    Returns:
        log λ̄ and weights of the state in each slot, zeros in an empty one; and the channel of each tile, ascending.
    """
    n = channel.size
    tiles = tile_count(n, channels, size)
    states = jnp.bincount(channel, length=channels)
    used = -(-states // size)
    first_state, first_tile = jnp.cumsum(states) - states, jnp.cumsum(used) - used
    place = size * first_tile[channel] + jnp.arange(n) - first_state[channel]
    index = jnp.full(tiles * size, n).at[place].set(jnp.arange(n)).reshape(tiles, size)
    log_lam = jnp.take(log_Lambda_bar, index, mode="fill", fill_value=0)
    w = jnp.take(weights, index, axis=1, mode="fill", fill_value=0)  # an empty slot of a tile adds zero
    tile_channel = jnp.full(tiles, channels - 1, channel.dtype).at[place // size].set(channel)
    return log_lam, jnp.moveaxis(w, 0, 1), tile_channel


@jax.custom_vjp
def convolve(u: Float[Array, "B L H"], K: Float[Array, "R H L"]) -> Float[Array, "B L H"]:
    """y_k = Σ_{j ≤ k} K_0[k − j] u_j, plus Σ_{j ≥ k} K_1[j − k] u_j if there are two kernels, in every channel.

    The hand-written gradient uses real transforms. Automatic differentiation would use complex ones.

    Args:
        u: inputs.
        K: kernels: forward, and backward if R = 2.
    """
    return _convolve_fwd(u, K)[0]


def _convolve_fwd(u: Array, K: Array) -> tuple[Array, tuple[Array, Array]]:
    u_f, K_f = _spectrum(u.swapaxes(1, 2)), _spectrum(K)
    return _signal(u_f * _total(K_f)[None], u.shape[1]).swapaxes(1, 2), (u_f, K_f)


def _convolve_bwd(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    """Correlations of g with K and of g with u, the latter at negative lags for the backward kernel."""
    u_f, K_f = residuals
    g_f = _spectrum(g.swapaxes(1, 2))
    lags = jnp.sum(g_f * u_f.conj(), axis=0)
    grad_u = _signal(g_f * _total(K_f).conj()[None], g.shape[1]).swapaxes(1, 2)
    return grad_u, _signal(jnp.stack([lags, lags.conj()][: len(K_f)]), g.shape[1])


convolve.defvjp(_convolve_fwd, _convolve_bwd)


def _total(K_f: Array) -> Array:
    """The spectrum of both directions: reversal in time is complex conjugation in frequency."""
    return K_f[0] if len(K_f) == 1 else K_f[0] + K_f[1].conj()


def _spectrum(x: Array) -> Array:
    """The spectrum of real signals (…, L), zero-padded so that a convolution does not wrap around."""
    return jnp.fft.rfft(x, _padded(x.shape[-1]))


def _signal(x_f: Array, length: int) -> Array:
    """The first L steps of the signals with these spectra, (…, L)."""
    return jnp.fft.irfft(x_f, _padded(length))[..., :length]


def _padded(length: int) -> int:
    return scipy.fft.next_fast_len(2 * length - 1, real=True)
