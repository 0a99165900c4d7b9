"""The selective recurrence of S6: h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t, y_t = C_t · h_t, in every channel."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def selective_scan(
    u: Float[Array, "B L D"],
    Delta: Float[Array, "B L D"],
    A: Float[Array, "N D"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    h: Float[Array, "B N D"] | None = None,
    *,
    reverse: bool = False,
) -> tuple[Float[Array, "B L D"], Float[Array, "B N D"]]:
    """Compute y_t[d] = Σ_n C_t[n] h_t[n, d] with h_t[n, d] = exp(Δ_t[d] A[n, d]) h_{t-1}[n, d] + Δ_t[d] B_t[n] u_t[d].

    Everything is computed in the precision of A, whatever the precision of the inputs.

    Args:
        u: inputs of the channels.
        Delta: time steps Δ, at least 0.
        A: continuous eigenvalues, negative.
        B, C: input and output gates, shared by the channels.
        h: the states before the first step; zeros if None.
        reverse: run from the last step to the first.
    Returns:
        The outputs, in the precision of A, and the states after the last step that is run.
    """
    u, Delta, B, C = (a.astype(A.dtype) for a in (u, Delta, B, C))
    start = jnp.zeros((len(u), *A.shape), A.dtype) if h is None else h.astype(A.dtype)

    def step(h: Array, inputs: tuple[Array, ...]) -> tuple[Array, Array]:
        u, Delta, B, C = inputs
        h = jnp.exp(Delta[:, None] * A[None]) * h + B[:, :, None] * (Delta * u)[:, None]
        return h, jnp.sum(C[:, :, None] * h, axis=1)

    time_major = tuple(a.swapaxes(0, 1) for a in (u, Delta, B, C))
    last, y = lax.scan(step, start, time_major, reverse=reverse)
    return jnp.swapaxes(y, 0, 1), last


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
    return jnp.sum(C[:, :, None] * h, axis=1), h
