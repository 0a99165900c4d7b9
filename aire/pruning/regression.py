"""The regression of a layer's outputs on its features and inputs: its solution and its errors, from sums on data.

y ≈ G z + D u in every channel, where z are the features of kept states and D is diagonal: each output has one regressor
besides z.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from aire.pruning import features


class Sums(NamedTuple):
    """Sums over the true time steps, by channel.

    Attributes:
        zz, zu, zy: Σ z zᵀ, Σ z uᵀ and Σ z yᵀ.
        uu, uy, yy: Σ u², Σ u y and Σ y² of each output.
        energy: Σ ‖y‖² of the layer's outputs. In a selective layer y is only what states add to them.
    """

    zz: Float64[np.ndarray, "channels F F"]
    zu: Float64[np.ndarray, "channels F O"]
    zy: Float64[np.ndarray, "channels F O"]
    uu: Float64[np.ndarray, "channels O"]
    uy: Float64[np.ndarray, "channels O"]
    yy: Float64[np.ndarray, "channels O"]
    energy: float


class RealReadout(NamedTuple):
    """The output map y = G z + D u in channels."""

    G: Float64[np.ndarray, "channels O F"]
    D: Float64[np.ndarray, "channels O"]


def solve(data: Sums, old: RealReadout) -> RealReadout:
    """The G and D of least squares, with ridges towards the old ones."""
    unit, scale = features.normalized(data.zz)
    # Regress what the old readout leaves of the outputs, e = y − G z − D u.
    ze = data.zy - data.zz @ old.G.swapaxes(1, 2) - data.zu * old.D[:, None]
    ue = data.uy - np.einsum("cof,cfo->co", old.G, data.zu) - old.D * data.uu
    zu, ze = (a / scale[:, :, None] for a in (data.zu, ze))
    of_u, of_e = np.split(np.linalg.solve(unit, np.concatenate([zu, ze], axis=2)), 2, axis=2)
    # The Schur complement: what z leaves of u, and of the product of u and e.
    ridge = np.maximum(features.RIDGE * data.uu, np.finfo(float).tiny)
    rest = np.maximum(data.uu - np.sum(zu * of_u, axis=1), 0) + ridge
    D = (ue - np.sum(zu * of_e, axis=1)) / rest
    G = (of_e - of_u * D[:, None]) / scale[:, :, None]
    return RealReadout(old.G + G.swapaxes(1, 2), old.D + D)


def error(data: Sums, readout: RealReadout) -> float:
    """Σ ‖y − G z − D u‖², relative to the energy of the layer's outputs."""
    G, D = readout
    squares = data.yy + D**2 * data.uu + np.sum((G @ data.zz) * G, axis=2)
    products = np.einsum("cof,cfo->co", G, data.zy) + D * data.uy - D * np.einsum("cof,cfo->co", G, data.zu)
    return float(np.sum(squares - 2 * products)) / max(data.energy, np.finfo(float).tiny)
