"""The S5 layer: one multi-input, multi-output diagonal state space (Smith, Warrington, Linderman, ICLR 2023)."""

import dataclasses
import functools
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.nn.initializers import lecun_normal, normal

from aire.errors import UserError
from aire.ssm import hippo
from aire.ssm.discretize import DISCRETIZATIONS, check_options
from aire.ssm.inputs import as_floats
from aire.ssm.modes import Modes
from aire.ssm.scan import diagonal_scan

C_INITS = ("lecun_normal", "trunc_standard_normal", "complex_normal")

# Which axis of which array belongs to the states: the one place that cutting and importing read.
STATE_AXIS = {"Lambda_re": 0, "Lambda_im": 0, "log_step": 0, "B_re": 0, "B_im": 0, "C_re": 2, "C_im": 2}


@dataclasses.dataclass(frozen=True)
class S5Config:
    """Options of an S5 layer, beside its sizes.

    Attributes:
        kind: "s5"; tells the kinds of layers apart in files.
        blocks: HiPPO-N blocks J of the initialisation.
        C_init: "lecun_normal", "trunc_standard_normal" or "complex_normal".
        dt_min, dt_max: range of the initial time steps.
        conj_sym: store one of each conjugate pair; the output is then 2 Re(C x).
        bidirectional: scan in both directions, each with its own C.
        discretization: "zoh" or "bilinear".
        clip_eigs: hold Re Λ ≤ −1e-4.
        step_rescale: factor on the time steps, to run at another sampling rate than the one trained at.
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
        check_options(self.discretization, self.dt_min, self.dt_max)
        if self.C_init not in C_INITS:
            raise UserError(f"C_init={self.C_init!r}: expected one of {sorted(C_INITS)}")
        if self.blocks < 1:
            raise UserError(f"blocks={self.blocks}: expected at least 1")


class S5(nnx.Module):
    """y_k = Re(C x_k) + D u_k with x_k = λ̄ x_{k-1} + B̄ u_k (twice the real part under conjugate symmetry).

    Parameters, all float32: Lambda_re, Lambda_im, log_step (P,); B_re, B_im (P, H); C_re, C_im (R, H, P); D (H,).
    A layer may hold zero states: it is then y = D u.

    Gradients are written down for reverse mode: take Hessian-vector products as gradients of gradients.

    Args:
        d_model: features H.
        n_states: stored states P.
        config: the layer's options.
        rngs: source of the `params` key.
    """

    def __init__(self, d_model: int, n_states: int, config: S5Config, *, rngs: nnx.Rngs):
        self.config = config
        for name, array in init_params(rngs.params(), d_model, n_states, config).items():
            setattr(self, name, nnx.Param(array))

    @property
    def n_states(self) -> int:
        return self.Lambda_re.shape[0]

    def continuous(self) -> tuple[Array, Array, Array]:
        """Λ complex (P,), B complex (P, H) and the time steps Δ (P,)."""
        real = jnp.minimum(self.Lambda_re[...], -1e-4) if self.config.clip_eigs else self.Lambda_re[...]
        Lambda = jax.lax.complex(real, self.Lambda_im[...])
        B = jax.lax.complex(self.B_re[...], self.B_im[...])
        return Lambda, B, self.config.step_rescale * jnp.exp(self.log_step[...])

    def discrete(self) -> tuple[Array, Array]:
        """λ̄ complex (P,) and B̄ complex (P, H)."""
        discretize, _ = DISCRETIZATIONS[self.config.discretization]
        return discretize(*self.continuous())

    def _gain(self) -> tuple[Array, Array]:
        """λ̄ and B̄ / B, both complex (P,): what a step needs, which would spend its time on forming B̄."""
        discretize, _ = DISCRETIZATIONS[self.config.discretization]
        Lambda, _, Delta = self.continuous()
        Lambda_bar, gain = discretize(Lambda, jnp.ones_like(Lambda)[:, None], Delta)
        return Lambda_bar, gain[:, 0]

    def modes(self) -> Modes:
        """The layer as a bank of discrete modes: what scores read."""
        Lambda, _, Delta = self.continuous()
        Lambda_bar, B_bar = self.discrete()
        _, margin = DISCRETIZATIONS[self.config.discretization]
        C = jax.lax.complex(self.C_re[...], self.C_im[...])
        return Modes(Lambda_bar, B_bar, C, margin(Lambda, Delta), jnp.zeros(self.n_states, jnp.int32))

    def cut(self, keep: Array) -> Self:
        """A layer with only the states where `keep`, bool (P,), is true. Its arrays are really smaller."""
        kept = np.flatnonzero(np.asarray(keep))
        layer = nnx.clone(self)
        for name, axis in STATE_AXIS.items():
            setattr(layer, name, nnx.Param(jnp.take(getattr(self, name)[...], kept, axis=axis)))
        return layer

    def mask(self, keep: Array) -> Self:
        """A layer of the same size in which the states where `keep`, bool (P,), is false reach no output."""
        layer = nnx.clone(self)
        for name in ("C_re", "C_im"):
            setattr(layer, name, nnx.Param(jnp.where(keep, getattr(self, name)[...], 0)))
        return layer

    def _output_scale(self) -> float:
        return 2.0 if self.config.conj_sym else 1.0

    def __call__(self, u: Array) -> Array:
        """Outputs (B, L, H) for inputs u (B, L, H), from zero initial states.

        Inputs may be bfloat16: the outputs then are too, and the recurrence still runs in the parameters' float32.
        """
        u = as_floats(u, self.D.dtype)
        B, L, H = u.shape
        rows = u.reshape(-1, H)  # real matmuls on [Re | Im] side by side, on two axes: one in, one out
        y = self.D[...].astype(u.dtype) * rows
        if self.n_states:
            Lambda_bar, B_bar = self.discrete()
            W = jnp.concatenate([B_bar.real, B_bar.imag]).astype(u.dtype)
            v = jnp.matmul(rows, W.T, preferred_element_type=B_bar.real.dtype).reshape(B, L, 2, -1)
            x = diagonal_scan(Lambda_bar, v, reverse=self._directions()).astype(u.dtype)
            C = self._output_scale() * jnp.stack([self.C_re[...], -self.C_im[...]], axis=1)  # (R, 2, H, P)
            y += x.reshape(B * L, -1) @ C.swapaxes(2, 3).reshape(-1, H).astype(u.dtype)
        return y.reshape(u.shape)

    def _directions(self) -> tuple[bool, ...]:
        return (False, True) if self.config.bidirectional else (False,)

    def initial_state(self, batch: int) -> Array:
        """Zero states, complex (B, P), to begin `step` with."""
        return jnp.zeros((batch, self.n_states), jnp.result_type(self.Lambda_re[...], jnp.complex64))

    def step(self, u: Array, x: Array) -> tuple[Array, Array]:
        """One step of the recurrence: y (B, H) and the new states (B, P) from u (B, H) and the states x (B, P).

        Raises:
            UserError: if the layer is bidirectional, which needs the whole sequence.
        """
        if self.config.bidirectional:
            raise UserError("step() needs a one-directional layer: a bidirectional one needs the whole sequence")
        Lambda_bar, gain = self._gain()
        x = Lambda_bar * x + gain * jax.lax.complex(u @ self.B_re[...].T, u @ self.B_im[...].T)
        Cx = x.real @ self.C_re[0].T - x.imag @ self.C_im[0].T
        return self._output_scale() * Cx + self.D[...] * u, x


def init_params(key: Array, d_model: int, n_states: int, config: S5Config) -> dict[str, Array]:
    """Initial parameters of an S5 layer (S5 paper, appendix B.1), float32, shapes as in `S5`.

    Drawn for whole HiPPO-N blocks, then sliced to `n_states`, so any state count is possible.
    """
    B_key, C_key, D_key, step_key = jax.random.split(key, 4)
    Lambda, V = hippo.hippo_n_blocks(n_states, config.blocks, config.conj_sym)
    B = jnp.asarray(V.conj().T, jnp.complex64) @ lecun_normal()(B_key, (V.shape[0], d_model), jnp.float32)
    C = jnp.stack([_init_C(k, d_model, V, config.C_init) for k in jax.random.split(C_key, 1 + config.bidirectional)])
    base = {
        "Lambda_re": jnp.asarray(Lambda.real, jnp.float32),
        "Lambda_im": jnp.asarray(Lambda.imag, jnp.float32),
        "log_step": hippo.log_steps(step_key, len(Lambda), config.dt_min, config.dt_max),
        "B_re": B.real,
        "B_im": B.imag,
        "C_re": C.real,
        "C_im": C.imag,
    }
    sliced = {name: jax.lax.slice_in_dim(a, 0, n_states, axis=STATE_AXIS[name]) for name, a in base.items()}
    return sliced | {"D": normal(stddev=1.0)(D_key, (d_model,), jnp.float32)}


def _init_C(key: Array, d_model: int, V: np.ndarray, C_init: str) -> Array:
    """C̃ complex64 (H, P'): drawn for the whole state and multiplied by V, or drawn in the eigenbasis."""
    size, stored = V.shape
    if C_init == "complex_normal":
        C = normal(stddev=0.5**0.5)(key, (d_model, stored, 2), jnp.float32)
        return jax.lax.complex(C[..., 0], C[..., 1])
    if C_init == "trunc_standard_normal":  # row by row, so that the variance is 1 / size instead of 1 / (H size)
        draw = functools.partial(lecun_normal(), shape=(size, 2), dtype=jnp.float32)
        C = jax.vmap(draw)(jax.random.split(key, d_model))
    else:
        C = lecun_normal()(key, (d_model, size, 2), jnp.float32)
    return jax.lax.complex(C[..., 0], C[..., 1]) @ jnp.asarray(V, jnp.complex64)
