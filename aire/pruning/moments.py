"""Moments: second moments of a layer on data, as sums over time steps."""

import dataclasses
from typing import Self

import numpy as np
from jaxtyping import Float64, Int


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

    def covariance(self) -> Float64[np.ndarray, "channels F F"]:
        """E[z zᵀ], not centred."""
        return self.outer / self.steps

    def energy(self) -> Float64[np.ndarray, "R n"]:
        """E|x_i|² of each state in each direction."""
        channels = len(self.outer)
        squares = np.diagonal(self.outer, axis1=1, axis2=2).reshape(channels, self.directions, 2, -1).sum(axis=2)
        channel, place = self.place
        return squares[channel, :, place].T / self.steps

    def output_energy(self) -> float:
        """E‖y‖², the mean energy of the layer's output per step."""
        return self.output / self.steps
