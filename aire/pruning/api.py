"""Score, normalise, select, refit and cut: each step as a function, and all steps in one call."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aire.pruning import methods, scores, search, surgery
from aire.pruning.calibration import Batch, Calibration
from aire.pruning.methods import Method
from aire.pruning.moments import AnyMoments
from aire.pruning.output_error import output_errors
from aire.pruning.result import PruneResult, result_of
from aire.pruning.search import Validate
from aire.pruning.selection import Ratio, select
from aire.pruning.surgery import Cut
from aire.ssm import Modes, layers
from aire.utils.arguments import follow, instance, is_traced, mapping, numbers
from aire.utils.checks import choice
from aire.utils.checks import seed as seed_rule
from aire.utils.errors import UserError

UNSTABLE = ("error", "first")


def score(
    model: nnx.Module | Mapping[str, Modes],
    method: str | Method = "aire",
    *,
    moments: Mapping[str, AnyMoments] | Callable[[Modes], AnyMoments] | None = None,
    normalize: str | None = None,
    unstable: str = "error",
    seed: int = 0,
) -> dict[str, Float[Array, "_"]]:
    """Score every state of a model.

    Args:
        model: any module with state space layers, or the modes of each layer, such as from `Modes.discrete`.
        method: a method of `aire.pruning.methods.METHODS`, a score of `aire.pruning.scores.SCORES`, or a `Method`.
        moments: for scores that need them, and for energies of selective layers: by layer path, from `aire.calibrate`;
            or, for other layers, a closed form of the modes, `aire.pruning.moments.white` or `finite_horizon` with a
            length bound by `functools.partial`.
        normalize: "prefix" (AIRE-Prune, LAST: comparable across layers), "channel" (the same within each system of a
            bank) or "none" (the raw energies). None uses the setting of the method, which is "prefix" for a score.
        unstable: how a score defined only for stable states treats |λ̄| ≥ 1: "error", or "first" to rank these states
            above all others. Other scores ignore it.
        seed: seed of random scores, below 2³². Other scores ignore it.
    Returns:
        Scores by layer path, non-negative.
    Raises:
        UserError: an unknown name, missing moments, NaN or infinite weights, an unstable eigenvalue, a method that is
            not defined for a layer, or a score that fails or does not return one non-negative number per mode. The
            message names the layer. Also a call under `jax.jit`, because the values are checked.
    """
    chosen = methods.get(method)
    normalize = chosen.normalize if normalize is None else normalize
    follow("normalize", normalize, choice(scores.NORMALIZATIONS))
    follow("unstable", unstable, choice(UNSTABLE))
    follow("seed", seed, seed_rule())
    if moments is not None and not callable(moments):
        mapping("moments", moments, "from layer paths to moments, or a function of modes")
    fn, result = scores.get(chosen.score), {}
    for path, m in _modes_of(model).items():
        found = moments(m) if callable(moments) else (moments or {}).get(path)
        if found is not None:
            instance(f"moments of layer {path!r}", found, AnyMoments, "those of a layer, from aire.calibrate")
        if fn.stable and m.nominal:
            m = _averaged(path, chosen.score, m, found)
        _check_modes(path, m, unstable if fn.stable else "ignored")
        defined = m.margin > 0 if fn.stable else jnp.ones(m.margin.shape, bool)
        energies = scores.evaluate(fn, m, path, name=chosen.score, moments=found, seed=seed)
        energies = m.by_state(jnp.where(defined, _checked(path, chosen.score, energies, defined), 0))
        defined = m.by_state(jnp.where(defined, 0, 1)) == 0
        result[path] = jnp.where(defined, scores.NORMALIZATIONS[normalize](energies, m.state_channels()), jnp.inf)
    return result


def _modes_of(model: nnx.Module | Mapping[str, Modes]) -> Mapping[str, Modes]:
    if not isinstance(model, Mapping):
        return surgery.modes(model)
    mapping("model", model, "from layer paths to modes")
    if not model:
        raise UserError("model: expected the modes of at least one layer")
    for path, m in model.items():
        instance(f"layer {path!r}", m, Modes, "modes, such as from Modes.discrete")
    return model


def selective_layers(model: nnx.Module) -> list[str]:
    """The paths of the selective layers of a model."""
    return [path for path, layer in layers(model).items() if layer.SELECTIVE]


def _averaged(path: str, score: str, modes: Modes, moments: AnyMoments | None) -> Modes:
    """The modes of a selective layer on average over the inputs of its moments."""
    if moments is None:
        raise UserError(
            f"layer {path!r} is selective: its states have energies only on inputs. For the score {score!r}, pass "
            "moments=aire.calibrate(model, batches) to score, or calibration=batches to prune"
        )
    return moments.modes(modes)


def _check_modes(path: str, modes: Modes, unstable: str) -> None:
    if is_traced(modes.margin):
        raise UserError(
            "score is called under jax.jit, where it cannot check the values of the weights: call it outside"
        )
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
    """Return the energies as an array. Raise UserError unless they are one non-negative number per state."""
    try:
        values = np.asarray(numbers("the result", energies, kinds="fiub", expected="real numbers"), np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"score {name!r} returned a {type(energies).__name__} for layer {path!r}: {error}") from error
    if values.shape != defined.shape:
        given, expected = list(values.shape), list(defined.shape)
        raise UserError(f"score {name!r} returned shape {given} for layer {path!r}: expected {expected}")
    used = values[np.asarray(defined)]
    if not (np.isfinite(used).all() and (used >= 0).all()):
        raise UserError(
            f"score {name!r} returned negative, NaN or infinite values for layer {path!r}; register a score that "
            "divides by 1 − |λ̄|² with stable=True"
        )
    with np.errstate(over="ignore"):
        result = jnp.asarray(values)
    if jnp.isinf(result)[np.asarray(defined)].any():
        raise UserError(f"score {name!r} returned {used.max():g} for layer {path!r}: more than {result.dtype} can hold")
    return energies if isinstance(energies, Array) and jnp.issubdtype(energies.dtype, jnp.floating) else result


def find_cut(
    model: nnx.Module,
    state_scores: Mapping[str, Float[Array, "_"]],
    method: str | Method,
    *,
    ratio: Ratio | None = None,
    threshold: float | None = None,
    scope: str | None = None,
    leave_whole: Sequence[str] = (),
    calibration: Calibration | None = None,
) -> Cut:
    """Select states by their scores, and refit if the method has a refit.

    Args:
        model: the scored model.
        state_scores: by layer path, from `score`.
        method: as in `score`. Its scope applies if `scope` is None.
        ratio, threshold, leave_whole: as in `select`.
        calibration: inputs for the refit.
    Raises:
        UserError: as in `select`, or a refit without calibration.
    """
    chosen = methods.get(method)
    scope = chosen.scope if scope is None else scope
    if calibration is not None:
        instance("calibration", calibration, Calibration, "aire.pruning.Calibration(batches)")
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
    tolerance: float | None = None,
    validate: Validate | None = None,
    scope: str | None = None,
    normalize: str | None = None,
    leave_whole: Sequence[str] = (),
    calibration: Iterable[Batch] | Calibration | None = None,
    unstable: str = "error",
    seed: int = 0,
) -> PruneResult:
    """Cut the states that matter least, without retraining (AIRE-Prune, algorithm 1).

    Args:
        model: any module with state space layers. It is not changed.
        ratio: share of all states to cut, in [0, 1), or shares by layer pattern, as in `select`. Pass `ratio`,
            `threshold` or `tolerance`.
        threshold: the lowest score to keep.
        tolerance: find the largest ratio that costs at most this much accuracy, such as 0.01, by `search.largest`.
        validate: maps a model to its accuracy, for `tolerance`. Compile inside it with `nnx.jit`: all models but the
            last have the size of this one.
        method: a method of `aire.pruning.methods.METHODS`, a score of `aire.pruning.scores.SCORES`, or a `Method`.
        scope, normalize: override the settings of the method, which are "global" and "prefix" for a score. The scope
            "channel" is short for "global" with normalize="channel".
        leave_whole: patterns of layers that keep all states, as in `select`.
        calibration: unlabelled inputs, as for `aire.calibrate`, for methods that need them.
        unstable, seed: as in `score`.
    Raises:
        UserError: as in `score`, `select` and `search.largest`, or missing calibration.
    """
    instance("model", model, nnx.Module, "a flax.nnx.Module")
    search.check(tolerance, validate, others=(ratio, threshold))
    if isinstance(scope, str) and scope == "channel":
        if normalize not in (None, "channel"):
            raise UserError(f"scope='channel' means normalize='channel', not normalize={normalize!r}")
        scope, normalize = "global", "channel"
    chosen = methods.get(method)
    if calibration is not None and not isinstance(calibration, Calibration):
        calibration = Calibration(calibration)
    selective = selective_layers(model)
    if chosen.needs_calibration and calibration is None:
        raise UserError(f"method {method!r} needs inputs of the model: pass calibration=batches")
    measures, sees_inputs = (f(selective=bool(selective)) for f in (chosen.measures, chosen.sees_inputs))
    moments = None
    if calibration is not None and measures:
        moments = calibration.moments(model, covariance=chosen.needs_covariance)
    state_scores = score(
        surgery.modes(model), chosen, moments=moments, normalize=normalize, unstable=unstable, seed=seed
    )
    find = functools.partial(
        find_cut, model, state_scores, chosen, scope=scope, leave_whole=leave_whole, calibration=calibration
    )
    if tolerance is not None and validate is not None:
        cut = search.largest(model, lambda ratio: find(ratio=ratio), tolerance, validate)
    else:
        cut = find(ratio=ratio, threshold=threshold)
    errors = output_errors(model, cut, calibration) if calibration is not None and sees_inputs else None
    return result_of(model, surgery.modes(model, moments), state_scores, cut, errors)
