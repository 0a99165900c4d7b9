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

Place = Int[np.ndarray, "2 n"]


def places(channel: ArrayLike) -> Place:
    """The channel of each state, and its slot among the states of that channel. Channels ascend."""
    channel = np.asarray(channel)
    return np.stack([channel, np.arange(channel.size) - np.searchsorted(channel, channel)])


def extent(place: Place) -> tuple[int, int]:
    """The number of channels up to the last with a state, and the largest number m of states in a channel."""
    channel, slot = place
    return int(channel.max(initial=0)) + 1, int(slot.max(initial=-1)) + 1


def in_channels(values: np.ndarray, place: Place) -> np.ndarray:
    """Arrange (n, …) as (channels, m, …), with zeros in empty slots."""
    padded = np.zeros((*extent(place), *values.shape[1:]), values.dtype)
    padded[tuple(place)] = values
    return padded


def readout(modes: Modes, channels: int | None = None) -> Float64[np.ndarray, "channels O F"]:
    """G = s [Re C, −Im C]: the real output map, with s Re(C x) = G z.

    Args:
        modes: modes of the layer.
        channels: the number of channels. None: up to the last with a state, as in `Moments`.
    """
    place = places(modes.channel)
    used, m = extent(place)
    C = modes.scale * np.asarray(modes.C, np.complex128)
    directions, outputs, _ = C.shape
    G = np.zeros((used if channels is None else channels, outputs, directions, 2, m))
    channel, slot = place
    G[channel, :, :, :, slot] = np.moveaxis(np.stack([C.real, -C.imag], axis=-1), (2, 1, 0), (0, 1, 2))
    return G.reshape(len(G), outputs, -1)


def complex_readout(
    G: Float64[np.ndarray, "channels O F"], place: Place, directions: int, scale: float
) -> Complex128[np.ndarray, "R O n"]:
    """C of all states, the inverse of `readout`."""
    channel, slot = place
    split = G.reshape(*G.shape[:2], directions, 2, -1)[channel, :, :, :, slot]  # (n, O, R, 2)
    return ((split[..., 0] - 1j * split[..., 1]) / scale).transpose(2, 1, 0)


def mask(keep: ArrayLike, place: Place, directions: int, channels: int | None = None) -> Bool[np.ndarray, "channels F"]:
    """Whether each feature belongs to a kept state, from bool (n,)."""
    used, m = extent(place)
    features = np.zeros((used if channels is None else channels, directions, 2, m), bool)
    channel, slot = place
    features[channel, :, :, slot] = np.asarray(keep)[:, None, None]
    return features.reshape(len(features), -1)


def features(x: Float[Array, "B L R 2 n"], place: Place, channels: int | None = None) -> Float[Array, "B L channels F"]:
    """z at every step, from the real and imaginary part of the states."""
    B, L, _, _, n = x.shape
    used, m = extent(place)
    channels = used if channels is None else channels
    if channels == 1:
        return x.reshape(B, L, 1, -1)
    index = np.full((channels, m), n)
    index[tuple(place)] = np.arange(n)
    z = jnp.take(x, index, axis=-1, mode="fill", fill_value=0)  # (B, L, R, 2, channels, m)
    return jnp.moveaxis(z, 4, 2).reshape(B, L, channels, -1)
