"""The result of pruning: the smaller model, the cut, and a report of every layer."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from numpy.typing import ArrayLike

from aire.pruning import scores
from aire.pruning.output_error import OutputError
from aire.pruning.speed import milliseconds
from aire.pruning.surgery import Cut, apply
from aire.report import tables
from aire.ssm import Modes, StateSpaceLayer, layers
from aire.utils.arguments import instance


class Change(NamedTuple):
    """A number before and after the cut."""

    before: int
    after: int

    @classmethod
    def total(cls, changes: Iterable["Change"]) -> "Change":
        """The sum of changes."""
        before, after = zip(*changes, strict=True)
        return cls(sum(before), sum(after))


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """One layer before and after a cut.

    Attributes:
        path: path of the layer in the model.
        states: number of stored states.
        energy_kept: share of the layer's AIRE energy in the kept states. NaN for a selective layer without moments.
        parameters: number of trainable parameters of the layer.
        state_bytes: what one sequence carries from step to step.
    """

    path: str
    states: Change
    energy_kept: float
    parameters: Change
    state_bytes: Change


@dataclasses.dataclass(frozen=True)
class PruneResult:
    """The result of `prune`.

    Attributes:
        model: the smaller model.
        cut: the kept states, and the readouts and other parameters that were replaced.
        scores: by layer path, the normalised scores that the selection compared.
        layers: one report per layer.
        parameters: number of trainable parameters of the model.
        errors: by layer path, the output error on the calibration inputs. Empty for methods that need none.
        uncut: the model before the cut.
    """

    model: nnx.Module
    cut: Cut
    scores: Mapping[str, Array]
    layers: list[LayerReport]
    parameters: Change
    errors: Mapping[str, OutputError]
    uncut: nnx.Module

    @property
    def keep(self) -> Mapping[str, ArrayLike]:
        """The mask of kept states by layer path, bool (n,)."""
        return self.cut.keep

    @property
    def states(self) -> Change:
        """Number of stored states of the model."""
        return Change.total(layer.states for layer in self.layers)

    def summary(self, x: ArrayLike | None = None, lengths: ArrayLike | None = None) -> str:
        """A table of states before and after, energy kept, parameters and bytes of state, by layer and in total.

        With calibration inputs, a second table of each layer's relative output error. With inputs `x` of the model, a
        last table of the milliseconds that both models take on them, measured now.
        """
        rows: list[tuple[str, ...]] = [
            ("layer", "states", "cut", "energy kept", "parameters", "state of a sequence, bytes")
        ]
        for r in self.layers:
            sizes = _arrow(r.parameters), _arrow(r.state_bytes)
            rows.append((r.path or "(model)", *_states(r.states), _percent(r.energy_kept), *sizes))
        totals = (Change.total(getattr(r, name) for r in self.layers) for name in ("parameters", "state_bytes"))
        rows.append(("all layers", *_states(self.states), "", *map(_arrow, totals)))
        rows.append(("whole model", "", "", "", _arrow(self.parameters), ""))
        return "\n\n".join([tables.text(rows), *self._error_table(), *self._time_table(x, lengths)])

    def _time_table(self, x: ArrayLike | None, lengths: ArrayLike | None) -> list[str]:
        if x is None:
            return []
        rows = [("milliseconds", "uncut", "cut", "times as fast")]
        for name, (before, after) in milliseconds(self.uncut, self.model, x, lengths).items():
            rows.append((name, f"{before:.3g}", f"{after:.3g}", f"{before / after:.2f}"))
        return [tables.text(rows)]

    def _error_table(self) -> list[str]:
        if not self.errors:
            return []
        rows: list[tuple[str, ...]] = [
            ("layer", "output error: predicted", "measured", "held-out inputs", "parameters")
        ]
        for path, e in self.errors.items():
            rows.append((path or "(model)", *map(_percent, e), self.cut.changed(path)))
        return [tables.text(rows)]


def _percent(share: float) -> str:
    return "–" if np.isnan(share) else f"{share:.2%}"


def _arrow(change: Change) -> str:
    return f"{change.before:,} → {change.after:,}"


def _states(change: Change) -> tuple[str, str]:
    share = f"{1 - change.after / change.before:.1%}" if change.before else "0.0%"
    return f"{change.before} → {change.after}", share


def result_of(
    model: nnx.Module,
    modes: Mapping[str, Modes],
    state_scores: Mapping[str, Array],
    cut: Cut,
    errors: Mapping[str, OutputError] | None = None,
) -> PruneResult:
    """Apply a cut and make its report."""
    smaller = apply(model, cut)
    before, after = layers(model), layers(smaller)
    reports = [
        LayerReport(
            path,
            Change(layer.n_states, after[path].n_states),
            _energy_kept(modes[path], cut.keep[path]),
            Change(count_parameters(layer), count_parameters(after[path])),
            Change(state_bytes(layer), state_bytes(after[path])),
        )
        for path, layer in before.items()
    ]
    parameters = Change(count_parameters(model), count_parameters(smaller))
    return PruneResult(smaller, cut, state_scores, reports, parameters, errors or {}, model)


def _energy_kept(modes: Modes, keep: ArrayLike) -> float:
    if modes.nominal:
        return float("nan")
    energies = np.asarray(modes.by_state(jnp.where(modes.margin > 0, scores.get("aire")(modes), 0)))
    total = energies.sum()
    return float(energies[np.asarray(keep)].sum() / total) if total else 1.0


def state_bytes(layer: StateSpaceLayer) -> int:
    """The bytes of the states, and of all else that one sequence carries from a step to the next."""
    state = jax.eval_shape(lambda: layer.initial_state(1))
    return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(state))


def count_parameters(module: nnx.Module) -> int:
    """The number of trainable parameters of a module, in real numbers."""
    instance("module", module, nnx.Module, "a flax.nnx.Module")
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
