"""State space layers and their maths. Knows nothing of pruning."""

from aire.ssm.modes import Modes
from aire.ssm.s4d import S4D, S4DConfig, S4DLayer
from aire.ssm.s5 import S5, S5Config

__all__ = ["S4D", "S5", "Modes", "S4DConfig", "S4DLayer", "S5Config"]
