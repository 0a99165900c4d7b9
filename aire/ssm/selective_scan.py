"""The selective recurrence of S6, h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t · h_t, in every channel.

One array of all states, (B, L, N, D), would have gigabytes, and automatic differentiation would keep several. So the
sequence is cut into chunks of about √L steps. The forward pass keeps the states at the start of each chunk, and the
backward pass computes the states of one chunk again. The rest of the code calls the parts of a step

    p_t = exp(Δ_t A) h_{t-1},  v_t = Δ_t u_t,  h_t = p_t + B_t v_t,

and g_t = C_t dy_t + exp(Δ_{t+1} A) g_{t+1} the gradient of the loss by h_t.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from aire.ssm.scan import OTHER_PLATFORMS, PLATFORM_FORMS
from aire.utils.errors import UserError

# The sequential form advances this many states at once: enough to hide the cost of a step, few enough for the caches.
_STEP_NUMBERS = 2**13

Inputs = tuple[Array, Array, Array, Array]  # u, Δ (…, D), B, C (…, N)


def selective_scan(
    u: Float[Array, "B L D"],
    Delta: Float[Array, "B L D"],
    A: Float[Array, "N D"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    h: Float[Array, "B N D"] | None = None,
    *,
    reverse: bool = False,
    form: str | None = None,
) -> tuple[Float[Array, "B L D"], Float[Array, "B N D"]]:
    """Compute y_t[d] = Σ_n C_t[n] h_t[n, d] with h_t[n, d] = exp(Δ_t[d] A[n, d]) h_{t-1}[n, d] + Δ_t[d] B_t[n] u_t[d].

    This is the scan of Mamba (Gu and Dao, 2023, algorithm 2), without its skip D u.

    Args:
        u: inputs of the channels. All inputs are cast to the precision of A: in bfloat16 the states would forget.
        Delta: time steps Δ, at least 0.
        A: continuous eigenvalues, negative.
        B, C: input and output gates, shared by the channels.
        h: the states before the first step; zeros if None.
        reverse: run from the last step to the first.
        form: "sequential" or "chunked"; None selects by platform, see `aire.ssm.scan.PLATFORM_FORMS`.
    Returns:
        The outputs, in the precision of A, and the states after the last step that is run.
    Raises:
        UserError: an unknown form.
    """
    if form is not None and form not in FORMS:
        raise UserError(f"unknown form of the scan {form!r}: expected one of {sorted(FORMS)}")
    inputs = tuple(jnp.flip(a, 1) if reverse else a for a in (a.astype(A.dtype) for a in (u, Delta, B, C)))
    start = jnp.zeros((u.shape[0], *A.shape), A.dtype) if h is None else h.astype(A.dtype)
    y, last = _scan(A, inputs, start, form)
    return jnp.flip(y, 1) if reverse else y, last


def selective_step(
    u: Float[Array, "B D"],
    Delta: Float[Array, "B D"],
    A: Float[Array, "N D"],
    B: Float[Array, "B N"],
    C: Float[Array, "B N"],
    h: Float[Array, "B N D"],
) -> tuple[Float[Array, "B D"], Float[Array, "B N D"]]:
    """Advance `selective_scan` by one step: return the outputs and the new states."""
    h = jnp.exp(Delta[:, None] * A[None]) * h + B[:, :, None] * (Delta * u)[:, None]
    return einsum("bn,bnd->bd", C, h), h  # on CPUs up to three times as fast as a sum


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _scan(A: Array, inputs: Inputs, h: Array, form: str | None) -> tuple[Array, Array]:
    """The outputs (B, L, D) and the last states."""
    return _scan_fwd(A, inputs, h, form)[0]


def _scan_fwd(A: Array, inputs: Inputs, h: Array, form: str | None) -> tuple[tuple[Array, Array], tuple]:
    y, last, starts = by_platform(_forward, form, A, inputs, h)
    return (y, last), (A, inputs, starts)


def _scan_bwd(form: str | None, residuals: tuple, gradients: tuple[Array, Array]) -> tuple[Array, Inputs, Array]:
    grad_A, *grads, grad_h = by_platform(_backward, form, *residuals, *gradients)
    return grad_A, tuple(grads), grad_h


_scan.defvjp(_scan_fwd, _scan_bwd)


def by_platform(function: Callable[..., Any], form: str | None, *args: Any) -> Any:
    """Call function(form, …), with the form of the platform that the program is lowered for if it is None."""
    if form is not None:
        return function(FORMS[form], *args)
    forms = {platform: functools.partial(function, FORMS[name]) for platform, name in PLATFORM_FORMS.items()}
    return lax.platform_dependent(*args, **forms, default=functools.partial(function, FORMS[OTHER_PLATFORMS]))


class Form(NamedTuple):
    """How a chunk is computed. Its arrays have time first: (K, B, …).

    Attributes:
        states: (A, Δ, v, B, h before the chunk) -> p at every step, and h after the chunk.
        adjoint: (A, Δ, C, dy, g_K from the steps after the chunk) -> g at every step, and exp(Δ_0 A) g_0.
        rows: (batch size, numbers in the states of a sequence) -> the sequences to compute at once.
    """

    states: Callable[..., tuple[Array, Array]]
    adjoint: Callable[..., tuple[Array, Array]]
    rows: Callable[[int, int], int]


def _forward(form: Form, A: Array, inputs: Inputs, h: Array) -> tuple[Array, Array, Array]:
    """Outputs, last states, and the states at the start of every chunk (B, chunks, N, D)."""

    def group(arrays: tuple) -> tuple[Array, Array, Array]:
        inputs, h = arrays

        def chunk(h: Array, inputs: tuple[Array, ...]) -> tuple[Array, tuple[Array, Array]]:
            u, Delta, B, C = inputs
            v = Delta * u
            p, last = form.states(A, Delta, v, B, h)
            y = einsum("kbn,kbnd->kbd", C, p) + jnp.sum(C * B, axis=2, keepdims=True) * v
            return last, (y, h)

        last, (y, starts) = lax.scan(chunk, h, tuple(map(in_chunks, inputs)))
        return _unchunked(y, inputs[0].shape[1]), last, starts.swapaxes(0, 1)

    return in_groups(group, (inputs, h), form.rows(h.shape[0], A.size))


def _backward(
    form: Form, A: Array, inputs: Inputs, starts: Array, dy: Array, g: Array
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Gradients of A, u, Δ, B, C and the states before the first step, from those of the outputs and last states."""

    def group(arrays: tuple) -> tuple[Array, ...]:
        inputs, starts, dy, g = arrays

        def chunk(carry: tuple[Array, Array], arrays: tuple) -> tuple[tuple[Array, Array], Inputs]:
            (g, dA), (h, u, Delta, B, C, dy) = carry, arrays
            v = Delta * u
            p, _ = form.states(A, Delta, v, B, h)
            gs, g = form.adjoint(A, Delta, C, dy, g)
            d_exponent = gs * p  # by Δ_t A
            dv = einsum("kbn,kbnd->kbd", B, gs)
            dDelta = einsum("nd,kbnd->kbd", A, d_exponent) + dv * u
            dB = einsum("kbd,kbnd->kbn", v, gs)
            dC = einsum("kbd,kbnd->kbn", dy, p) + B * jnp.sum(v * dy, axis=2, keepdims=True)
            dA += einsum("kbd,kbnd->bnd", Delta, d_exponent)
            return (g, dA), (dv * Delta, dDelta, dB, dC)

        chunks = (starts.swapaxes(0, 1), *map(in_chunks, (*inputs, dy)))
        (g, dA), grads = lax.scan(chunk, (g, jnp.zeros_like(g)), chunks, reverse=True)
        return dA, *(_unchunked(a, dy.shape[1]) for a in grads), g

    dA, *grads = in_groups(group, (inputs, starts, dy, g), form.rows(g.shape[0], A.size))
    return jnp.sum(dA, axis=0), *grads


