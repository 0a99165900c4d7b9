"""The S6 layer: the selective state space with the projections around it, Mamba's mixer (Gu and Dao, 2023)."""

import functools
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Complex, Float, Shaped

from aire.ssm.base import StateSpaceLayer, as_floats
from aire.ssm.modes import Modes
from aire.ssm.s6_parameters import S6Config, init_params
from aire.ssm.selective_scan import compose, selective_scan, selective_step
from aire.ssm.selective_sums import StateSums, state_sums


class S6State(NamedTuple):
    """What a sequence carries from step to step.

    Attributes:
        conv: the last K = d_conv − 1 inputs of the convolution.
        h: the states.
    """

    conv: Float[Array, "B K D"]
    h: Float[Array, "B N D"]


class Gates(NamedTuple):
    """What the inputs of the state space decide at each step.

    Attributes:
        Delta: time steps Δ of the channels.
        B: the input map of the states.
        C: their output map, in each direction.
    """

    Delta: Float[Array, "B L D"]
    B: Float[Array, "B L N"]
    C: Float[Array, "R B L N"]


class S6(StateSpaceLayer):
    """y_t[d] = C_t · h_t[d] + D[d] x_t[d] with h_t[d, n] = exp(Δ_t[d] A[d, n]) h_{t-1}[d, n] + Δ_t[d] B_t[n] x_t[d].

    [x | z] = in_proj u; x = silu(conv(x)); [δ | B | C] = x_proj x; Δ = softplus(dt_proj δ + dt_bias); A = −exp(A_log).
    The layer's output is out_proj (y · silu(z)).

    A state n is one dimension of the product C_t · B_s. All D channels have it: each state of the count stands for D
    modes (d, n), and a cut takes it from all channels. With zero states y = D x.

    In two directions, all gates but C are shared, as λ̄ and B̄ are in S5. The convolution is causal in both.

    Parameters, all float32, with the names and shapes of state-spaces/mamba: in_proj (2 D, H), conv_weight (D, d_conv),
    dt_proj (D, R), dt_bias (D,), A_log (D, N), D (D,), out_proj (H, D). With the options: conv_bias (D,), in_proj_bias
    (2 D,), out_proj_bias (H,). x_proj is stored in the parts that a cut of states tells apart: x_proj_dt (R, D),
    x_proj_B (N, D), x_proj_C (directions, N, D).

    The recurrence has a custom VJP: gradients are reverse mode only (no jvp, no jacfwd).

    Args:
        d_model: features H.
        n_states: states N of each channel.
        config: the layer's options.
        rngs: source of the `params` key.
    """

    STATE_AXIS: ClassVar = {"A_log": 1, "x_proj_B": 0, "x_proj_C": 1}
    ROLES: ClassVar = {"A_log": "eigenvalue", "dt_bias": "step", "D": "skip"}
    READOUT: ClassVar = ("x_proj_C",)
    SELECTIVE: ClassVar = True

    in_proj: nnx.Param
    conv_weight: nnx.Param
    x_proj_dt: nnx.Param
    x_proj_B: nnx.Param
    x_proj_C: nnx.Param
    dt_proj: nnx.Param
    dt_bias: nnx.Param
    A_log: nnx.Param
    out_proj: nnx.Param

    def __init__(self, d_model: int, n_states: int, config: S6Config, *, rngs: nnx.Rngs):
        self.config = config
        for name, array in init_params(rngs.params(), d_model, n_states, config).items():
            setattr(self, name, nnx.Param(array))

    def __call__(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L H"]:
        """Apply the layer to a sequence, from zero initial states.

        Outputs have the precision of the inputs. With bfloat16 inputs the recurrence still runs in float32.
        """
        u = as_floats(u, self.D.dtype)
        x, z, _ = self.inputs(u, self.initial_state(u.shape[0]).conv)
        gates, A = self.gates(x), self.eigenvalues()
        y = self._skip(x)
        if self.n_states:
            for C, reverse in zip(gates.C, self.reverse, strict=True):
                y += selective_scan(x, gates.Delta, A, gates.B, C, reverse=reverse)[0].astype(u.dtype)
        return self._output(y, z)

    def scan(self, u: Shaped[ArrayLike, "B L H"], x: Any) -> tuple[Float[Array, "B L H"], S6State]:
        """Apply the layer to the next L steps of a sequence, as `step` does L times: return outputs and last states.

        Args:
            u: inputs.
            x: the `S6State` after the steps before.
        Raises:
            UserError: the layer is bidirectional, so it needs the complete sequence.
        """
        self.check_one_direction()
        u = as_floats(u, self.D.dtype)
        v, z, conv = self.inputs(u, x.conv)
        gates, y, h = self.gates(v), self._skip(v), x.h
        if self.n_states:
            states, h = selective_scan(v, gates.Delta, self.eigenvalues(), gates.B, gates.C[0], h)
            y += states.astype(u.dtype)
        return self._output(y, z), S6State(conv, h)

    def step(self, u: Float[Array, "B H"], x: Any) -> tuple[Float[Array, "B H"], S6State]:
        """Advance the recurrence by one step: return the output and the new `S6State`.

        Raises:
            UserError: the layer is bidirectional, so it needs the complete sequence.
        """
        self.check_one_direction()
        v, z, conv = self.inputs(u[:, None], x.conv)
        Delta, B, C = self.gates(v)
        inputs = v[:, 0].astype(Delta.dtype)
        y, h = selective_step(inputs, Delta[:, 0], self.eigenvalues(), B[:, 0], C[0, :, 0], x.h)
        return self._output(self._skip(v) + y[:, None].astype(u.dtype), z)[:, 0], S6State(conv, h)

    def initial_state(self, batch: int) -> S6State:  # type: ignore[override]
        """Zero states, the initial argument of `step` and `scan`."""
        D, dtype = self.D.size, self.D.dtype
        return S6State(
            jnp.zeros((batch, self.config.d_conv - 1, D), dtype), jnp.zeros((batch, self.n_states, D), dtype)
        )

    def inputs(
        self, u: Float[Array, "B L H"], before: Float[Array, "B K D"]
    ) -> tuple[Float[Array, "B L D"], Float[Array, "B L D"], Float[Array, "B K D"]]:
        """The inputs x of the state space, its output gates z before the SiLU, and the last inputs of the convolution.

        Args:
            u: inputs of the layer.
            before: the inputs of the convolution before the first step.
        """
        L = u.shape[1]
        x, z = jnp.split(_linear(u, self.in_proj, getattr(self, "in_proj_bias", None)), 2, axis=-1)
        known = jnp.concatenate([before.astype(x.dtype), x], axis=1)
        weight = self.conv_weight[...].astype(x.dtype)
        taps = [weight[None, None, :, k] * known[:, k : k + L] for k in range(self.config.d_conv)]
        total = sum(taps[1:], start=taps[0])
        if (bias := getattr(self, "conv_bias", None)) is not None:
            total += bias[...].astype(x.dtype)[None, None]
        return jax.nn.silu(total), z, known[:, L:].astype(before.dtype)

    def gates(self, x: Float[Array, "B L D"]) -> Gates:
        """Δ, B and C, in the parameters' precision."""
        R, N = self.dt_proj.shape[1], self.n_states
        rows = _linear(x, self.x_proj, dtype=self.D.dtype)
        delta, B, C = jnp.split(rows, [R, R + N], axis=-1)
        Delta = jax.nn.softplus(_linear(delta, self.dt_proj, self.dt_bias))
        return Gates(Delta, B, jnp.moveaxis(C.reshape(*C.shape[:2], len(self.reverse), N), 2, 0))

    @property
    def x_proj(self) -> Float[Array, "rows D"]:
        """The parts of x_proj joined as in the reference, rows [δ; B; C], then those of C of the backward direction."""
        C = self.x_proj_C[...]
        return jnp.concatenate([self.x_proj_dt[...], self.x_proj_B[...], C.reshape(-1, C.shape[-1])])

    def eigenvalues(self) -> Float[Array, "N D"]:
        """A."""
        return -jnp.exp(self.A_log[...]).T

    def modes(self) -> Modes:
        """The modes (d, n) of the layer's parameters: Δ without its input, and B and C by the norms of their rows.

        Only `magnitude` and `random` score these. `GateMoments.modes` gives those that the inputs make.
        """
        N, D = self.eigenvalues().shape
        Delta = jax.nn.softplus(self.dt_bias[...])[:, None]
        exponent = Delta * self.eigenvalues().T
        B, C = (jnp.linalg.norm(part[...], axis=-1) for part in (self.x_proj_B, self.x_proj_C))
        d, n = jnp.divmod(jnp.arange(D * N, dtype=jnp.int32), max(N, 1))
        return Modes(
            Lambda_bar=_complex(jnp.exp(exponent).ravel()),
            B_bar=_complex((Delta * B[None]).reshape(-1, 1)),
            C=_complex(jnp.tile(C[:, None], (1, 1, D))),
            margin=-jnp.expm1(2 * exponent).ravel(),
            channel=d,
            unit=n,
            nominal=True,
        )

    def states(self, u: Shaped[ArrayLike, "B L H"]) -> Float[Array, "B L R modes"]:
        """All states, from zero initial states, in the order of the modes. They are real."""
        u = as_floats(u, self.D.dtype)
        x, _, _ = self.inputs(u, self.initial_state(u.shape[0]).conv)
        Delta, B, _ = self.gates(x)
        decays = jnp.exp(Delta[..., None] * self.eigenvalues().T[None, None])
        written = (Delta * x.astype(Delta.dtype))[..., None] * B[:, :, None]
        scans = [jax.lax.associative_scan(compose, (decays, written), axis=1, reverse=r)[1] for r in self.reverse]
        return jnp.stack([h.reshape(*h.shape[:2], -1) for h in scans], axis=2)

    def gate_sums(self, u: Float[Array, "B L H"], mask: Float[Array, "B L"]) -> dict[str, Array]:
        x, z, _ = self.inputs(u, self.initial_state(u.shape[0]).conv)
        gates, A = self.gates(x), self.eigenvalues()
        x, z, m = x.astype(A.dtype), z.astype(A.dtype), mask.astype(A.dtype)
        found = [
            state_sums(x, gates.Delta, A, gates.B, C, jax.nn.silu(z), m, reverse=reverse)
            for C, reverse in zip(gates.C, self.reverse, strict=True)
        ]
        sums = StateSums(*(jnp.stack(arrays) for arrays in zip(*found, strict=True)))  # (directions, N, D)
        to_output = jnp.sum(self.out_proj[...] ** 2, axis=0)  # ‖W_out[:, d]‖²
        einsum = functools.partial(jnp.einsum, precision="highest")
        return {
            "inputs": einsum("bl,bld->d", m, x**2),
            "drives": einsum("bl,bld,bln->nd", m, gates.Delta**2, gates.B**2),
            "margins": sums.margins[0],
            "readouts": einsum("bl,rbln->rn", m, gates.C**2),
            "states": sums.states,
            "contributions": sums.contributions,
            "outputs": sums.gated * to_output[None, None],
        }

    def readout(self) -> Float[Array, "R D N"]:
        """The map from x to the output gates C: x_proj_C, with the states last."""
        return self.x_proj_C[...].swapaxes(1, 2)

    def mask(self, keep: Bool[ArrayLike, "N"]) -> Self:
        """Return a layer of the same size in which the states where `keep` is false stay zero.

        Their rows of the output gates stay: a refit uses them for the other states.
        """
        return self._replaced({"x_proj_B": jnp.where(jnp.asarray(keep)[:, None], self.x_proj_B[...], 0)})

    def without_states(self, x: Float[Array, "B L D"], z: Float[Array, "B L D"]) -> Float[Array, "B L H"]:
        """What the layer returns if no state reaches the output, from `inputs`."""
        return self._output(self._skip(x), z)

    def _parts_of_readout(self, C: Array) -> dict[str, Array]:
        return {"x_proj_C": C.swapaxes(1, 2)}

    def _skip(self, x: Array) -> Array:
        return self.D[...].astype(x.dtype)[None, None] * x

    def _output(self, y: Array, z: Array) -> Array:
        return _linear(y * jax.nn.silu(z), self.out_proj, getattr(self, "out_proj_bias", None))


def _linear(
    x: Float[Array, "B L I"], weight: nnx.Param | Array, bias: nnx.Param | None = None, dtype: jnp.dtype | None = None
) -> Float[Array, "B L O"]:
    """weight x + bias on two axes (see `Linear`), in the precision of x, or with results in `dtype`."""
    rows = x.reshape(-1, x.shape[-1])
    y = jnp.matmul(rows, weight[...].T.astype(x.dtype), preferred_element_type=dtype)
    y = y.reshape(*x.shape[:-1], weight.shape[0])
    return y if bias is None else y + bias[...].astype(y.dtype)[None, None]


def _complex(a: Float[Array, "*A"]) -> Complex[Array, "*A"]:
    return jax.lax.complex(a, jnp.zeros_like(a))
