"""Moments: second moments of a layer's states, measured on data, or in closed form under white-noise inputs.

A selective layer has `GateMoments`. Both kinds have the same methods, so that scores need not know which they get.
"""

import dataclasses
from collections.abc import Callable
from typing import ClassVar, Self

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex128, Float64, Int
from numpy.typing import ArrayLike

from aire.pruning import features
from aire.ssm import Modes
from aire.utils.arguments import follow, instance
from aire.utils.checks import integer
from aire.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over all time steps of a calibration set, without padding, for one layer.

    The F = 2 R m features of a channel are z = [Re x; Im x] of its states, both directions stacked: flattened from
    (R, 2, m) with m the largest number of states in a channel. Empty slots hold zeros.

    Attributes:
        steps: number of time steps.
        outer: Σ z zᵀ by channel. A layer such as S5 is one channel.
        output: Σ ‖y‖² of the layer's outputs.
        place: the channel of each state, and its index in the channel.
        directions: R.
    """

    steps: float
    outer: Float64[np.ndarray, "channels F F"]
    output: float
    place: Int[np.ndarray, "2 n"]
    directions: int

    def __add__(self, other: Self) -> Self:
        """The moments of the union of both sets."""
        return dataclasses.replace(
            self, steps=self.steps + other.steps, outer=self.outer + other.outer, output=self.output + other.output
        )

    has_covariance: ClassVar[bool] = True

    @property
    def per_state(self) -> int:
        """The number of features of a state."""
        return 2 * self.directions

    def covariance(self) -> Float64[np.ndarray, "channels F F"]:
        """E[z zᵀ], not centred."""
        return self.outer / self.steps

    def energy(self) -> Float64[np.ndarray, "R n"]:
        """E|x_i|² of each state in each direction."""
        channels = len(self.outer)
        squares = np.diagonal(self.outer, axis1=1, axis2=2).reshape(channels, self.directions, 2, -1).sum(axis=2)
        channel, place = self.place
        return squares[channel, :, place].T / self.steps

    def readout(self, modes: Modes) -> Float64[np.ndarray, "channels O F"]:
        """G with y = G z + D u."""
        return features.readout(modes)

    def kept(self, keep: ArrayLike) -> Bool[np.ndarray, "channels F"]:
        """Whether each feature belongs to a kept state, from bool (n,)."""
        return features.mask(keep, self.place, self.directions)

    def by_mode(self, values: Float64[np.ndarray, "channels m"]) -> Float64[np.ndarray, "n"]:
        """Values of the slots, in the order of the modes."""
        return values[tuple(self.place)]

    def contribution(self, modes: Modes) -> Float64[np.ndarray, "R n"]:
        """The energy that each state sends through C, ‖C_{:,i}‖² E|x_i|², in each direction."""
        return np.sum(np.abs(np.asarray(modes.C, np.complex128)) ** 2, axis=1) * self.energy()

    def output_contribution(self, modes: Modes) -> Float64[np.ndarray, "R n"]:
        """The same as `contribution`, because nothing follows C in the layer."""
        return self.contribution(modes)

    def output_energy(self) -> float:
        """E‖y‖², the mean energy of the layer's output per step."""
        return self.output / self.steps

    def modes(self, modes: Modes) -> Modes:
        """The same modes: they do not depend on inputs."""
        return modes