def in_groups(function: Callable[[tuple], tuple], arrays: tuple, rows: int) -> Any:
    """Apply a function to `rows` sequences at a time. The first axis of all arrays and results is the batch."""
    batch = jax.tree.leaves(arrays)[0].shape[0]
    if rows == batch:
        return function(arrays)
    split = jax.tree.map(lambda a: a.reshape(batch // rows, rows, *a.shape[1:]), arrays)
    return jax.tree.map(lambda a: a.reshape(batch, *a.shape[2:]), lax.map(function, split))


def in_chunks(a: Float[Array, "B L X"]) -> Float[Array, "chunks K B X"]:
    """Cut into chunks of time. Steps without time (Δ = 0) fill the last one: they change no state."""
    B, L, X = a.shape
    size = max(1, 1 << round(L.bit_length() / 2))  # about √L: as many steps in a chunk as chunks
    a = jnp.pad(a.swapaxes(0, 1), [(0, -L % size), (0, 0), (0, 0)])
    return a.reshape(len(a) // size, size, B, X)


def _unchunked(a: Float[Array, "chunks K B X"], length: int) -> Float[Array, "B {length} X"]:
    chunks, size, *rest = a.shape
    return a.reshape(chunks * size, *rest)[:length].swapaxes(0, 1)


def einsum(axes: str, *arrays: Array) -> Array:
    """`jnp.einsum` in full precision."""
    return jnp.einsum(axes, *arrays, precision="highest")  # not TF32: these sums are part of the recurrence


def _states_by_steps(A: Array, Delta: Array, v: Array, B: Array, h: Array) -> tuple[Array, Array]:
    def step(h: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        Delta, v, B = inputs
        p = jnp.exp(Delta[:, None] * A[None]) * h
        return p + B[:, :, None] * v[:, None], p

    last, p = lax.scan(step, h, (Delta, v, B))
    return p, last


def _adjoint_by_steps(A: Array, Delta: Array, C: Array, dy: Array, g: Array) -> tuple[Array, Array]:
    def step(g: Array, inputs: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        Delta, C, dy = inputs
        g += C[:, :, None] * dy[:, None]
        return jnp.exp(Delta[:, None] * A[None]) * g, g

    first, gs = lax.scan(step, g, (Delta, C, dy), reverse=True)
    return gs, first


def _states_by_products(A: Array, Delta: Array, v: Array, B: Array, h: Array) -> tuple[Array, Array]:
    decays = jnp.exp(Delta[:, :, None] * A[None, None])
    products, local = lax.associative_scan(compose, (decays, B[..., None] * v[:, :, None]))
    states = local + products * h[None]
    return decays * jnp.concatenate([h[None], states[:-1]]), states[-1]


def _adjoint_by_products(A: Array, Delta: Array, C: Array, dy: Array, g: Array) -> tuple[Array, Array]:
    decays = jnp.exp(Delta[:, :, None] * A[None, None])
    later = jnp.concatenate([decays[1:], jnp.ones_like(decays[:1])])
    products, local = lax.associative_scan(compose, (later, C[..., None] * dy[:, :, None]), reverse=True)
    gs = local + products * g[None]
    return gs, decays[0] * gs[0]


def compose(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
    """Two steps h → a h + b as one. Products of decays stay in (0, 1]; sums of their logarithms would lose digits."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def _rows(batch: int, numbers: int) -> int:
    """The largest share of the batch whose states have at most `_STEP_NUMBERS` numbers."""
    return next((r for r in range(batch, 1, -1) if batch % r == 0 and r * numbers <= _STEP_NUMBERS), 1)


# On a CPU the steps of a chunk run one after another, for a few sequences. An accelerator would wait for each step, so
# there all steps of a chunk, for all sequences, are computed by O(log K) operations on large arrays.
FORMS = {
    "sequential": Form(_states_by_steps, _adjoint_by_steps, _rows),
    "chunked": Form(_states_by_products, _adjoint_by_products, lambda batch, numbers: batch),
}
