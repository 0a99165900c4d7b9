"""Moments: what was measured of a layer on data, as sums that add up over batches."""

import dataclasses
from typing import Self

import numpy as np


@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over all time steps of a calibration set, padding left out, for one layer.

    The features of a channel are z = [Re x; Im x] of its states, both directions stacked: flattened from (R, 2, m) with
    m the most states of any channel; a place without a state holds zeros.

    Attributes:
        steps: number of time steps.
        outer: Σ z zᵀ, float64 (channels, 2 R m, 2 R m). A layer such as S5 is one channel.
        output: Σ ‖y‖² of the layer's outputs, float64.
        place: of each state, its channel and its place in it, int (2, n).
        directions: R.
    """

    steps: float
    outer: np.ndarray
    output: float
    place: np.ndarray
    directions: int

    def __add__(self, other: Self) -> Self:
        """The moments of both sets together."""
        return dataclasses.replace(
            self, steps=self.steps + other.steps, outer=self.outer + other.outer, output=self.output + other.output
        )

    def covariance(self) -> np.ndarray:
        """E[z zᵀ], float64, as `outer`; not centred."""
        return self.outer / self.steps

    def energy(self) -> np.ndarray:
        """E|x_i|² of each state in each direction, float64 (R, n)."""
        channels = len(self.outer)
        squares = np.diagonal(self.outer, axis1=1, axis2=2).reshape(channels, self.directions, 2, -1).sum(axis=2)
        channel, place = self.place
        return squares[channel, :, place].T / self.steps

    def output_energy(self) -> float:
        """E‖y‖², the energy of the layer's output in a step."""
        return self.output / self.steps
