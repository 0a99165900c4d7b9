"""The LRU layer: a diagonal linear recurrence trained in discrete time (Orvieto et al., ICML 2023)."""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import normal
from jaxtyping import Array, Complex, Float, PRNGKeyArray

from aire.ssm.base import check_new_layer
from aire.ssm.mimo import MIMO
from aire.utils.checks import boolean, check, number
from aire.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class LRUConfig:
    """Options of an LRU layer, besides its sizes.

    Attributes:
        kind: "lru", the name of this kind of layer in files.
        r_min, r_max: inner and outer radius of the ring of initial eigenvalues.
        max_phase: their largest initial phase in radians (6.28 in the reference code).
        bidirectional: scan in both directions, each with its own C.
    """

    kind: str = dataclasses.field(default="lru", init=False)
    r_min: float = 0.0
    r_max: float = 1.0
    max_phase: float = 2 * math.pi
    bidirectional: bool = False

    def __post_init__(self):
        radius = number(0, high=1)
        check(self, r_min=radius, r_max=radius, max_phase=number(above=0), bidirectional=boolean())
        if self.r_min >= self.r_max:
            raise UserError(f"r_min={self.r_min}, r_max={self.r_max}: expected r_min < r_max")


class LRU(MIMO):
    """y_k = Re(C x_k) + D u_k with x_k = λ x_{k-1} + γ B u_k, λ = exp(−exp(ν_log) + i exp(θ_log)), γ = exp(γ_log).

    |λ| < 1 for all parameter values, so every state is stable. There are no conjugate pairs: all states are stored. The
    initial γ is √(1 − |λ|²), so that under white noise the states have the variance of B u. γ is trained.

    Parameters, all float32: nu_log, theta_log, gamma_log (P,); B_re, B_im (P, H); C_re, C_im (R, H, P); D (H,).

    Args:
        d_model: features H.
        n_states: stored states P.
        config: the layer's options.
        rngs: source of the `params` key.
    """

    STATE_AXIS: ClassVar = {"nu_log": 0, "theta_log": 0, "gamma_log": 0, "B_re": 0, "B_im": 0, "C_re": 2, "C_im": 2}
    ROLES: ClassVar = {
        **dict.fromkeys(("nu_log", "theta_log", "gamma_log"), "eigenvalue"),  # as in the reference code
        **dict.fromkeys(("B_re", "B_im"), "input"),
        **dict.fromkeys(("C_re", "C_im"), "output"),
        "D": "skip",
    }

    nu_log: nnx.Param
    theta_log: nnx.Param
    gamma_log: nnx.Param

    def __init__(self, d_model: int, n_states: int, config: LRUConfig, *, rngs: nnx.Rngs):
        check_new_layer(d_model, n_states, config, LRUConfig, rngs)
        self.config = config
        for name, array in init_params(rngs.params(), d_model, n_states, config).items():
            setattr(self, name, nnx.Param(array))

    def gain(self) -> tuple[Complex[Array, "P"], Complex[Array, "P"]]:
        """λ and γ."""
        Lambda = jnp.exp(jax.lax.complex(-jnp.exp(self.nu_log[...]), jnp.exp(self.theta_log[...])))
        return Lambda, jnp.exp(self.gamma_log[...]).astype(Lambda.dtype)

    def margin(self) -> Float[Array, "P"]:
        return _margin(self.nu_log[...])


def init_params(key: PRNGKeyArray, d_model: int, n_states: int, config: LRUConfig) -> dict[str, Array]:
    """Draw the parameters of an LRU layer (LRU paper, lemma 3.2 and appendix A), float32, shapes as in `LRU`.

    The eigenvalues are uniform in area on the ring between the radii.
    """
    radius_key, phase_key, B_key, C_key, D_key = jax.random.split(key, 5)
    tiny, epsilon = jnp.finfo(jnp.float32).tiny, jnp.finfo(jnp.float32).epsneg
    squared = jax.random.uniform(radius_key, (n_states,), jnp.float32, config.r_min**2, config.r_max**2)
    squared = jnp.clip(squared, tiny, 1 - epsilon)  # the logarithms below are infinite at 0 and at 1
    phase = jax.random.uniform(phase_key, (n_states,), jnp.float32, tiny, config.max_phase)
    nu_log = jnp.log(-0.5 * jnp.log(squared))
    B = normal((2 * d_model) ** -0.5)(B_key, (2, n_states, d_model), jnp.float32)
    C = normal(max(n_states, 1) ** -0.5)(C_key, (2, 1 + config.bidirectional, d_model, n_states), jnp.float32)
    return {
        "nu_log": nu_log,
        "theta_log": jnp.log(phase),
        "gamma_log": 0.5 * jnp.log(_margin(nu_log)),
        "B_re": B[0],
        "B_im": B[1],
        "C_re": C[0],
        "C_im": C[1],
        "D": normal(1.0)(D_key, (d_model,), jnp.float32),
    }


def _margin(nu_log: Float[Array, "P"]) -> Float[Array, "P"]:
    """1 − |λ|² from log |λ|, because subtraction loses digits as |λ| → 1."""
    return -jnp.expm1(-2 * jnp.exp(nu_log))
