"""The diagonal recurrence x_k = λ̄ x_{k-1} + v_k, parallel over time where the hardware wants it.

Complex numbers are pairs of real arrays here: the matmuls around the scan then run as real ones, and the backward pass
is written down once instead of being derived through complex arithmetic.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array, lax

Pair = tuple[Array, Array]  # real and imaginary part


def default_form() -> str:
    """The form of the scan for the backend in use: the one place that chooses.

    On a CPU, one vectorised step after another is at least as fast as the chunked form, which does 1.5–2 times the
    arithmetic (`--config=speed:scan` measures both). An accelerator has lanes to spare and pays per sequential step,
    so there L steps become about 2√L.
    """
    return "sequential" if jax.default_backend() == "cpu" else "chunked"


def diagonal_scan(Lambda_bar: Array, v: Pair, *, reverse: bool = False, form: str | None = None) -> Pair:
    """All states of x_k = λ̄ x_{k-1} + v_k with x_{-1} = 0, or of the same recurrence run from the end.

    Args:
        Lambda_bar: discrete eigenvalues, complex (P,).
        v: real and imaginary part of the inputs, time first, each (L, ..., P); taken to the precision of λ̄, for a
            recurrence in fewer digits loses its memory.
        reverse: run from the last step to the first.
        form: "sequential" or "chunked"; by default what `default_form` says.
    Returns:
        Real and imaginary part of the states, each (L, ..., P).
    """
    form = form or default_form()
    if form not in _FORMS:
        raise ValueError(f"unknown form of the scan {form!r}: expected one of {sorted(_FORMS)}")
    lam = Lambda_bar.real, Lambda_bar.imag
    return _scan(lam, tuple(a.astype(lam[0].dtype) for a in v), reverse, form)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _scan(lam: Pair, v: Pair, reverse: bool, form: str) -> Pair:
    return _FORMS[form](lam, v, reverse)


def _scan_fwd(lam: Pair, v: Pair, reverse: bool, form: str) -> tuple[Pair, tuple[Pair, Pair]]:
    x = _scan(lam, v, reverse, form)
    return x, (lam, x)


def _scan_bwd(reverse: bool, form: str, residuals: tuple[Pair, Pair], g: Pair) -> tuple[Pair, Pair]:
    """The adjoint of the recurrence is the recurrence with conj(λ̄), run the other way: s_k = λ̄* s_{k+1} + g_k."""
    (lam_re, lam_im), (x_re, x_im) = residuals
    s_re, s_im = _scan((lam_re, -lam_im), g, not reverse, form)
    p_re, p_im = _previous(x_re, reverse), _previous(x_im, reverse)
    sum_out = functools.partial(jnp.sum, axis=tuple(range(x_re.ndim - 1)))
    grad_lam = sum_out(p_re * s_re + p_im * s_im), sum_out(p_re * s_im - p_im * s_re)
    return grad_lam, (s_re, s_im)


_scan.defvjp(_scan_fwd, _scan_bwd)


def _previous(x: Array, reverse: bool) -> Array:
    """x_{k-1} for every k in the direction of the scan, zero at its start."""
    zero = jnp.zeros_like(x[:1])
    return jnp.concatenate([x[1:], zero] if reverse else [zero, x[:-1]])


def complex_multiply(a: Pair, b: Pair) -> Pair:
    """Product of two complex arrays held as pairs."""
    return a[0] * b[0] - a[1] * b[1], a[0] * b[1] + a[1] * b[0]


def _sequential(lam: Pair, v: Pair, reverse: bool) -> Pair:
    def advance(x: Pair, v_k: Pair) -> tuple[Pair, Pair]:
        decayed = complex_multiply(lam, x)
        x = decayed[0] + v_k[0], decayed[1] + v_k[1]
        return x, x

    zero = jnp.zeros_like(v[0][0])
    return lax.scan(advance, (zero, zero), v, reverse=reverse)[1]


def _chunked(lam: Pair, v: Pair, reverse: bool) -> Pair:
    """Chunks advanced side by side from zero, then each chunk's true start added: x_k = local_k + λ̄^{k+1} start."""
    length = v[0].shape[0]
    size = max(1, 1 << round(length.bit_length() / 2))  # about √L: as many steps inside a chunk as chunks
    local = _sequential(lam, jax.tree.map(lambda a: _split(a, size, reverse), v), reverse)  # (size, chunks, ..., P)

    impulse = jnp.zeros((size, lam[0].shape[0]), lam[0].dtype).at[-1 if reverse else 0].set(1)
    powers = complex_multiply(lam, _sequential(lam, (impulse, jnp.zeros_like(impulse)), reverse))  # λ̄^{k+1}: (size, P)
    last = 0 if reverse else -1
    over_chunk = powers[0][last], powers[1][last]
    ends = _sequential(over_chunk, (local[0][last], local[1][last]), reverse)
    starts = _previous(ends[0], reverse), _previous(ends[1], reverse)

    shape = (size,) + (1,) * (local[0].ndim - 2) + lam[0].shape
    carried = complex_multiply((powers[0].reshape(shape), powers[1].reshape(shape)), starts)
    return tuple(_join(a + b, length, reverse) for a, b in zip(local, carried, strict=True))


def _split(a: Array, size: int, reverse: bool) -> Array:
    """(L, ..., P) to (size, chunks, ..., P), zero-padded where the scan ends so that padding reaches no true state."""
    missing = -a.shape[0] % size
    widths = [(missing, 0) if reverse else (0, missing)] + [(0, 0)] * (a.ndim - 1)
    a = jnp.pad(a, widths)
    return a.reshape(a.shape[0] // size, size, *a.shape[1:]).swapaxes(0, 1)


def _join(a: Array, length: int, reverse: bool) -> Array:
    a = a.swapaxes(0, 1).reshape(a.shape[0] * a.shape[1], *a.shape[2:])
    return a[a.shape[0] - length :] if reverse else a[:length]


_FORMS = {"sequential": _sequential, "chunked": _chunked}
