"""The residual block around a state space layer."""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from aire.models.activations import activate
from aire.models.config import ModelConfig
from aire.models.normalization import BatchNorm
from aire.ssm import kind_of


class Linear(nnx.Linear):
    """A dense layer on (..., features), computed on two axes.

    The gradient of its kernel then contracts one axis. Over two, XLA first transposes its inputs, (H, B L), which on a
    CPU takes longer than the rest of the layer.
    """

    def __call__(self, x: Array) -> Array:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class Block(nnx.Module):
    """Norm, state space layer, activation with gate, residual: (B, L, H) to (B, L, H)."""

    def __init__(self, config: ModelConfig, n_states: int, *, rngs: nnx.Rngs):
        H, kind = config.d_model, kind_of(config.ssm)
        self.prenorm, self.activation = config.prenorm, config.activation
        self.ssm = kind.layer(H, n_states, config.ssm, rngs=rngs)
        if config.batchnorm:
            self.norm = BatchNorm(H, momentum=config.bn_momentum, dtype=config.dtype, rngs=rngs)
        else:
            self.norm = nnx.LayerNorm(H, epsilon=kind.norm_epsilon, dtype=config.dtype, rngs=rngs)
        if config.activation in ("full_glu", "glu"):
            self.out1 = nnx.Linear(H, H, dtype=config.dtype, rngs=rngs)
        if config.activation != "gelu":
            self.out2 = nnx.Linear(H, H, dtype=config.dtype, rngs=rngs)
        self.drop = nnx.Dropout(config.dropout)

    def __call__(self, x: Array, rngs: nnx.Rngs | None = None) -> Array:
        # On two axes, (B L, H): behind a reshape XLA does not see that a dense layer needs its input as an array, and
        # computes it again for every other consumer.
        rows = x.reshape(-1, x.shape[-1])
        u = self.norm(rows) if self.prenorm else rows
        y = self.ssm(u.reshape(x.shape)).reshape(rows.shape)
        rows = rows + self._activate(y, x.shape, rngs)
        return (rows if self.prenorm else self.norm(rows)).reshape(x.shape)

    def _activate(self, y: Array, shape: tuple[int, ...], rngs: nnx.Rngs | None) -> Array:
        dense = self._dense()
        value = activate(self.activation, y, self._mask(y.dtype, shape, rngs), dense)
        return value * self._mask(y.dtype, shape, rngs) if dense else value

    def _dense(self) -> list[nnx.Module]:
        """The dense layers of the activation, in its order."""
        return [getattr(self, name) for name in ("out1", "out2") if hasattr(self, name)]

    def _mask(self, dtype: jnp.dtype, shape: tuple[int, ...], rngs: nnx.Rngs | None) -> Array:
        """Dropout mask for (B, L, H), shared over time, as rows (B L, H). Multiply by it: `jnp.where` would save the
        broadcast mask for the backward pass."""
        B, _, H = shape
        mask = self.drop(jnp.ones((B, 1, H), dtype), rngs=rngs)
        return jnp.broadcast_to(mask, shape).reshape(-1, H)
