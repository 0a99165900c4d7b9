"""Batch norm, with a gradient that keeps its input alone."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from aire.models.recompute import after


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> tuple[Array, Array, Array]:
    """γ (x − μ) / √(σ² + ε) + β with the mean μ and the variance σ² of each feature (Ioffe and Szegedy 2015).

    Derived automatically, its gradient keeps x − μ beside x, and takes more passes over them.

    Args:
        x: (N, H), float32 or bfloat16; statistics and arithmetic are in float32.
        scale, bias: γ and β, float32 (H,).
        epsilon: ε.
    Returns:
        Normalised x, in its dtype; μ and σ², float32 (H,), through which no gradient goes.
    """
    return _batch_norm_fwd(x, scale, bias, epsilon)[0]


def _batch_norm_fwd(x: Array, scale: Array, bias: Array, epsilon: float):
    wide = x.astype(scale.dtype)
    mean = wide.mean(axis=0)
    variance = jnp.maximum((wide**2).mean(axis=0) - mean**2, 0)  # as Flax does; rounding may leave it below zero
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = (wide - mean) * (inverse * scale) + bias
    return (y.astype(x.dtype), mean, variance), (x, mean, inverse, scale)


def _batch_norm_bwd(epsilon: float, residuals: tuple[Array, ...], cotangents: tuple[Array, ...]):
    g = cotangents[0].astype(residuals[-1].dtype)
    x, mean, inverse, scale = after(g, residuals)
    centred = x.astype(scale.dtype) - mean
    grad_bias, grad_scale = g.sum(axis=0), (g * centred).sum(axis=0) * inverse
    grad_x = (scale * inverse) * (g - (grad_bias + centred * (inverse * grad_scale)) / len(x))
    return grad_x.astype(x.dtype), grad_scale, grad_bias


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


class BatchNorm(nnx.BatchNorm):
    """Flax's batch norm over all axes but the last, by `batch_norm` in training.

    It takes only those of Flax's options that `batch_norm` honours.
    """

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.99,
        epsilon: float = 1e-5,
        dtype: jax.typing.DTypeLike | None = None,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_features, momentum=momentum, epsilon=epsilon, dtype=dtype, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        if self.use_running_average:
            return super().__call__(x)
        y, mean, variance = batch_norm(x.reshape(-1, x.shape[-1]), self.scale[...], self.bias[...], self.epsilon)
        for running, new in ((self.mean, mean), (self.var, variance)):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * jax.lax.stop_gradient(new)
        return y.reshape(x.shape)
