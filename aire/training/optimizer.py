"""The S5 reference's optimiser: three parameter groups, four ways to fill them, and its learning-rate schedule.

S4D's reference has the same groups: "standard" trains its eigenvalues and time steps, and nothing else, as "ssm".
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from aire.ssm import StateSpaceLayer, map_layers
from aire.utils.checks import boolean, check, choice, number
from aire.utils.errors import UserError

# Group of each role of a state space layer's parameters (`StateSpaceLayer.ROLES`); all else is "regular". "ssm" is Adam
# at the SSM rate, "ssm_decay" AdamW at the SSM rate, "regular" AdamW at the base rate. The reference also lists `norm`
# among the SSM names, but it matches leaf names only, and norms' leaves are called scale and bias: they train as
# "regular".
_POLES = {"eigenvalue": "ssm", "step": "ssm"}
GROUPS: dict[str, dict[str, str]] = {
    "standard": {**_POLES, "input": "ssm"},
    "BandCdecay": {**_POLES, "input": "ssm_decay"},
    "BfastandCdecay": _POLES,
    "noBCdecay": {**_POLES, "input": "ssm", "output": "ssm", "skip": "ssm"},
}

Roles = Mapping[tuple[str, ...], str]  # of parameters, by path


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Rates and parameter groups of the optimiser.

    Attributes:
        lr: base learning rate (lr_factor × ssm_lr in the reference's scripts).
        ssm_lr: learning rate of the SSM groups.
        weight_decay: of the AdamW groups.
        groups: "standard", "BandCdecay", "BfastandCdecay" or "noBCdecay".
        dt_global: train the time steps with the regular group.
        lr_min: the rate at which the cosine ends.
    """

    lr: float
    ssm_lr: float
    weight_decay: float
    groups: str = "standard"
    dt_global: bool = False
    lr_min: float = 1e-6

    def __post_init__(self):
        check(
            self,
            lr=number(above=0),
            ssm_lr=number(above=0),
            weight_decay=number(0),
            groups=choice(GROUPS),
            dt_global=boolean(),
            lr_min=number(0),
        )


def schedule(base: float, *, warmup_steps: int, total_steps: int, lr_min: float = 1e-6) -> optax.Schedule:
    """Return the learning rate by step t. As in the reference, it is set after each step for the next one.

    So step 0 uses the base rate and step t ≤ warm-up uses base·t/warm-up. Then follows a cosine in t − 1 that counts
    from the start of training but ends at total − warm-up: it reaches the minimum `warmup_steps` early.
    """
    if not 0 <= warmup_steps < total_steps:
        raise UserError(f"warmup_steps={warmup_steps}: expected at least 0 and below total_steps={total_steps}")
    end = total_steps - warmup_steps

    def rate(t):
        t = jnp.asarray(t, jnp.float32)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(t - 1, 0, end) / end))
        annealed = (base - lr_min) * cosine + lr_min
        warming = base * t / max(warmup_steps, 1)
        return jnp.where(t == 0, base, jnp.where(t <= warmup_steps, warming, annealed)).astype(jnp.float32)

    return rate


def parameter_roles(model: nnx.Module) -> dict[tuple[str, ...], str]:
    """Return the role of every parameter of the state space layers, by path."""
    roles: dict[tuple[str, ...], str] = {}

    def add(path: tuple, layer: StateSpaceLayer) -> StateSpaceLayer:
        roles.update({(*map(str, path), name): role for name, role in layer.ROLES.items()})
        return layer

    map_layers(model, add)
    return roles


def label(params: dict, config: OptimizerConfig, roles: Roles) -> dict:
    """Return the group of every parameter, as a tree of the same structure."""
    groups = GROUPS[config.groups] | ({"step": "regular"} if config.dt_global else {})

    def group(path: tuple, _) -> str:
        return groups.get(roles.get(tuple(str(key.key) for key in path), ""), "regular")

    return jax.tree_util.tree_map_with_path(group, params)


def make_optimizer(
    config: OptimizerConfig, model: nnx.Module, *, warmup_steps: int, total_steps: int
) -> optax.GradientTransformation:
    """Adam and AdamW by parameter group (S5 reference, `create_train_state`)."""
    roles = parameter_roles(model)
    lr, ssm_lr = (
        schedule(base, warmup_steps=warmup_steps, total_steps=total_steps, lr_min=config.lr_min)
        for base in (config.lr, config.ssm_lr)
    )
    groups = {
        "ssm": optax.adam(ssm_lr),
        "ssm_decay": optax.adamw(ssm_lr, weight_decay=config.weight_decay),
        "regular": optax.adamw(lr, weight_decay=config.weight_decay),
    }
    return optax.multi_transform(groups, lambda params: label(params, config, roles))
