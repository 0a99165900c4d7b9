"""`ModelConfig`: the shape and behaviour of a model."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from aire.models.activations import ACTIVATIONS
from aire.ssm import S5Config, kind_of, ssm_config
from aire.ssm.base import MAX_FEATURES, MAX_STATES
from aire.utils.checks import boolean, check, choice, integer, make, number, several
from aire.utils.errors import UserError

DTYPES = ("float32", "bfloat16")
POOLINGS = ("mean", "masked_mean", "last")
# Limits, so that a number typed or read wrong is an error and not a model that fills the memory.
MAX_CLASSES, MAX_LAYERS = 2**24, 1024


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The shape and behaviour of a model. A pruned model differs only in `state_sizes`.

    Attributes:
        d_input: input features, or size of the vocabulary for token inputs.
        d_model: features H inside the model.
        d_output: classes.
        state_sizes: stored states of each layer; the length is the depth.
        ssm: options of the state space layers, of any kind in `aire.ssm.KINDS`.
        activation: "gelu", "half_glu1", "half_glu2" or "full_glu" (S5 paper, appendix G.1), or "glu" of the
            S4D reference: as "full_glu", with the exact GELU in place of its tanh approximation.
        prenorm: normalise before the layer instead of after the residual sum.
        batchnorm: batch norm (over batch and time) instead of layer norm.
        bn_momentum: momentum of batch norm's running statistics.
        dropout: rate; all time steps of a sequence share one mask.
        pooling: "mean" over time (over the true steps if lengths are passed), "masked_mean" (the same, lengths are
            required), or "last" (the last true step).
        retrieval: two-document head in place of the classifier.
        dtype: dtype of the activations inside the blocks, "float32" or "bfloat16". Parameters, the recurrence (or the
            convolution), pooling and head are always float32. Matmuls of float32 activations use JAX's default
            precision, which is lower on accelerators unless `jax_default_matmul_precision` is set.
        remat: store only the inputs of each block for the backward pass and compute the block again, which saves memory
            and changes no result.
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
    remat: bool = False

    def __post_init__(self):
        sizes: object = self.state_sizes
        if isinstance(sizes, list):  # as in JSON
            object.__setattr__(self, "state_sizes", tuple(sizes))
        check(
            self,
            d_input=integer(1, MAX_CLASSES),
            d_model=integer(1, MAX_FEATURES),
            d_output=integer(1, MAX_CLASSES),
            state_sizes=several(integer(0, MAX_STATES), 1, MAX_LAYERS),
            activation=choice(ACTIVATIONS),
            prenorm=boolean(),
            batchnorm=boolean(),
            bn_momentum=number(0, below=1),
            dropout=number(0, below=1),
            pooling=choice(POOLINGS),
            retrieval=boolean(),
            dtype=choice(DTYPES),
            remat=boolean(),
        )
        kind = kind_of(self.ssm)
        if not isinstance(self.ssm, kind.config):
            raise UserError(f"ssm={self.ssm!r}: expected an instance of {kind.config.__name__}")

    @property
    def sizes(self) -> tuple[int, ...]:
        """All sizes, each at most the number of numbers in the model's arrays."""
        return self.d_input, self.d_model, self.d_output, *self.state_sizes

    @classmethod
    def from_dict(cls, fields: object) -> Self:
        """Invert `dataclasses.asdict`, also after a round trip through JSON."""
        if not isinstance(fields, Mapping) or "ssm" not in fields:
            raise UserError(f"model config {fields!r:.200}: expected a mapping with the fields of ModelConfig")
        return make(cls, {**fields, "ssm": ssm_config(fields["ssm"])})
