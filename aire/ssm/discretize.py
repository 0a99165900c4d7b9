"""From a continuous diagonal system to the discrete recurrence x_k = λ̄ x_{k-1} + B̄ u_k."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float

from aire.utils.checks import boolean, choice, number
from aire.utils.errors import UserError

Discrete = tuple[Complex[Array, "P"], Complex[Array, "P H"]]


def zoh(Lambda: Complex[Array, "P"], B: Complex[Array, "P H"], Delta: Float[Array, "P"]) -> Discrete:
    """Zero-order hold: λ̄ = exp(ΛΔ), B̄ = Λ⁻¹ (λ̄ − 1) B (S5 paper, eq. 6).

    Args:
        Lambda: continuous eigenvalues.
        B: continuous input matrix.
        Delta: time steps.
    Returns:
        λ̄ and B̄.
    """
    Lambda_bar = jnp.exp(zoh_log(Lambda, Delta))
    # λ̄ − 1 by subtraction, not expm1: float32 results then agree with the reference's to the last digits. Scores use
    # `zoh_gain`.
    return Lambda_bar, ((Lambda_bar - 1) / Lambda)[:, None] * B


def bilinear(Lambda: Complex[Array, "P"], B: Complex[Array, "P H"], Delta: Float[Array, "P"]) -> Discrete:
    """Bilinear transform: λ̄ = (1 + ΛΔ/2) / (1 − ΛΔ/2), B̄ = Δ / (1 − ΛΔ/2) B."""
    Delta = Delta.astype(Lambda.dtype)
    inverse = 1 / (1 - Lambda * Delta / 2)
    return inverse * (1 + Lambda * Delta / 2), (inverse * Delta)[:, None] * B


def zoh_gain(Lambda: Complex[Array, "P"], Delta: Float[Array, "P"]) -> Complex[Array, "P"]:
    """The factor of B in B̄ under zero-order hold, Λ⁻¹ (λ̄ − 1), with all its digits.

    λ̄ − 1 by subtraction has none below |ΛΔ| = 6e-8 in float32. Here e^{x+iy} − 1 = (e^x − 1) cos y − 2 sin²(y/2)
    + i e^x sin y, whose terms do not cancel for x < 0.
    """
    z = zoh_log(Lambda, Delta)
    real = jnp.expm1(z.real) * jnp.cos(z.imag) - 2 * jnp.sin(z.imag / 2) ** 2
    return jax.lax.complex(real, jnp.exp(z.real) * jnp.sin(z.imag)) / Lambda


def bilinear_gain(Lambda: Complex[Array, "P"], Delta: Float[Array, "P"]) -> Complex[Array, "P"]:
    """The factor of B in B̄ under the bilinear transform."""
    Delta = Delta.astype(Lambda.dtype)
    return Delta / (1 - Lambda * Delta / 2)


def zoh_margin(Lambda: Complex[Array, "P"], Delta: Float[Array, "P"]) -> Float[Array, "P"]:
    """1 − |λ̄|² under zero-order hold.

    From the continuous eigenvalue, since 1 − |λ̄|² formed in float32 from λ̄ loses its digits as |λ̄| → 1.
    """
    return -jnp.expm1(2 * Lambda.real * Delta)


def bilinear_margin(Lambda: Complex[Array, "P"], Delta: Float[Array, "P"]) -> Float[Array, "P"]:
    """1 − |λ̄|² under the bilinear transform: |1 − z/2|² − |1 + z/2|² = −2 Re z with z = ΛΔ."""
    z = Lambda * Delta.astype(Lambda.dtype)
    return -2 * z.real / jnp.abs(1 - z / 2) ** 2


def zoh_log(Lambda: Complex[Array, "P"], Delta: Float[Array, "P"]) -> Complex[Array, "P"]:
    """log λ̄ under zero-order hold. High powers of λ̄, as exp(S log λ̄), keep their digits as |λ̄| → 1."""
    return Lambda * Delta.astype(Lambda.dtype)


def bilinear_log(Lambda: Complex[Array, "P"], Delta: Float[Array, "P"]) -> Complex[Array, "P"]:
    """log λ̄ under the bilinear transform: log(1 + z/2) − log(1 − z/2) with z = ΛΔ."""
    half = Lambda * Delta.astype(Lambda.dtype) / 2
    angle = jnp.arctan2(half.imag, 1 + half.real) + jnp.arctan2(half.imag, 1 - half.real)
    return jax.lax.complex(0.5 * jnp.log1p(-bilinear_margin(Lambda, Delta)), angle)


DISCRETIZATIONS = {"zoh": (zoh, zoh_margin), "bilinear": (bilinear, bilinear_margin)}
GAINS = {"zoh": zoh_gain, "bilinear": bilinear_gain}
LOGARITHMS = {"zoh": zoh_log, "bilinear": bilinear_log}

# Rules of the options that S5 and S4D share.
OPTION_RULES = {
    "dt_min": number(above=0),
    "dt_max": number(above=0),
    "bidirectional": boolean(),
    "discretization": choice(DISCRETIZATIONS),
    "step_rescale": number(above=0),
}


def check_steps(dt_min: float, dt_max: float) -> None:
    """Raise UserError for an empty range of time steps."""
    if dt_min > dt_max:
        raise UserError(f"dt_min={dt_min}, dt_max={dt_max}: expected dt_min <= dt_max")
