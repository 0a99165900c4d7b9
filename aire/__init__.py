"""AIRE-Prune: post-training state pruning of deep state space models, in JAX and Flax.

>>> result = aire.prune(model, ratio=0.6)  # doctest: +SKIP
>>> print(result.summary())  # doctest: +SKIP
"""

from aire import convert, pruning
from aire.pruning import PruneResult, cut, modes, prune, score, select
from aire.serialization import load, save

__all__ = ["PruneResult", "convert", "cut", "load", "modes", "prune", "pruning", "save", "score", "select"]
