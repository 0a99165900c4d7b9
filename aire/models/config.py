"""`ModelConfig`: everything that fixes a model's shape and behaviour."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

from aire.models.activations import ACTIVATIONS
from aire.ssm import S5Config, kind_of, ssm_config
from aire.utils.errors import UserError

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
