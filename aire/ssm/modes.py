"""`Modes`: a layer's discrete modes in flat form, the only thing that scores see."""

import dataclasses

import jax
from jax import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Modes:
    """The n modes of one layer: x_k = λ̄ x_{k-1} + B̄ u_k, y_k = C x_k.

    One form for a multi-input, multi-output system (S5: all modes in channel 0) and for banks of independent systems
    whose channels hold different numbers of modes (S4D: one input and one output each).

    Attributes:
        Lambda_bar: discrete eigenvalues λ̄, complex (n,).
        B_bar: discrete input matrix B̄, complex (n, inputs of a channel).
        C: output matrix, complex (directions, outputs of a channel, n). Two directions share λ̄ and B̄.
        margin: 1 − |λ̄|², real (n,), accurate where |λ̄| is close to 1; not positive where a mode is unstable.
        channel: the system that each mode belongs to, int32 (n,), ascending.
    """

    Lambda_bar: Array
    B_bar: Array
    C: Array
    margin: Array
    channel: Array