@dataclasses.dataclass(frozen=True)
class GateMoments:
    """Sums over all time steps of a calibration set, without padding, for one selective layer: S6's `gate_sums`.

    Attributes:
        steps: number of time steps.
        output: Σ ‖y‖² of the layer's outputs.
        inputs: Σ u_d² of the inputs of the channels.
        drives: Σ Δ_d² B_n².
        margins: Σ 1 − Ā².
        readouts: Σ C_n², in each direction.
        states: Σ h².
        contributions: Σ (C_n h)².
        outputs: Σ (C_n h silu(z_d))² ‖W_d‖², with z the gate of the output and W the map to the layer's output.
        outer: Σ φ φᵀ of the features of `aire.pruning.selective`; empty unless `calibrate` was asked for it.
    """

    steps: float
    output: float
    inputs: Float64[np.ndarray, "D"]
    drives: Float64[np.ndarray, "N D"]
    margins: Float64[np.ndarray, "N D"]
    readouts: Float64[np.ndarray, "R N"]
    states: Float64[np.ndarray, "R N D"]
    contributions: Float64[np.ndarray, "R N D"]
    outputs: Float64[np.ndarray, "R N D"]
    outer: Float64[np.ndarray, "F F"] = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))

    def __add__(self, other: Self) -> Self:
        """The moments of the union of both sets."""
        return type(self)(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))

    def energy(self) -> Float64[np.ndarray, "R n"]:
        """E[h²] of each mode in each direction."""
        return _by_mode(self.states / self.steps)

    def contribution(self, modes: Modes) -> Float64[np.ndarray, "R n"]:
        """The energy that each mode sends through C, E[(C_n h)²], in each direction."""
        return _by_mode(self.contributions / self.steps)

    def output_contribution(self, modes: Modes) -> Float64[np.ndarray, "R n"]:
        """The energy that each mode sends through C, the gate and the output map, in each direction."""
        return _by_mode(self.outputs / self.steps)

    def output_energy(self) -> float:
        """E‖y‖², the mean energy of the layer's output per step."""
        return self.output / self.steps

    def modes(self, modes: Modes) -> Modes:
        """The modes of a linear layer with the same mean squares of λ̄, B̄ u and C.

        For white inputs of power E[u²], independent of the gates, the states of the selective layer then have the same
        energies: W = E[Ā²] W + E[(Δ B)²] E[u²]. Exact where the gates are constant.
        """
        margin = _by_mode(self.margins / self.steps)
        B_bar = _by_mode(np.sqrt(self.drives / self.steps * (self.inputs / self.steps)))
        C = np.broadcast_to(np.sqrt(self.readouts / self.steps)[..., None], self.states.shape)
        return dataclasses.replace(
            modes,
            Lambda_bar=jnp.asarray(np.sqrt(1 - margin), modes.Lambda_bar.dtype),
            B_bar=jnp.asarray(B_bar[:, None], modes.B_bar.dtype),
            C=jnp.asarray(_by_mode(C)[:, None], modes.C.dtype),
            margin=jnp.asarray(margin, modes.margin.dtype),
            nominal=False,
        )

    @property
    def has_covariance(self) -> bool:
        """Whether the covariance was measured."""
        return self.outer.size > 0 or self.states.size == 0

    @property
    def per_state(self) -> int:
        """The number of features of a state."""
        R, N, _ = self.states.shape
        return R * max(N, 1)

    def covariance(self) -> Float64[np.ndarray, "1 F F"]:
        """E[φ φᵀ] of the features of `aire.pruning.selective`. Raise UserError if it was not measured."""
        if not self.has_covariance:
            raise UserError("moments without covariance: pass aire.calibrate(model, batches, covariance=True)")
        return self.outer[None] / self.steps

    def readout(self, modes: Modes) -> Float64[np.ndarray, "1 1 F"]:
        """G of the layer as it is, 1 where a state has its own row of the output gates."""
        R, N, _ = self.states.shape
        return np.tile(np.eye(N).ravel(), R)[None, None]

    def kept(self, keep: ArrayLike) -> Bool[np.ndarray, "1 F"]:
        """Whether each feature belongs to a kept state, from bool (N,)."""
        R, N, _ = self.states.shape
        return np.tile(np.asarray(keep), R * N)[None]

    def by_mode(self, values: Float64[np.ndarray, "1 N"]) -> Float64[np.ndarray, "n"]:
        """Values of the states, shared out to their modes."""
        D = self.states.shape[-1]
        return np.tile(values[0], D) / D


AnyMoments = Moments | GateMoments


def _by_mode(a: Float64[np.ndarray, "*A N D"]) -> Float64[np.ndarray, "*A n"]:
    """In the order of the modes of an S6 layer: by channel, then by state."""
    return a.swapaxes(-1, -2).reshape(*a.shape[:-2], -1)


