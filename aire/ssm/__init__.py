"""State space layers and their maths. Knows nothing of pruning."""

from aire.ssm.modes import Modes
from aire.ssm.s5 import S5, S5Config

__all__ = ["S5", "Modes", "S5Config"]
