"""The registry of the kinds of state space layer."""

import dataclasses
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

from aire.ssm.base import StateSpaceLayer
from aire.ssm.lru import LRU, LRUConfig
from aire.ssm.s4d import S4D, S4DConfig
from aire.ssm.s5 import S5, S5Config
from aire.ssm.s6 import S6, S6Config
from aire.utils.arguments import instance
from aire.utils.checks import make
from aire.utils.errors import UserError


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """One kind of layer.

    Attributes:
        config: its options, a frozen dataclass whose field `kind` has the kind's name as default.
        layer: its class, called as layer(d_model, n_states, config, rngs=rngs).
        norm_epsilon: ε of the layer norm in its block; the default of its reference's framework.
        per_channel: whether `states` in a config counts the states of each channel, not of the layer.
        initial_size: the size of the largest matrix that the initialisation of a layer decomposes, called as
            initial_size(config, n_states, d_model).
        block: the module around it, as "package.module:Class", called as Block(model_config, n_states, rngs=rngs).
        importer: the function that reads its reference's checkpoints, as "package.module:function", called as
            function(path, model_config); None if there is none. `block` and `importer` are imported when used, because
            they import this package.
    """

    config: type
    layer: Callable[..., StateSpaceLayer]
    norm_epsilon: float = 1e-6
    per_channel: bool = False
    initial_size: Callable[[Any, int, int], int] = lambda config, n_states, d_model: 0
    block: str = "aire.models:Block"
    importer: str | None = None

    @property
    def state_axis(self) -> Mapping[str, int]:
        """The arrays of its layer that have a state axis."""
        return getattr(self.layer, "STATE_AXIS")  # noqa: B009, a class by `register`, typed as what is called

    @property
    def selective(self) -> bool:
        """Whether its layer is selective, see `StateSpaceLayer.SELECTIVE`."""
        return getattr(self.layer, "SELECTIVE")  # noqa: B009, as above

    def n_states(self, states: int, d_model: int) -> int:
        """The number of stored states of a layer, from `states` and `d_model` of a config."""
        return states * d_model if self.per_channel else states

    def describe_states(self, states: int) -> str:
        """Describe `states` of a config in words."""
        return f"{states} states per channel" if self.per_channel else f"{states} states"

    def make_block(self, config: Any, n_states: int, **options: Any) -> Any:
        """Make the block around a layer of this kind."""
        return pkgutil.resolve_name(self.block)(config, n_states, **options)


KINDS: dict[str, LayerKind] = {
    "s5": LayerKind(
        S5Config,
        S5,
        norm_epsilon=1e-6,
        initial_size=lambda config, n_states, d_model: -(-n_states // config.blocks) * (1 + config.conj_sym),
        importer="aire.convert.from_s5:from_checkpoint",
    ),
    "s4d": LayerKind(
        S4DConfig,
        S4D,
        norm_epsilon=1e-5,
        per_channel=True,
        initial_size=lambda config, n_states, d_model: 2 * -(-n_states // d_model),
        importer="aire.convert.from_s4d:from_checkpoint",
    ),
    "lru": LayerKind(LRUConfig, LRU, norm_epsilon=1e-6, importer="aire.convert.from_lru:from_checkpoint"),
    "s6": LayerKind(S6Config, S6, norm_epsilon=1e-5, block="aire.models.mamba_block:MambaBlock"),
}


def register(kind: LayerKind) -> None:
    """Add a kind of layer under the default of its config's field `kind`. Replaces a kind of the same name.

    Raises:
        UserError: the config is not a frozen dataclass or has no such field, or the layer is not a `StateSpaceLayer`.
    """
    instance("kind", kind, LayerKind, "an aire.ssm.LayerKind")
    if not (isinstance(kind.config, type) and dataclasses.is_dataclass(kind.config) and _is_frozen(kind.config)):
        raise UserError(
            f"{kind.config!r} is not a frozen dataclass: decorate it with @dataclasses.dataclass(frozen=True)"
        )
    name = next((f.default for f in dataclasses.fields(kind.config) if f.name == "kind"), None)
    if not isinstance(name, str):
        raise UserError(f"{kind.config.__name__} has no field `kind` with the kind's name as default")
    if not (isinstance(kind.layer, type) and issubclass(kind.layer, StateSpaceLayer)):
        raise UserError(f"{kind.layer!r} is not an aire.ssm.StateSpaceLayer")
    KINDS[name] = kind


def kind_of(config: Any) -> LayerKind:
    """The kind of layer that these options belong to. Raise UserError if it is not registered."""
    return _get(getattr(config, "kind", None))


def ssm_config(fields: object) -> Any:
    """Make the options of a layer from a mapping with the key `kind`, "s5" by default.

    Raises:
        UserError: an unknown kind or an invalid option.
    """
    if not isinstance(fields, Mapping):
        raise UserError(f"ssm={fields!r}: expected a mapping with the key 'kind'")
    options = dict(fields)
    kind = _get(options.pop("kind", "s5"))  # the first files have no kind
    return make(kind.config, options)


def _is_frozen(config: Any) -> bool:
    return config.__dataclass_params__.frozen


def _get(name: Any) -> LayerKind:
    if not isinstance(name, str) or name not in KINDS:
        raise UserError(f"ssm.kind={name!r}: expected one of {sorted(KINDS)}")
    return KINDS[name]
