"""What stands behind a state space layer: GELU, and a gate that a dense layer opens (S5 paper, appendix G.1).

With y the layer's output, g = m gelu(y) and m dropout's mask:

    gelu        g
    half_glu1   g σ(W g + b)
    half_glu2   y σ(W g + b)
    full_glu    (W₁ g + b₁) σ(W₂ g + b₂)
    glu         the same on the exact GELU, the S4D reference's; the others have its approximation by tanh

The gradients keep y and the dense layers' outputs; GELU, sigmoid and products are cheaper to compute again than to
store.
"""

import functools
from collections.abc import Callable, Sequence

import jax
from jax import Array

from aire.recompute import two_stages

Inputs = tuple[Array, Array]  # y and m, (N, H)
Weights = Sequence[tuple[Array, Array]]  # of each dense layer, in the order of the table: kernel (H, H), bias (H,)

Activation = Callable[[Inputs, Weights], Array]  # to (N, H)


def _gelu(inputs: Inputs, exact: bool) -> Array:
    y, mask = inputs
    return mask * jax.nn.gelu(y, approximate=not exact)


def _activation(value: Callable[[Inputs, list[Array]], Array], exact: bool = False) -> Activation:
    """The function of the inputs and the weights whose value is made of the inputs and the dense layers' outputs."""

    def dense(inputs: Inputs, weights: Weights) -> list[Array]:
        g = _gelu(inputs, exact)
        return [g @ kernel + bias for kernel, bias in weights]

    return two_stages(dense, value)


_approximate = functools.partial(_gelu, exact=False)
ACTIVATIONS: dict[str, Activation] = {
    "gelu": _activation(lambda inputs, z: _approximate(inputs)),
    "half_glu1": _activation(lambda inputs, z: _approximate(inputs) * jax.nn.sigmoid(z[0])),
    "half_glu2": _activation(lambda inputs, z: inputs[0] * jax.nn.sigmoid(z[0])),
    "full_glu": _activation(lambda inputs, z: z[0] * jax.nn.sigmoid(z[1])),
    "glu": _activation(lambda inputs, z: z[0] * jax.nn.sigmoid(z[1]), exact=True),
}
