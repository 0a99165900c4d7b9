"""The residual block around a state space layer."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from aire.models.activations import activate
from aire.models.config import ModelConfig
from aire.models.normalization import BatchNorm
from aire.models.recompute import checkpoint_inputs
from aire.ssm import kind_of


class Linear(nnx.Linear):
    """A dense layer on (..., features), computed on two axes.

    The gradient of its kernel then contracts one axis. To contract two, XLA first transposes the inputs, which on a CPU
    takes longer than the rest of the layer.
    """

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:  # type: ignore[override]
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def checkpointed(block: nnx.Module, x: Float[Array, "B L H"], rngs: nnx.Rngs | None) -> Float[Array, "B L H"]:
    """block(x, rngs), whose gradient stores only x and the parameters and computes the block again."""
    graphdef, *states = nnx.split((block, rngs), nnx.Param, ...)

    def call(x: Array, params: nnx.State, rest: nnx.State) -> tuple[Array, nnx.State]:
        copy, rngs = nnx.merge(graphdef, params, rest, copy=True)
        y = copy(x, rngs)
        return y, nnx.state((copy, rngs), nnx.Not(nnx.Param))

    y, rest = checkpoint_inputs(call)(x, *states)
    nnx.update((block, rngs), rest)  # batch statistics, and how many random keys are drawn
    return y


class Block(nnx.Module):
    """Norm, state space layer, activation with gate, residual sum."""

    norm: BatchNorm | nnx.LayerNorm

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

    def __call__(self, x: Float[Array, "B L H"], rngs: nnx.Rngs | None = None) -> Float[Array, "B L H"]:
        # On two axes, (B L, H). With a reshape before the dense layer, XLA would compute the layer's input again for
        # every other consumer.
        rows = x.reshape(-1, x.shape[-1])
        u = self.norm(rows) if self.prenorm else rows
        return self._residual(rows, self.ssm(u.reshape(x.shape)), rngs)

    def scan(self, x: Float[Array, "B L H"], states: Any) -> tuple[Float[Array, "B L H"], Any]:
        """Apply the block to the next L steps of a sequence, from the states of its layer: outputs and last states."""
        rows = x.reshape(-1, x.shape[-1])
        u = self.norm(rows) if self.prenorm else rows
        y, states = self.ssm.scan(u.reshape(x.shape), states)
        return self._residual(rows, y, None), states

    def step(self, x: Float[Array, "B H"], states: Any) -> tuple[Float[Array, "B H"], Any]:
        """Apply the block to the next step of a sequence, from the states of its layer: output and new states."""
        y, states = self.ssm.step(self.norm(x) if self.prenorm else x, states)
        return self._residual(x, y[:, None], None)[:, 0], states

    def _residual(
        self, rows: Float[Array, "BL H"], y: Float[Array, "B L H"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B L H"]:
        rows = rows + self._activate(y.reshape(rows.shape), y.shape, rngs)
        return (rows if self.prenorm else self.norm(rows)).reshape(y.shape)

    def _activate(self, y: Array, shape: tuple[int, ...], rngs: nnx.Rngs | None) -> Array:
        dense = self._dense()
        value = activate(self.activation, y, self._mask(y.dtype, shape, rngs), dense)
        return value * self._mask(y.dtype, shape, rngs) if dense else value

    def _dense(self) -> list[nnx.Module]:
        """The dense layers of the activation, in the order of `activate`."""
        return [getattr(self, name) for name in ("out1", "out2") if hasattr(self, name)]

    def _mask(self, dtype: DTypeLike, shape: tuple[int, ...], rngs: nnx.Rngs | None) -> Float[Array, "BL H"]:
        """Dropout mask shared over time, as rows (B L, H).

        Multiply by it, because `jnp.where` would save the broadcast mask for the backward pass.
        """
        B, _, H = shape
        mask = self.drop(jnp.ones((B, 1, H), dtype), rngs=rngs)
        return jnp.broadcast_to(mask, shape).reshape(-1, H)
