"""Score, normalise, select, refit and cut: each step a function, and all of them in one call."""

from collections.abc import Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from aire.pruning import methods, scores, surgery
from aire.pruning.calibration import Batch, Calibration
from aire.pruning.methods import Method
from aire.pruning.moments import Moments
from aire.pruning.result import PruneResult, result_of
from aire.pruning.selection import Ratio, select
from aire.pruning.surgery import Cut
from aire.ssm import Modes
from aire.utils.errors import UserError

UNSTABLE = ("error", "first")


def score(
    model: nnx.Module | Mapping[str, Modes],
    method: str | Method = "aire",
    *,
    moments: Mapping[str, Moments] | None = None,
    normalize: str | None = None,
    unstable: str = "error",
    seed: int = 0,
) -> dict[str, Array]:
    """Score every state of a model.

    Args:
        model: any module with state space layers, or the modes of each layer, such as `Modes.discrete` gives.
        method: a method of `aire.pruning.methods.METHODS`, a score of `aire.pruning.scores.SCORES`, or a `Method`.
        moments: per layer path, from `aire.calibrate`, for scores that need them.
        normalize: "prefix" (AIRE-Prune, LAST: comparable across layers), "channel" (the same within each system of a
            bank) or "none" (the raw energies); None: as the method has it, "prefix" for a score alone.
        unstable: what a score that holds for stable states alone does about |λ̄| ≥ 1: "error", or "first" to rank them
            above all others. Scores that do not read the energy of an infinite response ignore it.
        seed: of scores that draw at random; the others do not read it.
    Returns:
        Per layer path, float (n_states,), non-negative.
    Raises:
        UserError: an unknown name, missing moments, NaN or infinite weights, an unstable eigenvalue, or a score that
            gives anything but a non-negative number per state; the layer is named.
    """
    chosen = methods.get(method)
    normalize = chosen.normalize if normalize is None else normalize
    if normalize not in scores.NORMALIZATIONS:
        raise UserError(f"normalize={normalize!r}: expected one of {sorted(scores.NORMALIZATIONS)}")
    if unstable not in UNSTABLE:
        raise UserError(f"unstable={unstable!r}: expected one of {list(UNSTABLE)}")
    fn, result = scores.get(chosen.score), {}
    for path, m in (model if isinstance(model, Mapping) else surgery.modes(model)).items():
        _check_modes(path, m, unstable if fn.stable else "ignored")
        defined = m.margin > 0 if fn.stable else jnp.ones(m.margin.shape, bool)
        energies = scores.evaluate(fn, m, path, moments=None if moments is None else moments.get(path), seed=seed)
        energies = jnp.where(defined, _checked(path, chosen.score, energies, defined), 0)
        result[path] = jnp.where(defined, scores.NORMALIZATIONS[normalize](energies, m.channel), jnp.inf)
    return result


def _check_modes(path: str, modes: Modes, unstable: str) -> None:
    for field in ("Lambda_bar", "B_bar", "C", "margin"):
        bad = ~np.isfinite(getattr(modes, field))
        if bad.any():
            raise UserError(f"layer {path!r}: {field} holds {bad.sum()} NaN or infinite values; check the weights")
    if unstable == "error" and (np.asarray(modes.margin) <= 0).any():
        i = int(np.argmin(modes.margin))
        raise UserError(
            f"layer {path!r}: state {i} is unstable, |λ̄| = {abs(complex(modes.Lambda_bar[i])):.8g} >= 1, so its energy "
            "is infinite; train with clip_eigs, or pass unstable='first' to keep such states first"
        )


def _checked(path: str, name: str, energies: object, defined: Array) -> Array:
    """What a score gave, as an array, if it is one non-negative number for each state."""
    try:
        values = np.asarray(energies, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"score {name!r} gave a {type(energies).__name__} for layer {path!r}: {error}") from error
    if values.shape != defined.shape:
        given, expected = list(values.shape), list(defined.shape)
        raise UserError(f"score {name!r} gave shape {given} for layer {path!r}: expected {expected}")
    used = values[np.asarray(defined)]
    if not (np.isfinite(used).all() and (used >= 0).all()):
        raise UserError(
            f"score {name!r} gave negative, NaN or infinite values for layer {path!r}; a score that divides by "
            "1 − |λ̄|² is registered with stable=True"
        )
    return energies if isinstance(energies, Array) else jnp.asarray(values)


def find_cut(
    model: nnx.Module,
    state_scores: Mapping[str, Array],
    method: str | Method,
    *,
    ratio: Ratio | None = None,
    threshold: float | None = None,
    scope: str | None = None,
    leave_whole: Sequence[str] = (),
    calibration: Calibration | None = None,
) -> Cut:
    """Select by scores, and refit if the method does.

    Args:
        model: the model that the scores are of.
        state_scores: per layer path, as from `score`.
        method: as in `score`; its scope holds where `scope` is None.
        ratio, threshold, leave_whole: as in `select`.
        calibration: for a method with a refit.
    Raises:
        UserError: as `select` does, or a refit without calibration.
    """
    chosen = methods.get(method)
    scope = chosen.scope if scope is None else scope
    cut = Cut(select(state_scores, ratio=ratio, threshold=threshold, scope=scope, leave_whole=leave_whole))
    if chosen.refit is None:
        return cut
    if calibration is None:
        raise UserError("a method with a refit needs inputs of the model: pass calibration=batches")
    return chosen.refit(model, cut, calibration)


def prune(
    model: nnx.Module,
    ratio: Ratio | None = None,
    method: str | Method = "aire",
    *,
    threshold: float | None = None,
    scope: str | None = None,
    normalize: str | None = None,
    leave_whole: Sequence[str] = (),
    calibration: Iterable[Batch] | Calibration | None = None,
    unstable: str = "error",
    seed: int = 0,
) -> PruneResult:
    """Cut the states that matter least, without retraining (AIRE-Prune, algorithm 1).

    Args:
        model: any module with state space layers; it is not changed.
        ratio: share of all states to cut, in [0, 1), or shares by layer pattern, as in `select`; or
        threshold: the lowest score to keep.
        method: a method of `aire.pruning.methods.METHODS`, a score of `aire.pruning.scores.SCORES`, or a `Method`.
        scope, normalize: in place of the method's own, which are "global" and "prefix" for a score alone. The scope
            "channel" is short for "global" with normalize="channel".
        leave_whole: patterns of layers that keep all states, as in `select`.
        calibration: unlabelled inputs, as `aire.calibrate` takes them, for methods that need them.
        unstable, seed: as in `score`.
    Raises:
        UserError: as `score` and `select` do, or a method that needs calibration without it.
    """
    if scope == "channel":
        if normalize not in (None, "channel"):
            raise UserError(f"scope='channel' means normalize='channel', but normalize={normalize!r} was given")
        scope, normalize = "global", "channel"
    chosen = methods.get(method)
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    if chosen.needs_calibration and calibration is None:
        raise UserError(f"method {method!r} needs inputs of the model: pass calibration=batches")
    all_modes = surgery.modes(model)
    moments = calibration.moments(model) if "moments" in scores.get(chosen.score).needs else None
    state_scores = score(all_modes, chosen, moments=moments, normalize=normalize, unstable=unstable, seed=seed)
    cut = find_cut(
        model,
        state_scores,
        chosen,
        ratio=ratio,
        threshold=threshold,
        scope=scope,
        leave_whole=leave_whole,
        calibration=calibration,
    )
    return result_of(model, all_modes, state_scores, cut)
