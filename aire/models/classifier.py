"""The classifier: encoder, blocks, pooling, and a head for one document or two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from aire.models.block import Linear
from aire.models.config import ModelConfig
from aire.ssm import kind_of
from aire.utils.errors import UserError


class RetrievalHead(nnx.Module):
    """Two-layer perceptron on [a, b, a − b, a ∘ b] of two documents (Tay et al., Long Range Arena, 2021)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.layer1 = nnx.Linear(4 * config.d_model, config.d_model, precision="highest", rngs=rngs)
        self.layer2 = nnx.Linear(config.d_model, config.d_output, precision="highest", rngs=rngs)

    def __call__(self, pooled: Array) -> Array:
        """Logits (B, classes) from pooled (2B, H): the first documents of all pairs, then the second ones."""
        a, b = jnp.split(pooled, 2)
        return self.layer2(jax.nn.gelu(self.layer1(jnp.concatenate([a, b, a - b, a * b], axis=-1))))


class Classifier(nnx.Module):
    """A stack of state space blocks with a linear encoder and a pooled head (S5 paper, appendix G.1).

    A new model is in training mode: the first call then changes batch norm's statistics. Call `eval()` for inference;
    models that are loaded or imported are in evaluation mode already.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        # Sizes and options of the layers are asked of the layers: a copy here would be wrong after a cut.
        self._options = dataclasses.replace(config, state_sizes=(0,) * len(config.state_sizes))
        self.encoder = Linear(config.d_input, config.d_model, rngs=rngs)
        make_block = kind_of(config.ssm).make_block
        self.blocks = nnx.List([make_block(config, n, rngs=rngs) for n in config.state_sizes])
        if config.retrieval:
            self.decoder = RetrievalHead(config, rngs=rngs)
        else:
            self.decoder = nnx.Linear(config.d_model, config.d_output, precision="highest", rngs=rngs)

    @property
    def config(self) -> ModelConfig:
        """The config of a model of these sizes.

        Raises:
            UserError: the layers have different options, so that no config describes them.
        """
        ssm_layers = [block.ssm for block in self.blocks]
        if len({layer.config for layer in ssm_layers}) > 1:
            raise UserError("the layers of this model have different options: no one config describes it")
        sizes = tuple(layer.n_states for layer in ssm_layers)
        return dataclasses.replace(self._options, state_sizes=sizes, ssm=ssm_layers[0].config)

    def __call__(self, x: Array, lengths: Array | None = None, *, rngs: nnx.Rngs | None = None) -> Array:
        """Logits of a batch.

        Args:
            x: (B, L, d_input) float, or (B, L) integer tokens. Two documents: (B, 2, L, d_input) or (B, 2, L); the
                reference's stacked form, 2B sequences with the first documents of all pairs before the second ones, is
                accepted too.
            lengths: true lengths (B,), or (B, 2), where sequences are padded. Padding passes through the layers as any
                other input, as in the S5 reference; only the pooling leaves it out.
            rngs: source of the `dropout` key; needed in training mode with dropout.
        Returns:
            (B, d_output), unnormalised.
        Raises:
            UserError: tokens outside the vocabulary, lengths outside 1…L, or a wrong shape.
        """
        options = self._options
        if options.retrieval:
            x, lengths = stack_documents(x, lengths)
        self._check(x, lengths)
        if x.ndim == 2:  # int32, because `one_hot` counts in the dtype of the tokens: uint8 ends at 255
            x = jax.nn.one_hot(x.astype(jnp.int32), options.d_input)
        x = self.encoder(x).astype(options.dtype)
        for block in self.blocks:
            x = block(x, rngs)
        return self.decoder(pool(x.astype(jnp.float32), lengths, options.pooling))

    def _check(self, x: Array, lengths: Array | None) -> None:
        d_input = self._options.d_input
        tokens = x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer)
        if not tokens and (x.ndim != 3 or x.shape[-1] != d_input):
            raise UserError(
                f"input {x.dtype}{list(x.shape)}: expected floats (B, L, {d_input}) or integer tokens (B, L)"
            )
        if self._options.pooling == "masked_mean" and lengths is None:
            raise UserError("this model pools by masked_mean: pass the true lengths of the sequences")
        if tokens and (values := _concrete(x)) is not None and not (values.min() >= 0 and values.max() < d_input):
            raise UserError(f"tokens in {values.min()}…{values.max()}: this model's vocabulary is 0…{d_input - 1}")
        if (steps := _concrete(lengths)) is not None and not (steps.min() >= 1 and steps.max() <= x.shape[1]):
            raise UserError(f"lengths in {steps.min()}…{steps.max()}: expected 1…{x.shape[1]}, the padded length")


def stack_documents(x: Array, lengths: Array | None) -> tuple[Array, Array | None]:
    """Pairs of documents as 2B sequences, the first documents before the second ones.

    Args:
        x: tokens (B, 2, L) or floats (B, 2, L, d_input); what is stacked already is returned as it is.
        lengths: (B, 2), (2B,) or None.
    """
    if x.ndim == (3 if jnp.issubdtype(x.dtype, jnp.integer) else 4):
        x = jnp.concatenate([x[:, 0], x[:, 1]])
    if lengths is not None and lengths.ndim == 2:
        lengths = jnp.concatenate([lengths[:, 0], lengths[:, 1]])
    return x, lengths


def _concrete(x: Array | None) -> np.ndarray | None:
    """Concrete values of `x`; None if `x` is None, empty or a tracer. Uses NumPy because a jnp operation on a
    closed-over array would be staged out."""
    return None if x is None or isinstance(x, jax.core.Tracer) or not x.size else np.asarray(x)


def pool(x: Array, lengths: Array | None, pooling: str) -> Array:
    """(B, L, H) to (B, H): the mean over, or the last of, the first `lengths` steps (of all where None)."""
    if pooling == "last":
        return x[:, -1] if lengths is None else jnp.take_along_axis(x, (lengths - 1)[:, None, None], axis=1)[:, 0]
    steps = jnp.arange(x.shape[1])
    mask = jnp.ones(x.shape[:2], bool) if lengths is None else steps < lengths[:, None]
    # A product with the mask also where it is all ones: XLA fuses a mean with the block before it, and then holds
    # every constant of that as a whole array.
    total = jnp.einsum("blh,bl->bh", x, mask.astype(x.dtype), precision="highest")  # float32 also where TF32 is default
    return total / mask.sum(axis=1, keepdims=True).astype(x.dtype)
