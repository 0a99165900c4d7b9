"""The options of an S6 layer, and the initial values of its parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, Shaped

from aire.ssm import hippo
from aire.ssm.discretize import check_steps
from aire.utils.checks import boolean, check, integer, number

AnyArray = Array | np.ndarray


@dataclasses.dataclass(frozen=True)
class S6Config:
    """Options of an S6 layer, besides its sizes.

    Attributes:
        kind: "s6", the name of this kind of layer in files.
        expand: channels D of the state space for each feature of the model.
        d_conv: width of the convolution before the state space.
        dt_rank: rank R of the map from the channels to their time steps; 0 for ⌈d_model / 16⌉.
        dt_min, dt_max: range of the initial time steps.
        dt_floor: the smallest initial time step.
        use_bias: whether in_proj and out_proj have a bias.
        conv_bias: whether the convolution has a bias.
        bidirectional: scan in both directions, each with its own C.
    """

    kind: str = dataclasses.field(default="s6", init=False)
    expand: int = 2
    d_conv: int = 4
    dt_rank: int = 0
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_floor: float = 1e-4
    use_bias: bool = False
    conv_bias: bool = True
    bidirectional: bool = False

    def __post_init__(self):
        positive = number(above=0)
        check(
            self,
            expand=integer(1, 64),
            d_conv=integer(1, 1024),
            dt_rank=integer(0, 2**16),
            **dict.fromkeys(("dt_min", "dt_max", "dt_floor"), positive),
            **dict.fromkeys(("use_bias", "conv_bias", "bidirectional"), boolean()),
        )
        check_steps(self.dt_min, self.dt_max)

    def rank(self, d_model: int) -> int:
        """R for this number of features."""
        return self.dt_rank or -(-d_model // 16)


def init_params(key: PRNGKeyArray, d_model: int, n_states: int, config: S6Config) -> dict[str, Array]:
    """Draw the parameters of an S6 layer, shapes as in `S6` (state-spaces/mamba's initialisation).

    Each channel has the eigenvalues −1 … −N. The reference also divides out_proj by the root of the number of layers,
    which only the model knows.
    """
    H, D, R = d_model, config.expand * d_model, config.rank(d_model)
    directions = 1 + config.bidirectional
    keys = iter(jax.random.split(key, 7))

    def uniform(shape: tuple[int, ...], fan_in: int) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(next(keys), shape, jnp.float32, -bound, bound)

    dt = jnp.maximum(jnp.exp(hippo.log_steps(next(keys), D, config.dt_min, config.dt_max)), config.dt_floor)
    params: dict[str, Any] = {
        "in_proj": uniform((2 * D, H), H),
        "conv_weight": uniform((D, config.d_conv), config.d_conv),
        "conv_bias": uniform((D,), config.d_conv),
        "dt_proj": uniform((D, R), R),
        "dt_bias": dt + jnp.log(-jnp.expm1(-dt)),  # the inverse of softplus
        "A_log": jnp.tile(jnp.log(jnp.arange(1, n_states + 1, dtype=jnp.float32))[None], (D, 1)),
        "D": jnp.ones((D,), jnp.float32),
        "out_proj": uniform((H, D), D),
    }
    params |= split_x_proj(uniform((R + (1 + directions) * n_states, D), D), R, directions)
    if not config.conv_bias:
        del params["conv_bias"]
    biases = {"in_proj_bias": 2 * D, "out_proj_bias": H} if config.use_bias else {}
    return params | {name: jnp.zeros((size,), jnp.float32) for name, size in biases.items()}


def split_x_proj(
    x_proj: Shaped[AnyArray, "rows D"], rank: int, directions: int = 1
) -> dict[str, Shaped[AnyArray, "..."]]:
    """The parts that a layer stores of the reference's x_proj, whose rows are [δ; B; C], by name.

    Args:
        x_proj: the R + N + directions · N rows.
        rank: R.
        directions: how many C there are.
    """
    rows, D = x_proj.shape
    N = (rows - rank) // (1 + directions)
    C = x_proj[rank + N :].reshape(directions, N, D)
    return {"x_proj_dt": x_proj[:rank], "x_proj_B": x_proj[rank : rank + N], "x_proj_C": C}
