"""Batch norm whose gradient stores only its input."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32

from aire.models.recompute import depend_on


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def batch_norm(
    x: Float[Array, "N H"], scale: Float32[Array, "H"], bias: Float32[Array, "H"], epsilon: float
) -> tuple[Float[Array, "N H"], Float32[Array, "H"], Float32[Array, "H"]]:
    """γ (x − μ) / √(σ² + ε) + β with the mean μ and the variance σ² of each feature (Ioffe and Szegedy 2015).

    Automatic differentiation would store x − μ besides x, and make more passes over both.

    Args:
        x: float32 or bfloat16; statistics and arithmetic are in float32.
        scale, bias: γ and β.
        epsilon: ε.
    Returns:
        Normalised x, in the dtype of x; μ and σ², without gradients.
    """
    return _batch_norm_fwd(x, scale, bias, epsilon)[0]


def _batch_norm_fwd(
    x: Array, scale: Array, bias: Array, epsilon: float
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array, Array]]:
    wide = x.astype(scale.dtype)
    mean = wide.mean(axis=0)
    variance = jnp.maximum((wide**2).mean(axis=0) - mean**2, 0)  # as Flax does, because rounding may make it negative
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = (wide - mean[None]) * (inverse * scale)[None] + bias[None]
    return (y.astype(x.dtype), mean, variance), (x, mean, inverse, scale)


def _batch_norm_bwd(
    epsilon: float, residuals: tuple[Array, ...], cotangents: tuple[Array, ...]
) -> tuple[Array, Array, Array]:
    g = cotangents[0].astype(residuals[-1].dtype)
    x, mean, inverse, scale = depend_on(g, residuals)
    centred = x.astype(scale.dtype) - mean[None]
    grad_bias, grad_scale = g.sum(axis=0), (g * centred).sum(axis=0) * inverse
    correction = (grad_bias[None] + centred * (inverse * grad_scale)[None]) / len(x)
    grad_x = (scale * inverse)[None] * (g - correction)
    return grad_x.astype(x.dtype), grad_scale, grad_bias


batch_norm.defvjp(_batch_norm_fwd, _batch_norm_bwd)


class BatchNorm(nnx.BatchNorm):
    """Flax's batch norm over all axes but the last, computed by `batch_norm` in training.

    It accepts only the options of Flax that `batch_norm` supports.
    """

    scale: nnx.Param
    bias: nnx.Param

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

    def __call__(self, x: Float[Array, "*B H"]) -> Float[Array, "*B H"]:  # type: ignore[override]
        if self.use_running_average:
            return super().__call__(x)
        y, mean, variance = batch_norm(x.reshape(-1, x.shape[-1]), self.scale[...], self.bias[...], self.epsilon)
        for running, new in ((self.mean, mean), (self.var, variance)):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * jax.lax.stop_gradient(new)
        return y.reshape(x.shape)
