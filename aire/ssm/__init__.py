"""State space layers and their maths, independent of pruning."""

from aire.ssm.base import StateSpaceLayer
from aire.ssm.lru import LRU, LRUConfig
from aire.ssm.mimo import MIMO
from aire.ssm.modes import Modes
from aire.ssm.registry import KINDS, LayerKind, kind_of, register, ssm_config
from aire.ssm.s4d import S4D, S4DConfig, S4DLayer
from aire.ssm.s5 import S5, S5Config
from aire.ssm.s6 import S6, S6Config, S6State
from aire.ssm.traversal import layers, map_layers

__all__ = [
    "KINDS",
    "LRU",
    "MIMO",
    "S4D",
    "S5",
    "S6",
    "LRUConfig",
    "LayerKind",
    "Modes",
    "S4DConfig",
    "S4DLayer",
    "S5Config",
    "S6Config",
    "S6State",
    "StateSpaceLayer",
    "kind_of",
    "layers",
    "map_layers",
    "register",
    "ssm_config",
]
