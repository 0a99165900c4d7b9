"""Import weights of the reference implementations, from arrays in memory or from checkpoint files."""

from aire.convert.dispatch import from_file
from aire.convert.from_lru import lru_layer, lru_model
from aire.convert.from_mamba import mamba
from aire.convert.from_s4d import s4d_layer, s4d_model
from aire.convert.from_s5 import s5_layer, s5_model
from aire.convert.to_hugging_face import to_hugging_face

__all__ = [
    "from_file",
    "lru_layer",
    "lru_model",
    "mamba",
    "s4d_layer",
    "s4d_model",
    "s5_layer",
    "s5_model",
    "to_hugging_face",
]
