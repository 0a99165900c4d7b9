"""Scores, selection and surgery: which states a model keeps, and the smaller model."""

from aire.pruning import methods, scores
from aire.pruning.prune import PruneResult, prune, score
from aire.pruning.selection import select
from aire.pruning.surgery import cut, mask, modes

__all__ = ["PruneResult", "cut", "mask", "methods", "modes", "prune", "score", "scores", "select"]
