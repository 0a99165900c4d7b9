"""Scores, selection, refit and surgery: which states to keep, and the smaller model."""

from aire.pruning import methods, scores
from aire.pruning.api import find_cut, prune, score
from aire.pruning.calibration import Calibration, calibrate
from aire.pruning.methods import METHODS, Method
from aire.pruning.moments import GateMoments, Moments
from aire.pruning.recalibrate import recalibrated
from aire.pruning.result import Change, PruneResult, count_parameters
from aire.pruning.selection import select
from aire.pruning.surgery import Cut, Readout, apply, apply_masked, cut, mask, modes

__all__ = [
    "METHODS",
    "Calibration",
    "Change",
    "Cut",
    "GateMoments",
    "Method",
    "Moments",
    "PruneResult",
    "Readout",
    "apply",
    "apply_masked",
    "calibrate",
    "count_parameters",
    "cut",
    "find_cut",
    "mask",
    "methods",
    "modes",
    "prune",
    "recalibrated",
    "score",
    "scores",
    "select",
]
