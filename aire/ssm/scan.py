"""The diagonal recurrence x_k = λ̄ x_{k-1} + v_k, sequential or in parallel chunks of time.

Complex arrays are pairs of real ones here, (..., 2, P). The matmuls around the scan are then real matmuls on [Re | Im],
and the hand-written backward pass needs no complex arithmetic.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Complex, Float

from aire.utils.errors import UserError

# The form of the scan on each platform. It is chosen when a program is lowered for a platform, so a program that is
# traced on a CPU and lowered for a GPU runs the GPU's form.
#
# On a CPU the sequential form is faster, because the chunked form does 1.5–2 times the arithmetic (section "scan" of
# `--config=speed` measures both). An accelerator pays per sequential step. The chunked form needs a small multiple of
# √L steps in place of L: expected to be faster there, not measured yet.
PLATFORM_FORMS = {"cpu": "sequential"}
OTHER_PLATFORMS = "chunked"


def diagonal_scan(
    Lambda_bar: Complex[Array, "P"],
    v: Float[Array, "B L 2 P"],
    *,
    reverse: tuple[bool, ...] = (False,),
    form: str | None = None,
) -> Float[Array, "B L {len(reverse)} 2 P"]:
    """Compute all states of x_k = λ̄ x_{k-1} + v_k, x_{-1} = 0, in each of R directions over the same inputs.

    Long sequences: relative to its largest value, a state is off by at most ε min(L, 1 / (1 − |λ̄|)), with ε = 1.2e-7 in
    float32. The rounding of λ̄ itself causes most of it, because λ̄^k takes part for so many steps. Measured over 200,000
    steps against float64, at 1 − |λ̄| = 1e-3, 1e-4, 1e-5 and 1e-6: 3e-5, 7e-4, 2e-3 and 4e-3. In float64
    (`jax_enable_x64`, with float64 parameters) the same bound holds with ε = 2.2e-16.

    Args:
        Lambda_bar: discrete eigenvalues.
        v: real and imaginary part of the inputs. Cast to the precision of λ̄: in bfloat16 the recurrence would forget.
        reverse: for each direction, whether it runs from the last step to the first.
        form: "sequential" or "chunked"; None selects by platform, see `PLATFORM_FORMS`.
    Returns:
        Real and imaginary part of the states.
    Raises:
        UserError: an unknown form.
    """
    if form is not None and form not in _FORMS:
        raise UserError(f"unknown form of the scan {form!r}: expected one of {sorted(_FORMS)}")
    lam = jnp.stack([Lambda_bar.real, Lambda_bar.imag])
    B, L, _, P = v.shape
    v = jnp.broadcast_to(v.astype(lam.dtype)[:, :, None], (B, L, len(reverse), 2, P))
    return _scan(lam, v, reverse, form)


def complex_multiply(a: Float[Array, "*#A 2 P"], b: Float[Array, "*#A 2 P"]) -> Float[Array, "*A 2 P"]:
    """Multiply complex arrays held as pairs: a_re b + a_im (−b_im, b_re)."""
    return a[..., :1, :] * b + a[..., 1:, :] * _factors(-1, 1, b) * jnp.flip(b, -2)


def conj(a: Float[Array, "*A 2 P"]) -> Float[Array, "*A 2 P"]:
    """Complex conjugate of an array held as pairs."""
    return a * _factors(1, -1, a)


def _factors(re: float, im: float, like: Float[Array, "*A 2 P"]) -> Float[Array, "*#A 2 1"]:
    """Factors on the real and the imaginary part of `like`."""
    return jnp.array([re, im], like.dtype).reshape((1,) * (like.ndim - 2) + (2, 1))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scan(
    lam: Float[Array, "2 P"], v: Float[Array, "B L R 2 P"], reverse: tuple[bool, ...], form: str | None
) -> Float[Array, "B L R 2 P"]:
    """`diagonal_scan` with separate inputs for each direction."""
    if form is not None:
        return _FORMS[form](lam, v, reverse)
    forms = {name: functools.partial(fn, reverse=reverse) for name, fn in _FORMS.items()}
    by_platform = {platform: forms[name] for platform, name in PLATFORM_FORMS.items()}
    return lax.platform_dependent(lam, v, **by_platform, default=forms[OTHER_PLATFORMS])


def _scan_fwd(lam: Array, v: Array, reverse: tuple[bool, ...], form: str | None) -> tuple[Array, tuple[Array, Array]]:
    x = _scan(lam, v, reverse, form)
    return x, (lam, x)


def _scan_bwd(
    reverse: tuple[bool, ...], form: str | None, residuals: tuple[Array, Array], g: Array
) -> tuple[Array, Array]:
    """The adjoint of the recurrence is the recurrence with conj(λ̄), run the other way: s_k = λ̄* s_{k+1} + g_k."""
    lam, x = residuals
    s = _scan(conj(lam), g, tuple(not r for r in reverse), form)
    grad_lam = jnp.zeros_like(lam)
    for r, backward in enumerate(reverse):  # Σ_k conj(x_{k-1}) s_k
        earlier, later = (slice(1, None), slice(-1)) if backward else (slice(-1), slice(1, None))
        grad_lam += _sum_over_steps(complex_multiply(conj(x[:, earlier, r]), s[:, later, r]))
    return grad_lam, s


_scan.defvjp(_scan_fwd, _scan_bwd)


def _sum_over_steps(a: Array) -> Array:
    """Sum over the first two axes of (B, L, 2, P), in runs of 32 steps first.

    XLA then fuses the products into the sum. Without the runs it stores their factors and takes 2 to 4 times as long.
    """
    B, L, *rest = a.shape
    end = L // 32 * 32
    runs = a[:, :end].reshape(B, end // 32, 32, *rest)
    return runs.sum(axis=2).sum(axis=(0, 1)) + a[:, end:].sum(axis=(0, 1))


def _sequential(lam: Array, v: Array, reverse: tuple[bool, ...]) -> Array:
    """Sequential scan. Overwrites v_k with x_k, so the loop needs no second buffer."""
    B, L, _, _, P = v.shape
    lam = lam[None, None, None]

    def step(r: int, backward: bool, k: Array, x: Array) -> Array:
        def at(k: Array) -> tuple[Array | int, ...]:
            return 0, L - 1 - k if backward else k, r, 0, 0

        previous, v_k = (lax.dynamic_slice(x, at(i), (B, 1, 1, 2, P)) for i in (k - 1, k))
        return lax.dynamic_update_slice(x, complex_multiply(lam, previous) + v_k, at(k))

    for r, backward in enumerate(reverse):
        v = lax.fori_loop(1, L, functools.partial(step, r, backward), v)
    return v


def _chunked(lam: Array, v: Array, reverse: tuple[bool, ...]) -> Array:
    """Advance all chunks in parallel from zero, then add each chunk's true start: x_k = local_k + λ̄^{k+1} start."""
    B, L, R, _, P = v.shape
    size = max(1, 1 << round(L.bit_length() / 2))  # about √L: as many steps inside a chunk as chunks
    chunks = -(-L // size)
    # The zeros after the last step affect no true state: one direction ends there, the other begins there.
    v = jnp.pad(v, [(0, 0), (0, chunks * size - L), (0, 0), (0, 0), (0, 0)])
    local = _sequential(lam, v.reshape(B * chunks, size, R, 2, P), reverse).reshape(B, chunks, size, R, 2, P)

    powers = lam[None]  # λ̄^{k+1}: (size, 2, P), by doubling
    while len(powers) < size:
        powers = jnp.concatenate([powers, complex_multiply(powers, powers[-1:])])
    states = []
    for r, backward in enumerate(reverse):
        end = local[:, :, 0 if backward else -1, r]  # last state of each chunk: (B, chunks, 2, P)
        end = _sequential(powers[-1], end[:, :, None], (backward,))[:, :, 0]
        start = jnp.pad(end, [(0, 0), (0, 1) if backward else (1, 0), (0, 0), (0, 0)])
        start = start[:, 1:] if backward else start[:, :-1]  # last state of the chunk before
        factors = (powers[::-1] if backward else powers)[None, None]
        states.append(local[:, :, :, r] + complex_multiply(factors, start[:, :, None]))
    return jnp.stack(states, axis=3).reshape(B, chunks * size, R, 2, P)[:, :L]


_FORMS = {"sequential": _sequential, "chunked": _chunked}
