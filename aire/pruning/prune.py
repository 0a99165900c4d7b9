"""Score, normalise, select and cut in one call, with a report."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from aire.errors import UserError
from aire.pruning import methods, scores, surgery
from aire.pruning.selection import select
from aire.report import tables
from aire.ssm import Modes

UNSTABLE = ("error", "first")


def score(
    model: nnx.Module, name: str = "aire", *, normalize: str | None = None, unstable: str = "error", seed: int = 0
) -> dict[str, Array]:
    """Score every state of a model.

    Args:
        model: any module with state space layers.
        name: a method of `aire.pruning.methods.METHODS`, or a score of `aire.pruning.scores.SCORES`.
        normalize: "prefix" (AIRE-Prune, LAST: comparable across layers), "channel" (the same within each system of a
            bank) or "none" (the raw energies); None: as the method has it, "prefix" for a mere score.
        unstable: what to do with |λ̄| ≥ 1, whose energy is infinite: "error", or "first" to rank them above all others.
        seed: of scores that draw, `random`; the others do not read it.
    Returns:
        Per layer path, float (n_states,), non-negative.
    Raises:
        UserError: an unknown name, NaN or infinite weights, or an unstable eigenvalue; the layer is named.
    """
    return score_modes(surgery.modes(model), name, normalize=normalize, unstable=unstable, seed=seed)


def score_modes(
    modes: Mapping[str, Modes],
    name: str = "aire",
    *,
    normalize: str | None = None,
    unstable: str = "error",
    seed: int = 0,
) -> dict[str, Array]:
    """`score` for modes that are at hand."""
    method = methods.get(name)
    normalize = method.normalize if normalize is None else normalize
    if normalize not in scores.NORMALIZATIONS:
        raise UserError(f"normalize={normalize!r}: expected one of {sorted(scores.NORMALIZATIONS)}")
    if unstable not in UNSTABLE:
        raise UserError(f"unstable={unstable!r}: expected one of {list(UNSTABLE)}")
    result = {}
    for path, m in modes.items():
        _check_modes(path, m, unstable)
        stable = m.margin > 0
        energies = scores.evaluate(method.score, m, path, seed)
        _check_energies(path, method.score, energies, stable)
        energies = jnp.where(stable, energies, 0)
        result[path] = jnp.where(stable, scores.NORMALIZATIONS[normalize](energies, m.channel), jnp.inf)
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


def _check_energies(path: str, name: str, energies: Array, stable: Array) -> None:
    if energies.shape != stable.shape:
        given, expected = list(energies.shape), list(stable.shape)
        raise UserError(f"score {name!r} gave shape {given} for layer {path!r}: expected {expected}")
    values = np.asarray(energies)[np.asarray(stable)]
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise UserError(f"score {name!r} gave negative, NaN or infinite values for layer {path!r}")


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer before and after a cut; `energy_kept` is the share of its AIRE energy, `parameters` the SSM's own."""

    path: str
    states: tuple[int, int]
    energy_kept: float
    parameters: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """What `prune` gives back.

    Attributes:
        model: the smaller model.
        keep: per layer path, bool (n_states,).
        scores: per layer path, the normalised scores that the selection compared.
        layers: one report per layer.
        parameters: of the whole model, before and after.
    """

    model: nnx.Module
    keep: dict[str, Array]
    scores: dict[str, Array]
    layers: list[LayerReport]
    parameters: tuple[int, int]

    @property
    def states(self) -> tuple[int, int]:
        """Stored states of the whole model, before and after."""
        before, after = zip(*(layer.states for layer in self.layers), strict=True)
        return sum(before), sum(after)

    def summary(self) -> str:
        """A table: per layer the states before and after, the share of energy kept, and the parameters; totals."""
        rows = [("layer", "states", "cut", "energy kept", "parameters")]
        for r in self.layers:
            rows.append((r.path or "(model)", *_change(r.states), f"{r.energy_kept:.2%}", _arrow(r.parameters)))
        rows.append(("all layers", *_change(self.states), "", _arrow(self._layer_parameters())))
        rows.append(("whole model", "", "", "", _arrow(self.parameters)))
        return tables.text(rows)

    def _layer_parameters(self) -> tuple[int, int]:
        before, after = zip(*(layer.parameters for layer in self.layers), strict=True)
        return sum(before), sum(after)


def _arrow(pair: tuple[int, int]) -> str:
    return f"{pair[0]:,} → {pair[1]:,}"


def _change(states: tuple[int, int]) -> tuple[str, str]:
    before, after = states
    return f"{before} → {after}", f"{1 - after / before:.1%}" if before else "0.0%"


def prune(
    model: nnx.Module,
    ratio: float | None = None,
    score: str = "aire",
    *,
    threshold: float | None = None,
    scope: str | None = None,
    normalize: str | None = None,
    unstable: str = "error",
    seed: int = 0,
) -> PruneResult:
    """Cut the states that matter least, without retraining (AIRE-Prune, algorithm 1).

    Args:
        model: any module with state space layers; it is not changed.
        ratio: share of all states to cut, in [0, 1); or
        threshold: the lowest score to keep.
        score: a method of `aire.pruning.methods.METHODS`, or a score of `aire.pruning.scores.SCORES`.
        scope, normalize: in place of the method's own, which are "global" and "prefix" for a mere score. The scope
            "channel" is short for "global" with normalize="channel".
        unstable, seed: as in `score`.
    Raises:
        UserError: as `score` and `select` do.
    """
    if scope == "channel":
        scope, normalize = "global", "channel"
    all_modes = surgery.modes(model)
    state_scores = score_modes(all_modes, score, normalize=normalize, unstable=unstable, seed=seed)
    scope = methods.get(score).scope if scope is None else scope
    keep = select(state_scores, ratio=ratio, threshold=threshold, scope=scope)
    smaller = surgery.cut(model, keep)
    reports = [
        LayerReport(
            path,
            (before.n_states, after.n_states),
            _energy_kept(all_modes[path], keep[path]),
            (count_parameters(before), count_parameters(after)),
        )
        for (path, before), after in zip(surgery.layers(model).items(), surgery.layers(smaller).values(), strict=True)
    ]
    return PruneResult(smaller, keep, state_scores, reports, (count_parameters(model), count_parameters(smaller)))


def _energy_kept(modes: Modes, keep: Array) -> float:
    energies = np.where(np.asarray(modes.margin) > 0, scores.get("aire")(modes), 0)
    total = energies.sum()
    return float(energies[np.asarray(keep)].sum() / total) if total else 1.0


def count_parameters(module: nnx.Module) -> int:
    """Trainable real numbers of a module."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
