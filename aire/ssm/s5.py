"""The S5 layer: one multi-input, multi-output diagonal state space (Smith, Warrington, Linderman, ICLR 2023)."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import lecun_normal, normal
from jaxtyping import Array, Complex, Complex64, Float, PRNGKeyArray

from aire.ssm import hippo
from aire.ssm.abstract import host_arrays
from aire.ssm.base import check_new_layer
from aire.ssm.discretize import DISCRETIZATIONS, GAINS, OPTION_RULES, check_steps
from aire.ssm.mimo import MIMO
from aire.utils.checks import boolean, check, choice, integer

C_INITS = ("lecun_normal", "trunc_standard_normal", "complex_normal")
MAX_BLOCKS = 1024  # The initialisation makes a matrix of at least this size squared.


@dataclasses.dataclass(frozen=True)
class S5Config:
    """Options of an S5 layer, besides its sizes.

    Attributes:
        kind: "s5", the name of this kind of layer in files.
        blocks: HiPPO-N blocks J of the initialisation.
        C_init: "lecun_normal", "trunc_standard_normal" or "complex_normal".
        dt_min, dt_max: range of the initial time steps.
        conj_sym: store one of each conjugate pair; the output is then 2 Re(C x).
        bidirectional: scan in both directions, each with its own C.
        discretization: "zoh" or "bilinear".
        clip_eigs: clip Re Λ to at most −1e-4.
        step_rescale: factor on the time steps, to run at another sampling rate than in training.
    """

    kind: str = dataclasses.field(default="s5", init=False)
    blocks: int = 1
    C_init: str = "lecun_normal"
    dt_min: float = 0.001
    dt_max: float = 0.1
    conj_sym: bool = True
    bidirectional: bool = False
    discretization: str = "zoh"
    clip_eigs: bool = False
    step_rescale: float = 1.0

    def __post_init__(self):
        check(
            self,
            blocks=integer(1, MAX_BLOCKS),
            C_init=choice(C_INITS),
            conj_sym=boolean(),
            clip_eigs=boolean(),
            **OPTION_RULES,
        )
        check_steps(self.dt_min, self.dt_max)


class S5(MIMO):
    """y_k = Re(C x_k) + D u_k with x_k = λ̄ x_{k-1} + B̄ u_k (twice the real part under conjugate symmetry).

    Parameters, all float32: Lambda_re, Lambda_im, log_step (P,); B_re, B_im (P, H); C_re, C_im (R, H, P); D (H,).

    Args:
        d_model: features H.
        n_states: stored states P.
        config: the layer's options.
        rngs: source of the `params` key.
    """

    STATE_AXIS: ClassVar = {"Lambda_re": 0, "Lambda_im": 0, "log_step": 0, "B_re": 0, "B_im": 0, "C_re": 2, "C_im": 2}
    ROLES: ClassVar = {
        **dict.fromkeys(("Lambda_re", "Lambda_im"), "eigenvalue"),
        "log_step": "step",
        **dict.fromkeys(("B_re", "B_im"), "input"),
        **dict.fromkeys(("C_re", "C_im"), "output"),
        "D": "skip",
    }
    RUN_OPTIONS: ClassVar = ("step_rescale",)

    Lambda_re: nnx.Param
    Lambda_im: nnx.Param
    log_step: nnx.Param

    def __init__(self, d_model: int, n_states: int, config: S5Config, *, rngs: nnx.Rngs):
        check_new_layer(d_model, n_states, config, S5Config, rngs)
        self.config = config
        for name, array in init_params(rngs.params(), d_model, n_states, config).items():
            setattr(self, name, nnx.Param(array))

    @property
    def output_scale(self) -> float:
        return 2.0 if self.config.conj_sym else 1.0

    def continuous(self) -> tuple[Complex[Array, "P"], Complex[Array, "P H"], Float[Array, "P"]]:
        """Λ, B and the time steps Δ."""
        Lambda, Delta = self._poles()
        return Lambda, jax.lax.complex(self.B_re[...], self.B_im[...]), Delta

    def gain(self) -> tuple[Complex[Array, "P"], Complex[Array, "P"]]:
        Lambda, Delta = self._poles()
        discretize, _ = DISCRETIZATIONS[self.config.discretization]
        Lambda_bar, gain = discretize(Lambda, jnp.ones_like(Lambda)[:, None], Delta)
        return Lambda_bar, gain[:, 0]

    def precise_input(self) -> Complex[Array, "P H"]:
        gain = GAINS[self.config.discretization](*self._poles())
        return gain[:, None] * jax.lax.complex(self.B_re[...], self.B_im[...])

    def margin(self) -> Float[Array, "P"]:
        _, margin = DISCRETIZATIONS[self.config.discretization]
        return margin(*self._poles())

    def _poles(self) -> tuple[Complex[Array, "P"], Float[Array, "P"]]:
        """Λ and Δ."""
        real = jnp.minimum(self.Lambda_re[...], -1e-4) if self.config.clip_eigs else self.Lambda_re[...]
        return jax.lax.complex(real, self.Lambda_im[...]), self.config.step_rescale * jnp.exp(self.log_step[...])


def init_params(key: PRNGKeyArray, d_model: int, n_states: int, config: S5Config) -> dict[str, Array]:
    """Draw the parameters of an S5 layer (S5 paper, appendix B.1), float32, shapes as in `S5`.

    Drawn for complete HiPPO-N blocks, then sliced to `n_states`, so any state count is possible.
    """
    B_key, C_key, D_key, step_key = jax.random.split(key, 4)
    size, stored = hippo.block_sizes(n_states, config.blocks, config.conj_sym)
    Lambda, V = host_arrays(
        lambda: hippo.hippo_n_blocks(n_states, config.blocks, config.conj_sym),
        jax.ShapeDtypeStruct((stored,), jnp.complex64),
        jax.ShapeDtypeStruct((size, stored), jnp.complex64),
    )
    B = lecun_normal()(B_key, (size, d_model), jnp.float32).astype(jnp.complex64)
    B = V.conj().T @ B
    C = jnp.stack([_init_C(k, d_model, V, config.C_init) for k in jax.random.split(C_key, 1 + config.bidirectional)])
    base = {
        "Lambda_re": Lambda.real,
        "Lambda_im": Lambda.imag,
        "log_step": hippo.log_steps(step_key, len(Lambda), config.dt_min, config.dt_max),
        "B_re": B.real,
        "B_im": B.imag,
        "C_re": C.real,
        "C_im": C.imag,
    }
    sliced = {name: jax.lax.slice_in_dim(a, 0, n_states, axis=S5.STATE_AXIS[name]) for name, a in base.items()}
    return sliced | {"D": normal(stddev=1.0)(D_key, (d_model,), jnp.float32)}


def _init_C(
    key: PRNGKeyArray, d_model: int, V: Complex64[Array, "size stored"], C_init: str
) -> Complex64[Array, "{d_model} stored"]:
    """Draw C for the complete state and multiply it by V, or draw C̃ in the eigenbasis."""
    size, stored = V.shape
    if C_init == "complex_normal":
        C = normal(stddev=0.5**0.5)(key, (d_model, stored, 2), jnp.float32)
        return jax.lax.complex(C[..., 0], C[..., 1])
    if C_init == "trunc_standard_normal":  # row by row, so that the variance is 1 / size instead of 1 / (H size)
        draw = functools.partial(lecun_normal(), shape=(size, 2), dtype=jnp.float32)
        C = jax.vmap(draw)(jax.random.split(key, d_model))
    else:
        C = lecun_normal()(key, (d_model, size, 2), jnp.float32)
    return jax.lax.complex(C[..., 0], C[..., 1]) @ V