def white(modes: Modes) -> Moments:
    """Compute the moments under white noise of unit variance, in the steady state.

    E[x_i x_j*] = B̄_i B̄_jᴴ / (1 − λ̄_i λ̄_j*), the solution of the Lyapunov equation. Its diagonal times ‖C_i‖² is the
    AIRE energy. `steps` is 1, so `outer` is the covariance. The output is s Re(C x), without the skip D u.

    Raises:
        UserError: a state is unstable.
    """
    instance("modes", modes, Modes, "an aire.Modes")
    if (np.asarray(modes.margin) <= 0).any():
        raise UserError("white noise has no steady state in an unstable layer: pass moments over a finite horizon")
    return _closed_form(modes, lambda q: 1 / (1 - q))


def finite_horizon(modes: Modes, length: int) -> Moments:
    """Compute the mean moments over the steps of a sequence of white noise, from zero states.

    Differs from `white` where the memory of a state is longer than the sequence. Unstable states are allowed:
    E[x_i x_j*] = B̄_i B̄_jᴴ/L Σ_{k=1}^{L} Σ_{j<k} (λ̄_i λ̄_j*)^j with L the length.

    Raises:
        UserError: the length is below 1.
    """
    instance("modes", modes, Modes, "an aire.Modes")
    follow("length", length, integer(1, 2**62))
    return _closed_form(modes, lambda q: _mean_partial_sum(q, length))


Summed = Callable[[Complex128[np.ndarray, "*A"]], Complex128[np.ndarray, "*A"]]


def _closed_form(modes: Modes, summed: Summed) -> Moments:
    """The moments E[x_i x_j*] = B̄_i B̄_jᴴ f(λ̄_i λ̄_j*) and E[x_i x_j] = B̄_i B̄_jᵀ f(λ̄_i λ̄_j), by channel.

    Both directions have them. They share only the current input, so that across directions f = 1.
    """
    if modes.nominal:
        raise UserError("a selective layer has no moments in closed form: pass moments=aire.calibrate(model, batches)")
    place, directions, G = features.places(modes.channel), modes.C.shape[0], features.readout(modes)
    lam = features.in_channels(accurate_eigenvalues(modes), place)
    B = features.in_channels(np.asarray(modes.B_bar, np.complex128), place)
    own, across = (
        _real_form(
            f(lam[:, :, None] * lam[:, None].conj()) * (B @ B.conj().swapaxes(1, 2)),
            f(lam[:, :, None] * lam[:, None]) * (B @ B.swapaxes(1, 2)),
        )
        for f in (summed, np.ones_like)
    )
    outer = np.block([[own if r == s else across for s in range(directions)] for r in range(directions)])
    return Moments(1.0, outer, float(np.sum((G @ outer) * G)), place, directions)


def accurate_eigenvalues(modes: Modes) -> Complex128[np.ndarray, "n"]:
    """λ̄ in float64 with the magnitude that belongs to the margin, which has more digits near |λ̄| = 1."""
    lam = np.asarray(modes.Lambda_bar, np.complex128)
    magnitude = np.sqrt(np.maximum(1 - np.asarray(modes.margin, np.float64), 0))
    return lam * np.divide(magnitude, abs(lam), out=np.ones_like(magnitude), where=lam != 0)


def _mean_partial_sum(q: Complex128[np.ndarray, "*A"], length: int) -> Complex128[np.ndarray, "*A"]:
    """1/L Σ_{k=1}^{L} S_k with S_k = Σ_{j<k} q^j.

    Adds runs of steps, doubled for every bit of L: S_{a+b} = S_a + q^a S_b, and T_{a+b} = T_a + b S_a + q^a T_b with
    T_k = S_1 + … + S_k. No division by 1 − q, so that it holds near and at q = 1.
    """
    a, S, T, power = 0, np.zeros_like(q), np.zeros_like(q), np.ones_like(q)
    for bit in f"{length:b}":
        a, S, T, power = 2 * a, S + power * S, T + a * S + power * T, power * power
        if bit == "1":
            a, S, power = a + 1, S + power, power * q
            T = T + S
    return T / length


def _real_form(
    W: Complex128[np.ndarray, "channels m m"], V: Complex128[np.ndarray, "channels m m"]
) -> Float64[np.ndarray, "channels 2*m 2*m"]:
    """E[z zᵀ] with z = [Re x; Im x], from W = E[x xᴴ] and V = E[x xᵀ]."""
    return np.block([[(V + W).real, (V - W).imag], [(V + W).imag, (W - V).real]]) / 2
