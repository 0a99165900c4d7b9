"""The S5 reference's optimiser: three parameter groups, four ways to fill them, and its learning-rate schedule.

S4D's reference has the same groups: "standard" trains its eigenvalues and time steps, and nothing else, as "ssm".
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import optax

from aire.errors import UserError

# Group of each parameter, by the first rule whose pattern matches the whole path. "ssm" is Adam at the SSM rate,
# "ssm_decay" AdamW at the SSM rate, "regular" AdamW at the base rate. The reference also lists `norm` among the SSM
# names, but it matches leaf names only, and norms' leaves are called scale and bias: they are trained as "regular".
_LAMBDA = (r".*/(Lambda_re|Lambda_im|log_A_real|A_imag)", "ssm")
_REST = (r".*", "regular")
RULES = {
    "standard": [_LAMBDA, (r".*/ssm/B_(re|im)", "ssm"), _REST],
    "BandCdecay": [_LAMBDA, (r".*/ssm/B_(re|im)", "ssm_decay"), _REST],
    "BfastandCdecay": [_LAMBDA, _REST],
    "noBCdecay": [_LAMBDA, (r".*/ssm/(B_re|B_im|C_re|C_im|D)", "ssm"), _REST],
}
_LOG_STEP = {False: (r".*/log_(step|dt)", "ssm"), True: (r".*/log_(step|dt)", "regular")}


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
        if self.groups not in RULES:
            raise UserError(f"groups={self.groups!r}: expected one of {sorted(RULES)}")
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
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(t - 1, 0, end) / end))
        annealed = (base - config.lr_min) * cosine + config.lr_min
        warming = base * t / max(warmup, 1)
        return jnp.where(t == 0, base, jnp.where(t <= warmup, warming, annealed)).astype(jnp.float32)

    return rate


def label(params: dict, config: OptimizerConfig) -> dict:
    """The group of every parameter, in the tree's shape."""
    rules = [_LOG_STEP[config.dt_global], *RULES[config.groups]]

    def group(path: tuple, _) -> str:
        name = "/" + "/".join(str(key.key) for key in path)
        return next(group for pattern, group in rules if re.fullmatch(pattern, name))

    return jax.tree_util.tree_map_with_path(group, params)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam and AdamW by group (S5 reference, `create_train_state`)."""
    lr, ssm_lr = schedule(config.lr, config), schedule(config.ssm_lr, config)
    groups = {
        "ssm": optax.adam(ssm_lr),
        "ssm_decay": optax.adamw(ssm_lr, weight_decay=config.weight_decay),
        "regular": optax.adamw(lr, weight_decay=config.weight_decay),
    }
    return optax.multi_transform(groups, lambda params: label(params, config))
