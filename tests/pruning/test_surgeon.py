"""The surgeon: its order, its errors and its predictions against least squares on materialised features."""

import numpy as np
import pytest

import aire
from aire.pruning import Moments, features, surgeon
from aire.ssm import Modes

RNG = np.random.default_rng(0)


def moments_of(z: np.ndarray, y: np.ndarray, channel: np.ndarray, directions: int) -> Moments:
    """Sums over the steps of features (steps, channels, F) and outputs (steps, outputs)."""
    outer = np.einsum("tcf,tcg->cfg", z, z)
    return Moments(float(len(z)), outer, float((y**2).sum()), features.places(channel), directions)


def random_layer(counts: tuple[int, ...], directions: int, outputs: int, steps: int = 300):
    """Modes with given numbers of states in each channel, and correlated features: (modes, z, y)."""
    channel = np.repeat(np.arange(len(counts)), counts)
    n, m = channel.size, max(counts)
    C = RNG.normal(size=(directions, outputs, n)) + 1j * RNG.normal(size=(directions, outputs, n))
    modes = Modes.discrete(np.full(n, 0.5), np.ones((n, 1)), C, channel=channel, scale=2.0)
    F = 2 * directions * m
    z = RNG.normal(size=(steps, len(counts), F)) @ RNG.normal(size=(len(counts), F, F))[None].squeeze()[...] if False else (
        np.einsum("tcf,cfg->tcg", RNG.normal(size=(steps, len(counts), F)), RNG.normal(size=(len(counts), F, F)))
    )
    filled = features.mask(np.ones(n, bool), features.places(channel), directions)
    z = z * filled
    y = np.einsum("cof,tcf->tco", features.readout(modes), z).reshape(steps, -1)
    return modes, z, y
