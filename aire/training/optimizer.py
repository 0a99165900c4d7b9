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
    """Attributes:
    lr: base learning rate (lr_factor × ssm_lr in the reference's scripts).
    ssm_lr: learning rate of the SSM groups.
    weight_decay: of the AdamW groups.
    groups: "standard", "BandCdecay", "BfastandCdecay" or "noBCdecay".
    dt_global: train the time steps with the regular group.
    warmup_steps, total_steps: of the schedule.
    lr_min: the rate at which the cosine ends.
    """

    lr: float
    ssm_lr: float
    weight_decay: float
    groups: str
    warmup_steps: int
    total_steps: int
    dt_global: bool = False
    lr_min: float = 1e-6

    def __post_init__(self):
        if self.groups not in GROUPS:
            raise UserError(f"groups={self.groups!r}: expected one of {sorted(GROUPS)}")
        if not 0 <= self.warmup_steps < self.total_steps:
            raise UserError(
                f"warmup_steps={self.warmup_steps}: expected from 0 to below total_steps={self.total_steps}"
            )


def schedule(base: float, config: OptimizerConfig) -> optax.Schedule:
    """The rate that step t uses, as the reference sets it: after each step, for the next one.

    So step 0 uses the full base rate, step t ≤ warm-up base·t/warm-up, and from then on a cosine in t − 1 that counts
    from the beginning of training but ends at total − warm-up: the minimum is reached `warmup_steps` early.
    """
    warmup, end = config.warmup_steps, config.total_steps - config.warmup_steps

    def rate(t):
        t = jnp.asarray(t, jnp.float32)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(t - 1, 0, end) / end))
        annealed = (base - config.lr_min) * cosine + config.lr_min
        warming = base * t / max(warmup, 1)
        return jnp.where(t == 0, base, jnp.where(t <= warmup, warming, annealed)).astype(jnp.float32)

    return rate


def parameter_roles(model: nnx.Module) -> dict[tuple[str, ...], str]:
    """The role of every parameter of a model's state space layers, by path."""
    roles: dict[tuple[str, ...], str] = {}

    def add(path: tuple, layer: StateSpaceLayer) -> StateSpaceLayer:
        roles.update({(*map(str, path), name): role for name, role in layer.ROLES.items()})
        return layer

    map_layers(model, add)
    return roles


def label(params: dict, config: OptimizerConfig, roles: Roles) -> dict:
    """The group of every parameter, in the tree's shape."""
    groups = GROUPS[config.groups] | ({"step": "regular"} if config.dt_global else {})

    def group(path: tuple, _) -> str:
        return groups.get(roles.get(tuple(str(key.key) for key in path), ""), "regular")

    return jax.tree_util.tree_map_with_path(group, params)


def make_optimizer(config: OptimizerConfig, model: nnx.Module) -> optax.GradientTransformation:
    """Adam and AdamW by group (S5 reference, `create_train_state`) for the parameters of a model."""
    roles = parameter_roles(model)
    lr, ssm_lr = schedule(config.lr, config), schedule(config.ssm_lr, config)
    groups = {
        "ssm": optax.adam(ssm_lr),
        "ssm_decay": optax.adamw(ssm_lr, weight_decay=config.weight_decay),
        "regular": optax.adamw(lr, weight_decay=config.weight_decay),
    }
    return optax.multi_transform(groups, lambda params: label(params, config, roles))
