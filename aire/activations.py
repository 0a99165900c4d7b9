"""GELU and the gate, with gradients that keep their inputs alone.

Derived automatically, each keeps several arrays of the size of its input until the backward pass. `jax.checkpoint` is
no cure on a CPU: XLA merges what is computed again with what was computed before, and keeps that. So the gradients
here are written in another form than the values, equal in exact arithmetic, which nothing merges.
"""

import functools

import jax
import jax.numpy as jnp
from jax import Array

_SQRT_2_OVER_PI = 0.7978845608028654
_CUBIC = 0.044715


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def gelu(y: Array, approximate: bool) -> Array:
    """y Φ(y), Φ the distribution function of the normal distribution, or its approximation by tanh (Hendrycks and
    Gimpel 2016, arXiv 1606.08415); any shape."""
    return jax.nn.gelu(y, approximate)


def _gelu_fwd(y: Array, approximate: bool) -> tuple[Array, Array]:
    return gelu(y, approximate), y


def _gelu_bwd(approximate: bool, y: Array, cotangent: Array) -> tuple[Array]:
    if approximate:  # y σ(2u), u = √(2/π) (y + 0.044715 y³)
        Phi = jax.nn.sigmoid(2 * _SQRT_2_OVER_PI * y * (1 + _CUBIC * y**2))
        density = 2 * _SQRT_2_OVER_PI * (1 + 3 * _CUBIC * y**2) * Phi * (1 - Phi)
    else:
        Phi = 0.5 * jax.scipy.special.erfc(-(0.5**0.5) * y)
        density = jnp.exp(-0.5 * y**2) / (2 * jnp.pi) ** 0.5
    return (cotangent * (Phi + y * density),)


gelu.defvjp(_gelu_fwd, _gelu_bwd)


@jax.custom_vjp
def gate(g: Array, z: Array) -> Array:
    """g σ(z), of one shape."""
    return g * jax.nn.sigmoid(z)


def _gate_fwd(g: Array, z: Array) -> tuple[Array, tuple[Array, Array]]:
    return gate(g, z), (g, z)


def _gate_bwd(inputs: tuple[Array, Array], cotangent: Array) -> tuple[Array, Array]:
    g, z = inputs
    sigma = 0.5 + 0.5 * jnp.tanh(0.5 * z)
    return cotangent * sigma, cotangent * g * sigma * (1 - sigma)


gate.defvjp(_gate_fwd, _gate_bwd)
