"""Deep state space models: encoder, blocks, pooling, and a head for one document or two."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from aire.activations import ACTIVATIONS, activate
from aire.errors import UserError
from aire.normalization import BatchNorm
from aire.ssm import S5Config, kind_of, ssm_config

DTYPES = ("float32", "bfloat16")
POOLINGS = ("mean", "masked_mean", "last")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes a model's shape and behaviour; a pruned model differs in `state_sizes` alone.

    Attributes:
        d_input: input features, or size of the vocabulary for token inputs.
        d_model: features H inside the model.
        d_output: classes.
        state_sizes: stored states of each layer; its length is the depth.
        ssm: options of the state space layers, of any kind in `aire.ssm.KINDS`.
        activation: "gelu", "half_glu1", "half_glu2" or "full_glu" (S5 paper, appendix G.1), or "glu", the S4D
            reference's: as "full_glu", but on the exact GELU instead of its tanh approximation.
        prenorm: normalise before the layer instead of after the residual sum.
        batchnorm: batch norm (over batch and time) instead of layer norm.
        bn_momentum: momentum of batch norm's running statistics.
        dropout: rate; one mask is shared by all time steps of a sequence.
        pooling: "mean" over time (over the true steps where lengths are given), "masked_mean" (the same, and lengths
            are required), or "last" (the last true step).
        retrieval: two-document head in place of the classifier.
        dtype: of the activations inside the blocks, "float32" or "bfloat16". Parameters, the recurrence (or the
            convolution), pooling and head are float32 in both. Matmuls between float32 activations are in JAX's default
            precision, which on accelerators is lower unless `jax_default_matmul_precision` says otherwise.
    """

    d_input: int
    d_model: int
    d_output: int
    state_sizes: tuple[int, ...]
    ssm: Any = dataclasses.field(default_factory=S5Config)
    activation: str = "half_glu1"
    prenorm: bool = True
    batchnorm: bool = True
    bn_momentum: float = 0.95
    dropout: float = 0.0
    pooling: str = "mean"
    retrieval: bool = False
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "state_sizes", tuple(self.state_sizes))
        kind_of(self.ssm)
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation={self.activation!r}: expected one of {list(ACTIVATIONS)}")
        if self.pooling not in POOLINGS:
            raise UserError(f"pooling={self.pooling!r}: expected one of {list(POOLINGS)}")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype={self.dtype!r}: expected one of {list(DTYPES)}")
        if not self.state_sizes or min(self.state_sizes) < 0:
            raise UserError(f"state_sizes={self.state_sizes}: expected one size >= 0 per layer, at least one layer")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout}: expected a rate in [0, 1)")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """The inverse of `dataclasses.asdict`, also after JSON."""
        return cls(**{**fields, "ssm": ssm_config(fields["ssm"])})


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
