"""Sums of squares over the steps of the selective recurrence, for calibration: what each mode does on real inputs."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from aire.ssm.selective_scan import Form, by_platform, einsum, in_chunks, in_groups


class StateSums(NamedTuple):
    """Sums over the steps that a mask selects.

    Attributes:
        margins: Σ 1 − Ā².
        states: Σ h².
        contributions: Σ (C h)².
        gated: Σ (C h s)², with s the factor of the channel's output.
    """

    margins: Float[Array, "N D"]
    states: Float[Array, "N D"]
    contributions: Float[Array, "N D"]
    gated: Float[Array, "N D"]


def state_sums(
    u: Float[Array, "B L D"],
    Delta: Float[Array, "B L D"],
    A: Float[Array, "N D"],
    B: Float[Array, "B L N"],
    C: Float[Array, "B L N"],
    factor: Float[Array, "B L D"],
    mask: Float[Array, "B L"],
    *,
    reverse: bool = False,
) -> StateSums:
    """Run `selective_scan` from zero states, and sum squares of the states. No array holds the states of all steps.

    Args:
        u, Delta, A, B, C, reverse: as in `selective_scan`.
        factor: what the output of each channel is multiplied by later.
        mask: 1 for steps to sum, 0 for others.
    """
    arrays = tuple(jnp.flip(a, 1) if reverse else a for a in (u, Delta, B, C, factor, mask[..., None]))
    return StateSums(*(jnp.sum(a, axis=0) for a in by_platform(_sums, None, A, *arrays)))


def _sums(form: Form, A: Array, *arrays: Array) -> tuple[Array, ...]:
    """The sums of each sequence, (B, N, D)."""

    def group(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
        zero = jnp.zeros((arrays[0].shape[0], *A.shape), A.dtype)

        def chunk(carry: tuple, arrays: tuple[Array, ...]) -> tuple[tuple, None]:
            (h, *sums), (u, Delta, B, C, factor, mask) = carry, arrays
            p, last = form.states(A, Delta, Delta * u, B, h)
            squares = (p + B[..., None] * (Delta * u)[:, :, None]) ** 2 * mask[..., None]
            margins = -jnp.expm1(2 * Delta[:, :, None] * A[None, None]) * mask[..., None]
            read = squares * C[..., None] ** 2
            gated = einsum("kbnd,kbd->bnd", read, factor**2)
            new = margins.sum(axis=0), squares.sum(axis=0), read.sum(axis=0), gated
            return (last, *map(jnp.add, sums, new)), None

        (_, *sums), _ = lax.scan(chunk, (zero,) * 5, tuple(map(in_chunks, arrays)))
        return tuple(sums)

    return in_groups(group, arrays, form.rows(arrays[0].shape[0], A.size))
