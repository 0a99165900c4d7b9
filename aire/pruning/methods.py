"""Methods: named choices of score, normalisation, scope and refit, as used on the command line.

Every registered score is also a method of the same name, with prefix normalisation and global scope.
`METHODS["mine"] = Method("my_score", "none", "uniform")` adds any other choice.
"""

import dataclasses
from collections.abc import Callable

from flax import nnx

from aire.pruning import scores, surgeon
from aire.pruning.calibration import Calibration
from aire.pruning.recalibrate import recalibrated
from aire.pruning.reconstruct import reconstruct
from aire.pruning.refit import refit
from aire.pruning.selection import SCOPES
from aire.pruning.surgery import Cut
from aire.utils.arguments import follow
from aire.utils.checks import Rule, check, choice
from aire.utils.errors import UserError

# refit(unpruned model, cut, calibration) -> the cut with new readouts, or with other states
Refit = Callable[[nnx.Module, Cut, Calibration], Cut]


@dataclasses.dataclass(frozen=True)
class Method:
    """How to compare states, and what to do after the cut.

    Attributes:
        score: a key of `scores.SCORES`.
        normalize: a key of `scores.NORMALIZATIONS`.
        scope: "global", or "uniform" for the same share of every layer, as in `select`.
        refit: a step after the cut, refit(model, cut, calibration) -> the cut with replaced readouts or with other
            states, or None.
    """

    score: str
    normalize: str = "prefix"
    scope: str = "global"
    refit: Refit | None = None

    def __post_init__(self):
        check(
            self,
            score=Rule("the name of a score", lambda x: isinstance(x, str)),
            normalize=choice(scores.NORMALIZATIONS),
            scope=choice(SCOPES),
            refit=Rule("None or a function of a model, a cut and a calibration", lambda x: x is None or callable(x)),
        )

    @property
    def needs_moments(self) -> bool:
        """Whether its score needs the moments of every layer."""
        return "moments" in scores.get(self.score).needs

    @property
    def needs_calibration(self) -> bool:
        """Whether it needs inputs of the model, for its score or for its refit."""
        return self.needs_moments or self.refit is not None

    @property
    def needs_covariance(self) -> bool:
        """Whether its score reads the covariance of the features, not only energies of states."""
        return scores.get(self.score).covariance

    def measures(self, *, selective: bool) -> bool:
        """Whether its score needs the moments of every layer of a model, which may have selective layers.

        The energy of a response needs modes, which selective layers have only on average over inputs.
        """
        return self.needs_moments or (selective and scores.get(self.score).stable)

    def sees_inputs(self, *, selective: bool) -> bool:
        """`needs_calibration` on a model that may have selective layers."""
        return self.needs_calibration or self.measures(selective=selective)

    @property
    def draws(self) -> bool:
        """Whether it depends on a seed: for random numbers, or for the choice of calibration inputs."""
        return self.needs_calibration or "key" in scores.get(self.score).needs


METHODS: dict[str, Method] = {
    "aire": Method("aire"),  # AIRE-Prune (ICLR 2026)
    "last": Method("last"),  # LAST (NeurIPS 2024); its paper's baselines below
    "hankel": Method("hankel"),  # ours
    "random": Method("random", "none"),  # the prefix normalisation is meaningless for random scores
    # LAMP (Lee et al., ICLR 2021): with weights in ascending order, score(u) = W[u]² / Σ_{v≥u} W[v]². The weights
    # from u on are those at least as large, so this is the prefix normalisation of the squared magnitudes.
    "lamp": Method("magnitude"),
    "magnitude_global": Method("magnitude", "none"),
    "magnitude_uniform": Method("magnitude", "none", "uniform"),
    "hinf_global": Method("last", "none"),  # squares, which have the order of the norms
    "hinf_uniform": Method("last", "none", "uniform"),
    "aire_unnormalised": Method("aire", "none"),
    "aire_uniform": Method("aire", "prefix", "uniform"),
    "aire_released": Method("aire_released"),
    "last_released": Method("last_released"),
    # Ours, with calibration inputs. "measured" is AIRE with measured in place of white-noise energies.
    "measured": Method("measured"),
    "measured_output": Method("measured_output"),
    "measured_recalibrated": Method("measured", refit=recalibrated("measured")),
    # GHOST (ICML 2026): the root of the mean over samples, steps and channels of (h C)², layer by layer on the model
    # that is already cut, with one share for all layers. Squares have the same order within a layer.
    "ghost": Method("measured", "none", "uniform", refit=recalibrated("measured")),
    "aire_refit": Method("aire", refit=refit),
    "measured_refit": Method("measured", refit=refit),
    "surgeon_order": Method(surgeon.SCORE, "none"),
    "surgeon": Method(surgeon.SCORE, "none", refit=refit),
    "reconstruct": Method(surgeon.SCORE, "none", refit=reconstruct),
}


def names() -> list[str]:
    """All methods: those of `METHODS`, then the scores that none of them uses, that is the user's own."""
    used = {method.score for method in METHODS.values()}
    return [*METHODS, *(name for name in scores.SCORES if name not in used and name not in METHODS)]


def data_free() -> list[str]:
    """The methods that need no calibration inputs."""
    return [name for name in names() if not get(name).needs_calibration]


def get(name: str | Method) -> Method:
    """Return the method of this name, or the score of this name with prefix normalisation and global scope.

    A `Method` is returned unchanged.

    Raises:
        UserError: the name is neither a method nor a score, or it is both and the method uses another score.
    """
    follow("method", name, Rule("the name of a method, or a Method", lambda x: isinstance(x, str | Method)))
    method = name if isinstance(name, Method) else METHODS.get(name, Method(name))
    if method.score not in scores.SCORES:
        raise UserError(f"unknown score {method.score!r}: expected one of {names()} (add one with scores.register)")
    if name in scores.SCORES and method.score != name:
        raise UserError(f"score {name!r} has the name of a method, which uses the score {method.score!r}: rename it")
    return method
