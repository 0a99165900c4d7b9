"""The activation after a state space layer: GELU and a gated linear unit (S5 paper, appendix G.1).

With y the layer's output, g = m gelu(y) and m the dropout mask:

    gelu        g
    half_glu1   g σ(W g + b)
    half_glu2   y σ(W g + b)
    full_glu    (W₁ g + b₁) σ(W₂ g + b₂)
    glu         as full_glu, on the exact GELU, as in the S4D reference; the others use its tanh approximation

The gradients store y and the outputs of the dense layers. Recomputing GELU, sigmoid and products is cheaper than
storing them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Float

from aire.models.recompute import checkpoint_second_stage

Dense = list[Float[Array, "N H"]]  # outputs of the dense layers


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation: value(y, g, dense outputs), with the exact GELU or its tanh approximation."""

    value: Callable[[Array, Array, Dense], Array]
    exact: bool = False

    def gelu(self, y: Float[Array, "N H"], mask: Float[Array, "N H"]) -> Float[Array, "N H"]:
        """m gelu(y)."""
        return mask * jax.nn.gelu(y, approximate=not self.exact)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(lambda y, g, z: g),
    "half_glu1": Activation(lambda y, g, z: g * jax.nn.sigmoid(z[0])),
    "half_glu2": Activation(lambda y, g, z: y * jax.nn.sigmoid(z[0])),
    "full_glu": Activation(lambda y, g, z: z[0] * jax.nn.sigmoid(z[1])),
    "glu": Activation(lambda y, g, z: z[0] * jax.nn.sigmoid(z[1]), exact=True),
}


def activate(
    name: str, y: Float[Array, "N H"], mask: Float[Array, "N H"], layers: Sequence[nnx.Module]
) -> Float[Array, "N H"]:
    """Apply an activation.

    Args:
        name: a key of `ACTIVATIONS`.
        y: output of the state space layer.
        mask: dropout mask.
        layers: its dense layers, in the order of the table; any modules from (N, H) to (N, H).
    """
    activation = ACTIVATIONS[name]
    # `checkpoint_second_stage` differentiates with respect to its arguments, so parameters are passed as arguments.
    parts: list[Any] = [nnx.split(layer, nnx.Param, ...) for layer in layers]  # structure, parameters, other variables

    def dense(inputs: tuple[Array, Array], params: Sequence[Any]) -> Dense:
        g = activation.gelu(*inputs)
        return [nnx.merge(part[0], p, part[2])(g) for part, p in zip(parts, params, strict=True)]

    def value(inputs: tuple[Array, Array], z: Dense) -> Array:
        return activation.value(inputs[0], activation.gelu(*inputs), z)

    return checkpoint_second_stage(dense, value)((y, mask), [part[1] for part in parts])
