"""What follows a state space layer: GELU, and a gate that a dense layer opens (S5 paper, appendix G.1).

With y the layer's output, g = m gelu(y) and m the dropout mask:

    gelu        g
    half_glu1   g σ(W g + b)
    half_glu2   y σ(W g + b)
    full_glu    (W₁ g + b₁) σ(W₂ g + b₂)
    glu         the same on the exact GELU, the S4D reference's; the others have its approximation by tanh

The gradients keep y and the dense layers' outputs; GELU, sigmoid and products are cheaper to compute again than to
store.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jax import Array

from aire.models.recompute import two_stages

Dense = list[Array]  # the dense layers' outputs, (N, H) each


@dataclasses.dataclass(frozen=True)
class Activation:
    """An activation: value(y, g, dense outputs), on the exact GELU or its approximation by tanh."""

    value: Callable[[Array, Array, Dense], Array]
    exact: bool = False

    def gelu(self, y: Array, mask: Array) -> Array:
        return mask * jax.nn.gelu(y, approximate=not self.exact)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": Activation(lambda y, g, z: g),
    "half_glu1": Activation(lambda y, g, z: g * jax.nn.sigmoid(z[0])),
    "half_glu2": Activation(lambda y, g, z: y * jax.nn.sigmoid(z[0])),
    "full_glu": Activation(lambda y, g, z: z[0] * jax.nn.sigmoid(z[1])),
    "glu": Activation(lambda y, g, z: z[0] * jax.nn.sigmoid(z[1]), exact=True),
}


def activate(name: str, y: Array, mask: Array, layers: Sequence[nnx.Module]) -> Array:
    """The activation of that name.

    Args:
        name: a key of `ACTIVATIONS`.
        y: output of the state space layer, (N, H).
        mask: dropout mask, (N, H).
        layers: its dense layers, in the order of the table; any modules from (N, H) to (N, H).
    Returns:
        (N, H).
    """
    activation = ACTIVATIONS[name]
    # `two_stages` differentiates by what it is given, so a module's parameters are passed beside its structure.
    split = [nnx.split(layer, nnx.Param, ...) for layer in layers]

    def dense(inputs: tuple[Array, Array], params: Sequence[nnx.State]) -> Dense:
        g = activation.gelu(*inputs)
        return [nnx.merge(graphdef, p, rest)(g) for (graphdef, _, rest), p in zip(split, params, strict=True)]

    def value(inputs: tuple[Array, Array], z: Dense) -> Array:
        return activation.value(inputs[0], activation.gelu(*inputs), z)

    return two_stages(dense, value)((y, mask), [params for _, params, _ in split])
