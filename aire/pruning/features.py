"""The real features z of a layer's states, y = G z + D u: one layout for moments, surgeon and refit.

The F = 2 R m features of a channel are z = [Re x; Im x] of its states, both directions stacked: flattened from
(R, 2, m) with m the largest number of states in a channel. Empty slots hold zeros. A layer such as S5 is one channel
with O = H outputs; S4D has H channels with one output each.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex128, Float, Float64, Int
from numpy.typing import ArrayLike

from aire.ssm import Modes
from aire.utils.errors import UserError

RIDGE = 1e-6  # on the diagonal of the covariance of features with unit energy

Place = Int[np.ndarray, "2 n"]


def places(channel: ArrayLike) -> Place:
    """The channel of each state, and its slot among the states of that channel. Channels ascend."""
    channel = np.asarray(channel)
    return np.stack([channel, np.arange(channel.size) - np.searchsorted(channel, channel)])


def extent(place: Place) -> tuple[int, int]:
    """The number of channels up to the last with a state, and the largest number m of states in a channel."""
    channel, slot = place
    return int(channel.max(initial=0)) + 1, int(slot.max(initial=-1)) + 1


def in_channels(values: np.ndarray, place: Place, empty: int = 0) -> np.ndarray:
    """Arrange (n, …) as (channels, m, …), with `empty` in empty slots."""
    padded = np.full((*extent(place), *values.shape[1:]), empty, values.dtype)
    padded[tuple(place)] = values
    return padded


def slots(place: Place) -> Int[np.ndarray, "channels m"]:
    """The state in each slot of a channel, n in an empty one."""
    n = place.shape[1]
    return in_channels(np.arange(n), place, empty=n)


def readout(modes: Modes, channels: int | None = None, m: int | None = None) -> Float64[np.ndarray, "channels O F"]:
    """G = s [Re C, −Im C]: the real output map, with s Re(C x) = G z.

    Args:
        modes: modes of the layer.
        channels, m: at least as in `extent`, which applies if they are None.
    """
    place = places(modes.channel)
    used, widest = extent(place)
    C = modes.scale * np.asarray(modes.C, np.complex128)
    directions, outputs, _ = C.shape
    shape = used if channels is None else channels, outputs, directions, 2, widest if m is None else m
    G, (channel, slot) = np.zeros(shape), place
    G[channel, :, :, :, slot] = np.moveaxis(np.stack([C.real, -C.imag], axis=-1), (2, 1, 0), (0, 1, 2))
    return G.reshape(*shape[:2], -1)


def complex_readout(
    G: Float64[np.ndarray, "channels O F"], place: Place, directions: int, scale: float
) -> Complex128[np.ndarray, "R O n"]:
    """C of all states, the inverse of `readout`."""
    channel, slot = place
    split = G.reshape(*G.shape[:2], directions, 2, -1)[channel, :, :, :, slot]  # (n, O, R, 2)
    return ((split[..., 0] - 1j * split[..., 1]) / scale).transpose(2, 1, 0)


def mask(keep: ArrayLike, place: Place, directions: int) -> Bool[np.ndarray, "channels F"]:
    """Whether each feature belongs to a kept state, from bool (n,)."""
    channels, m = extent(place)
    features = np.zeros((channels, directions, 2, m), bool)
    channel, slot = place
    features[channel, :, :, slot] = np.asarray(keep)[:, None, None]
    return features.reshape(channels, -1)


def stack(x: Float[Array, "B L R 2 n"], index: Int[Array | np.ndarray, "channels m"]) -> Float[Array, "B L channels F"]:
    """z at every step, from the real and imaginary part of the states.

    Args:
        x: the states.
        index: the state in each slot, n in an empty one.
    """
    z = jnp.take(x, index, axis=-1, mode="fill", fill_value=0)  # (B, L, R, 2, channels, m)
    return jnp.moveaxis(z, 4, 2).reshape(*x.shape[:2], len(index), -1)


def normalized(
    W: Float64[np.ndarray, "channels F F"],
) -> tuple[Float64[np.ndarray, "channels F F"], Float64[np.ndarray, "channels F"]]:
    """The covariance of the features at unit energy, with a ridge that makes it positive definite; and their scale.

    Features without energy, such as the imaginary part of a real pole, have scale 1. The ridge grows where it is too
    small: sums in float32 leave noise in directions without energy.

    Raises:
        UserError: the covariance holds NaN or infinite values.
    """
    if not np.isfinite(W).all():
        raise UserError("the states have NaN or infinite moments: they overflow on the calibration inputs")
    scale = np.sqrt(np.diagonal(W, axis1=1, axis2=2))
    scale = np.where(scale > 0, scale, 1)
    unit, ridge = W / (scale[:, :, None] * scale[:, None]), RIDGE * np.eye(W.shape[-1])
    while True:
        try:
            np.linalg.cholesky(unit + ridge)
        except np.linalg.LinAlgError:
            ridge = 10 * ridge
        else:
            return unit + ridge, scale
