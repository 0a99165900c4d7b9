"""The S4D layer: a bank of single-input, single-output diagonal state spaces (Gu, Goel, Gupta, Ré, NeurIPS 2022)."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.nn.initializers import normal
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Float64, Int32, PRNGKeyArray, Shaped

from aire.ssm import hippo
from aire.ssm.abstract import host_arrays
from aire.ssm.base import StateSpaceLayer, check_new_layer
from aire.ssm.discretize import DISCRETIZATIONS, GAINS, LOGARITHMS, OPTION_RULES, check_steps
from aire.ssm.kernel import bank_kernel
from aire.ssm.recurrence import run_bank
from aire.utils.arguments import follow
from aire.utils.checks import check, choice, integer


class Channel(nnx.Variable):
    """The channel of each state of a bank, int32 (n,), ascending, below `channels`. Saved, but not trained."""

    def fault(self, array: np.ndarray) -> str | None:
        """Describe why an array is not a valid value of this variable, or return None."""
        if array.dtype != np.int32:
            return f"has dtype {array.dtype}, expected int32"
        bounded = np.concatenate([[0], array, [self.channels - 1]])
        return None if (np.diff(bounded) >= 0).all() else f"is not ascending from 0 to {self.channels - 1}"


@dataclasses.dataclass(frozen=True)
class S4DConfig:
    """Options of an S4D layer, besides its sizes.

    Attributes:
        kind: "s4d", the name of this kind of layer in files.
        init: initial eigenvalues, "legs", "inv" or "lin".
        dt_min, dt_max: range of the initial time steps.
        bidirectional: convolve in both directions, each with its own C.
        discretization: "zoh" or "bilinear".
        step_rescale: factor on the time steps, to run at another sampling rate than in training.
    """

    kind: str = dataclasses.field(default="s4d", init=False)
    init: str = "legs"
    dt_min: float = 0.001
    dt_max: float = 0.1
    bidirectional: bool = False
    discretization: str = "zoh"
    step_rescale: float = 1.0

    def __post_init__(self):
        check(self, init=choice(hippo.S4D_INITS), **OPTION_RULES)
        check_steps(self.dt_min, self.dt_max)


class S4D(StateSpaceLayer):
    """In each channel, y_k = 2 Re(C x_k) + D u_k with x_k = λ̄ x_{k-1} + B̄ u_k; A = −exp(log_A_real) + i A_imag.

    B is 1, because only the product of B and C matters to a single-input, single-output system. One of each conjugate
    pair is stored. The n pairs of all channels form one flat list, sorted by channel, so channels may hold different
    numbers of pairs, or none. With zero states the layer is y = D u.

    In two directions, two output maps C share λ̄ and B̄, and both see the current step, as in S5. (In state-spaces' S4
    the backward kernel starts one step later; its code calls that a deliberate off-by-one.)

    The convolution has a custom VJP: gradients are reverse mode only (no jvp, no jacfwd). Compute Hessian-vector
    products as grad of grad.

    Parameters, all float32: log_A_real, A_imag (n,); C_re, C_im (R, n); log_dt, D (H,). Not trained: channel (n,).

    Args:
        d_model: channels H.
        n_states: stored states n of all channels, H N / 2 for a state dimension of N per channel.
        config: the layer's options.
        rngs: source of the `params` key.
    """

    STATE_AXIS: ClassVar = {"log_A_real": 0, "A_imag": 0, "C_re": 1, "C_im": 1, "channel": 0}
    ROLES: ClassVar = {
        **dict.fromkeys(("log_A_real", "A_imag"), "eigenvalue"),
        "log_dt": "step",
        **dict.fromkeys(("C_re", "C_im"), "output"),
        "D": "skip",
    }
    RUN_OPTIONS: ClassVar = ("step_rescale",)

    log_A_real: nnx.Param
    A_imag: nnx.Param
    log_dt: nnx.Param

    def __init__(self, d_model: int, n_states: int, config: S4DConfig, *, rngs: nnx.Rngs):
        check_new_layer(d_model, n_states, config, S4DConfig, rngs)
        self.config = config
        params = init_params(rngs.params(), d_model, n_states, config)
        self.channel = Channel(params.pop("channel"), channels=d_model)
        for name, array in params.items():
            setattr(self, name, nnx.Param(array))

    @property
    def output_scale(self) -> float:
        return 2.0

    def continuous(self) -> tuple[Complex[Array, "n"], Complex[Array, "n 1"], Float[Array, "n"]]:
        """Λ, B and the time steps Δ."""
        Lambda = jax.lax.complex(-jnp.exp(self.log_A_real[...]), self.A_imag[...])
        Delta = self.config.step_rescale * jnp.exp(self.log_dt[...])
        return Lambda, jnp.ones_like(Lambda)[:, None], Delta[self.channel[...]]

    def discrete(self) -> tuple[Complex[Array, "n"], Complex[Array, "n 1"]]:
        """λ̄ and B̄."""
        discretize, _ = DISCRETIZATIONS[self.config.discretization]
        return discretize(*self.continuous())

    def precise_input(self) -> Complex[Array, "n 1"]:
        Lambda, _, Delta = self.continuous()
        return GAINS[self.config.discretization](Lambda, Delta)[:, None]

    def margin(self) -> Float[Array, "n"]:
        Lambda, _, Delta = self.continuous()
        _, margin = DISCRETIZATIONS[self.config.discretization]
        return margin(Lambda, Delta)

    def channels(self) -> Int32[Array, "n"]:
        return self.channel[...]

    def readout(self) -> Complex[Array, "R 1 n"]:
        """C."""
        return jax.lax.complex(self.C_re[...], self.C_im[...])[:, None]

    def drive(self, u: Float[Array, "B L H"]) -> Float[Array, "B L 2 n"]:
        """Real and imaginary part of B̄ u: every state receives the input of its channel."""
        B_bar = self.discrete()[1][:, 0]
        inputs = u.astype(B_bar.real.dtype)[..., self.channel[...]]
        return jnp.stack([inputs * part[None, None] for part in (B_bar.real, B_bar.imag)], axis=2)

    def kernel(self, length: int) -> Float[Array, "R H {length}"]:
        """Impulse responses without D: K[r, h, l] = 2 Re Σ_{i in h} C_ri B̄_i λ̄_i^l.

        Raises:
            UserError: the length is no whole number above 0.
        """
        follow("length", length, integer(1, 2**31))
        return bank_kernel(*self._bank(), self.D.shape[0], length)

    def __call__(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L H"]:
        """Apply the layer to a sequence, from zero initial states.

        Outputs have the precision of the inputs. With bfloat16 inputs the convolution still runs in float32.

        Raises:
            UserError: `u` is no array (B, L, H) of numbers.
        """
        u = self._inputs(u)
        Du = self.D[...].astype(u.dtype)[None, None] * u
        if self.n_states == 0:
            return Du
        log_Lambda_bar, weights, channel = self._bank()
        return run_bank(u.astype(weights.real.dtype), log_Lambda_bar, weights, channel).astype(u.dtype) + Du

    def _bank(self) -> tuple[Complex[Array, "n"], Complex[Array, "R n"], Int32[Array, "n"]]:
        """log λ̄, the weights 2 C B̄ and the channel of each state."""
        Lambda, _, Delta = self.continuous()
        _, B_bar = self.discrete()
        log_Lambda_bar = LOGARITHMS[self.config.discretization](Lambda, Delta)
        return log_Lambda_bar, 2 * self.readout()[:, 0] * B_bar[None, :, 0], self.channel[...]

    def read(self, x: Float[Array, "B L R 2 n"], u: Float[Array, "B L H"]) -> Float[Array, "B L H"]:
        C = self.output_scale * jnp.stack([self.C_re[...], -self.C_im[...]], axis=1)  # (R, 2, n)
        Cx = (C[None, None] * x).sum(axis=(2, 3))
        y = jax.ops.segment_sum(jnp.moveaxis(Cx, -1, 0), self.channel[...], self.D.size, indices_are_sorted=True)
        return jnp.moveaxis(y, 0, -1).astype(u.dtype) + self.D[...].astype(u.dtype)[None, None] * u

    def step(
        self, u: Float[Array, "B H"], x: Complex[Array, "B n"]
    ) -> tuple[Float[Array, "B H"], Complex[Array, "B n"]]:
        """Advance the recurrence by one step: return the output y and the new states.

        Raises:
            UserError: a wrong shape or dtype, or the layer is bidirectional, so it needs the complete sequence.
        """
        u, x = self._step_inputs(u, x)
        Lambda_bar, B_bar = self.discrete()
        channel = self.channel[...]
        x = Lambda_bar[None] * x + B_bar[None, :, 0] * u[:, channel].astype(x.dtype)
        Cx = 2 * (self.readout()[0] * x).real
        Cx = jax.ops.segment_sum(Cx.T, channel, self.D.size, indices_are_sorted=True).T
        return Cx + self.D[...][None] * u, x


class S4DLayer(S4D):
    """S4D with the output stage of its reference: GELU, then a map to 2 H features per position with GLU.

    The reference's dropout between the two is left out. In a `Classifier`, `Block` does this (activation "glu").

    Parameters, besides those of S4D: out1 (values) and out2 (gates), each a linear map of H features to H.
    """

    def __init__(self, d_model: int, n_states: int, config: S4DConfig, *, rngs: nnx.Rngs):
        super().__init__(d_model, n_states, config, rngs=rngs)
        self.out1 = nnx.Linear(d_model, d_model, rngs=rngs)
        self.out2 = nnx.Linear(d_model, d_model, rngs=rngs)

    def __call__(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L H"]:
        """Apply the layer to a sequence, from zero initial states."""
        return self._mix(self.system(u))

    def system(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L H"]:
        return super().__call__(u)

    def step(
        self, u: Float[Array, "B H"], x: Complex[Array, "B n"]
    ) -> tuple[Float[Array, "B H"], Complex[Array, "B n"]]:
        """As `S4D.step`, with the output stage."""
        y, x = super().step(u, x)
        return self._mix(y), x

    def scan(self, u: Float[Array, "B L H"], x: Any) -> tuple[Float[Array, "B L H"], Any]:
        """As `S4D.scan`, with the output stage."""
        y, x = super().scan(u, x)
        return self._mix(y), x

    def _mix(self, y: Array) -> Array:
        g = jax.nn.gelu(y, approximate=False)
        return self.out1(g) * jax.nn.sigmoid(self.out2(g))


def init_params(key: PRNGKeyArray, d_model: int, n_states: int, config: S4DConfig) -> dict[str, Array]:
    """Draw the arrays of an S4D layer, shapes as in `S4D`: eigenvalues by `init`, C complex normal (S4D paper).

    Made for channels of equal size, then sliced to `n_states`, so any state count is possible.
    """
    C_key, D_key, step_key = jax.random.split(key, 3)
    pairs = -(-n_states // d_model)
    real, imag = host_arrays(
        lambda: _eigenvalues(config.init, pairs), *[jax.ShapeDtypeStruct((pairs,), jnp.float32)] * 2
    )
    C = normal(stddev=0.5**0.5)(C_key, (2, 1 + config.bidirectional, d_model * pairs), jnp.float32)
    base = {
        "log_A_real": jnp.tile(real, d_model),
        "A_imag": jnp.tile(imag, d_model),
        "C_re": C[0],
        "C_im": C[1],
        "channel": jnp.repeat(jnp.arange(d_model, dtype=jnp.int32), pairs),
    }
    sliced = {name: jax.lax.slice_in_dim(a, 0, n_states, axis=S4D.STATE_AXIS[name]) for name, a in base.items()}
    return sliced | {
        "log_dt": hippo.log_steps(step_key, d_model, config.dt_min, config.dt_max),
        "D": normal(stddev=1.0)(D_key, (d_model,), jnp.float32),
    }


def _eigenvalues(init: str, pairs: int) -> tuple[Float64[np.ndarray, "{pairs}"], Float64[np.ndarray, "{pairs}"]]:
    """log(−Re A) and Im A of one channel."""
    A = hippo.S4D_INITS[init](2 * pairs)
    return np.log(-A.real), A.imag
