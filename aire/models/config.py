"""`ModelConfig`: the shape and behaviour of a model."""

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
        """Invert `dataclasses.asdict`, also after a round trip through JSON."""
        return cls(**{**fields, "ssm": ssm_config(fields["ssm"])})
