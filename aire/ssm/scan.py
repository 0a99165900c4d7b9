"""The diagonal recurrence x_k = λ̄ x_{k-1} + v_k, parallel over time where the hardware wants it.

Complex numbers are pairs of real ones here, on an axis of their own before the last: (..., 2, P). The matmuls around
the scan then are real ones on [Re | Im] side by side, and the backward pass is written down once instead of being
derived through complex arithmetic.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

from aire.utils.errors import UserError

# The form of the scan on each platform: the one place that chooses. It is read when a program is compiled for a
# platform, so a program that is traced on a CPU and lowered for a GPU runs the GPU's form.
#
# On a CPU, one vectorised step after another is faster than the chunked form, which does 1.5–2 times the arithmetic
# (section "scan" of `--config=speed` measures both). An accelerator has lanes to spare and pays per sequential step, so
# there L steps become a small multiple of √L: expected to be faster, not measured yet.
PLATFORM_FORMS = {"cpu": "sequential"}
OTHER_PLATFORMS = "chunked"


def diagonal_scan(
    Lambda_bar: Array, v: Array, *, reverse: tuple[bool, ...] = (False,), form: str | None = None
) -> Array:
    """All states of x_k = λ̄ x_{k-1} + v_k, x_{-1} = 0, in each of R directions over the same inputs.

    Args:
        Lambda_bar: discrete eigenvalues, complex (P,).
        v: inputs (B, L, 2, P), real and imaginary part. Cast to the precision of λ̄: in bfloat16 the recurrence would
            forget.
        reverse: of each direction, whether it runs from the last step to the first.
        form: "sequential" or "chunked"; None: the platform's own, by `PLATFORM_FORMS`.
    Returns:
        States (B, L, R, 2, P), real and imaginary part.
    Raises:
        UserError: an unknown form.
    """
    if form is not None and form not in _FORMS:
        raise UserError(f"unknown form of the scan {form!r}: expected one of {sorted(_FORMS)}")
    lam = jnp.stack([Lambda_bar.real, Lambda_bar.imag])
    B, L, _, P = v.shape
    v = jnp.broadcast_to(v.astype(lam.dtype)[:, :, None], (B, L, len(reverse), 2, P))
    return _scan(lam, v, reverse, form)


def complex_multiply(a: Array, b: Array) -> Array:
    """Product of complex arrays held as pairs (..., 2, P): a_re b + a_im (−b_im, b_re)."""
    return a[..., :1, :] * b + a[..., 1:, :] * jnp.array([[-1], [1]], b.dtype) * jnp.flip(b, -2)


def conj(a: Array) -> Array:
    """Complex conjugate of an array held as pairs (..., 2, P)."""
    return a * jnp.array([[1], [-1]], a.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scan(lam: Array, v: Array, reverse: tuple[bool, ...], form: str | None) -> Array:
    """λ̄ (2, P) and each direction's own inputs (B, L, R, 2, P) to states of their shape."""
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
    grad_lam = 0
    for r, backward in enumerate(reverse):  # Σ_k conj(x_{k-1}) s_k
        earlier, later = (slice(1, None), slice(-1)) if backward else (slice(-1), slice(1, None))
        grad_lam += _sum_over_steps(complex_multiply(conj(x[:, earlier, r]), s[:, later, r]))
    return grad_lam, s


_scan.defvjp(_scan_fwd, _scan_bwd)


def _sum_over_steps(a: Array) -> Array:
    """Sum over the first two axes of (B, L, 2, P), in runs of 32 steps first. XLA then fuses the products into the
    sum; without the runs it stores their factors and takes 2 to 4 times as long."""
    B, L, *rest = a.shape
    whole = L // 32 * 32
    return a[:, :whole].reshape(B, whole // 32, 32, *rest).sum(axis=2).sum(axis=(0, 1)) + a[:, whole:].sum(axis=(0, 1))


def _sequential(lam: Array, v: Array, reverse: tuple[bool, ...]) -> Array:
    """Sequential scan. Overwrites v_k with x_k, so the loop needs no second buffer."""
    B, L, _, _, P = v.shape

    def step(r: int, backward: bool, k: int, x: Array) -> Array:
        def at(k: int) -> tuple[int, ...]:
            return 0, L - 1 - k if backward else k, r, 0, 0

        previous, v_k = (lax.dynamic_slice(x, at(i), (B, 1, 1, 2, P)) for i in (k - 1, k))
        return lax.dynamic_update_slice(x, complex_multiply(lam, previous) + v_k, at(k))

    for r, backward in enumerate(reverse):
        v = lax.fori_loop(1, L, functools.partial(step, r, backward), v)
    return v


def _chunked(lam: Array, v: Array, reverse: tuple[bool, ...]) -> Array:
    """Chunks advanced side by side from zero, then each chunk's true start added: x_k = local_k + λ̄^{k+1} start."""
    B, L, R, _, P = v.shape
    size = max(1, 1 << round(L.bit_length() / 2))  # about √L: as many steps inside a chunk as chunks
    chunks = -(-L // size)
    # Zeros behind the last step reach no true state: one direction ends there, the other begins there.
    v = jnp.pad(v, [(0, 0), (0, chunks * size - L), (0, 0), (0, 0), (0, 0)])
    local = _sequential(lam, v.reshape(B * chunks, size, R, 2, P), reverse).reshape(B, chunks, size, R, 2, P)

    powers = lam[None]  # λ̄^{k+1}: (size, 2, P), by doubling
    while len(powers) < size:
        powers = jnp.concatenate([powers, complex_multiply(powers, powers[-1])])
    states = []
    for r, backward in enumerate(reverse):
        end = local[:, :, 0 if backward else -1, r]  # of each chunk: (B, chunks, 2, P)
        end = _sequential(powers[-1], end[:, :, None], (backward,))[:, :, 0]
        start = jnp.pad(end, [(0, 0), (0, 1) if backward else (1, 0), (0, 0), (0, 0)])
        start = start[:, 1:] if backward else start[:, :-1]  # what the chunk before ended with
        states.append(local[:, :, :, r] + complex_multiply(powers[::-1] if backward else powers, start[:, :, None]))
    return jnp.stack(states, axis=3).reshape(B, chunks * size, R, 2, P)[:, :L]


_FORMS = {"sequential": _sequential, "chunked": _chunked}
