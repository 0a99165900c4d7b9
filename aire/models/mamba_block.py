"""The residual block around a Mamba mixer."""

from typing import Any, cast

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from aire.models.config import ModelConfig
from aire.ssm import kind_of
from aire.utils.errors import UserError


class MambaBlock(nnx.Module):
    """x + mixer(RMSNorm(x)), with norm and residual sum in float32 (Mamba, Gu and Dao 2023, and its reference code).

    Convolution and gate are in the mixer, so the block has no activation of its own.

    Raises:
        UserError: the config asks for what the block has not.
    """

    def __init__(self, config: ModelConfig, n_states: int, *, rngs: nnx.Rngs):
        if config.batchnorm or not config.prenorm or config.activation != "gelu":
            raise UserError(
                f"batchnorm={config.batchnorm}, prenorm={config.prenorm}, activation={config.activation!r}: Mamba's "
                "block has an RMS norm before its layer and a gate inside; expected False, True and 'gelu'"
            )
        kind = kind_of(config.ssm)
        self.ssm = cast(Any, kind.layer(config.d_model, n_states, config.ssm, rngs=rngs))
        # Each layer adds to the residual, so the sum would grow with the depth.
        self.ssm.out_proj[...] *= len(config.state_sizes) ** -0.5
        self.norm = nnx.RMSNorm(config.d_model, epsilon=kind.norm_epsilon, rngs=rngs)
        self.drop = nnx.Dropout(config.dropout)
        self.dtype = config.dtype

    def __call__(self, x: Float[Array, "B L H"], rngs: nnx.Rngs | None = None) -> Float[Array, "B L H"]:
        y = self.ssm(self._normed(x)).astype(jnp.float32)
        # Dropout shares its mask over time, as in `Block`.
        return x.astype(jnp.float32) + y * self.drop(jnp.ones((x.shape[0], 1, x.shape[2]), jnp.float32), rngs=rngs)

    def scan(self, x: Float[Array, "B L H"], states: Any) -> tuple[Float[Array, "B L H"], Any]:
        """Apply the block to the next L steps of a sequence, from the states of its layer: outputs and last states."""
        y, states = self.ssm.scan(self._normed(x), states)
        return x.astype(jnp.float32) + y.astype(jnp.float32), states

    def step(self, x: Float[Array, "B H"], states: Any) -> tuple[Float[Array, "B H"], Any]:
        """Apply the block to the next step of a sequence, from the states of its layer: output and new states."""
        y, states = self.ssm.step(self._normed(x), states)
        return x.astype(jnp.float32) + y.astype(jnp.float32), states

    def _normed(self, x: Float[Array, "*B H"]) -> Float[Array, "*B H"]:
        return self.norm(x.astype(jnp.float32)).astype(self.dtype)
