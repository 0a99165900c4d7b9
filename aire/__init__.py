"""AIRE-Prune: post-training state pruning of deep state space models, in JAX and Flax.

>>> result = aire.prune(model, ratio=0.6)  # doctest: +SKIP
>>> print(result.summary())  # doctest: +SKIP
"""

from aire import convert, pruning, zoo
from aire.io.exported import export
from aire.io.model_file import load, save
from aire.models import Classifier, MambaLM, MambaLMConfig, ModelConfig, next_token_loss
from aire.pruning import Cut, Method, Moments, PruneResult, Readout, calibrate, cut, mask, modes, prune, score, select
from aire.ssm import LRU, S4D, S5, S6, LRUConfig, Modes, S4DConfig, S5Config, S6Config, map_layers
from aire.training.cut_state import cut_optimizer
from aire.utils.traced import checked

__version__ = "0.2.0.dev0"

__all__ = [
    "LRU",
    "S4D",
    "S5",
    "S6",
    "Classifier",
    "Cut",
    "LRUConfig",
    "MambaLM",
    "MambaLMConfig",
    "Method",
    "ModelConfig",
    "Modes",
    "Moments",
    "PruneResult",
    "Readout",
    "S4DConfig",
    "S5Config",
    "S6Config",
    "calibrate",
    "checked",
    "convert",
    "cut",
    "cut_optimizer",
    "export",
    "load",
    "map_layers",
    "mask",
    "modes",
    "next_token_loss",
    "prune",
    "pruning",
    "save",
    "score",
    "select",
    "zoo",
]
