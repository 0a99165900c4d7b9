"""Reconstruct: after a cut, fit every layer's own parameters to the outputs of the uncut model's layer.

Layer by layer in the order of the data's way, as the refit does. In each layer a refit of C and D comes first, then
Adam on Λ, Δ, B, C and D, then a last refit. The inputs are those of the model that is already cut and reconstructed. Of
the cut layer, the refitted one and the fitted one, the layer with the lowest error on held-out sequences stays.
"""

import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, Sequence

import numpy as np
from flax import nnx
from jaxtyping import Bool

from aire.pruning import regression
from aire.pruning.calibration import Calibration
from aire.pruning.fit import FitConfig, LayerData, fit_layer, fitted_names
from aire.pruning.refit import SplitBatch, observe, order_of_calls, split_batches
from aire.pruning.regression import Sums
from aire.pruning.regressors import Regressors, regressors
from aire.pruning.surgery import FITTED_ROLES, Cut, Readout, apply_masked, spread
from aire.ssm import StateSpaceLayer, layers
from aire.utils import digests
from aire.utils.progress import Progress

DEFAULTS = FitConfig()


def reconstruct(model: nnx.Module, cut: Cut, calibration: Calibration, config: FitConfig = DEFAULTS) -> Cut:
    """Return the cut with fitted parameters and readouts: a `Refit` for `Method`.

    The result depends only on the model, the cut, the batches and the config. `calibration.fits` keeps each fitted
    layer, so a stopped call that is repeated with the same mapping goes on after the last finished layer. Memory holds
    the inputs and outputs of one layer on all calibration sequences.

    Raises:
        UserError: fewer than two sequences.
    """
    if cut.is_whole:
        return cut
    uncut = nnx.clone(model)
    uncut.eval()
    batches = split_batches(calibration.batches)
    paths = order_of_calls(uncut, batches[0])
    with Progress("reconstruct", config.steps * len(paths)) as progress:
        for path in paths:
            masked = apply_masked(uncut, cut)
            fit, held_out = layer_data(uncut, masked, path, batches)
            fitting = _Fitting(layers(masked)[path], np.asarray(cut.keep[path]), fit, config)
            best = _best_layer(fitting, held_out, calibration.fits, progress.update)
            cut = _with_layer(cut, path, fitting.masked.cut(fitting.keep), best)
    return cut


def layer_data(
    uncut: nnx.Module, masked: nnx.Module, path: str, batches: Sequence[SplitBatch]
) -> tuple[LayerData, LayerData]:
    """Inputs of one layer in the masked model and its outputs in the uncut one: sequences of the fit, and held out."""
    sets: tuple[list[tuple], list[tuple]] = ([], [])
    for batch in batches:
        for seen in observe(uncut, masked, path, batch):
            for chosen, parts in zip(batch.sets, sets, strict=True):
                parts.append(tuple(np.asarray(a)[chosen > 0] for a in seen))
    fit, held_out = (LayerData(*(_stack(arrays) for arrays in zip(*parts, strict=True))) for parts in sets)
    return fit, held_out


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate sequences. Shorter ones are padded with zeros, which the mask marks as padding."""
    L = max(a.shape[1] for a in arrays)
    return np.concatenate([np.pad(a, [(0, 0), (0, L - a.shape[1])] + [(0, 0)] * (a.ndim - 2)) for a in arrays])


class _Fitting:
    """One layer while it is fitted.

    Its candidates are cut layers. Data passes through layers of the uncut size, so that all cuts of a sweep share the
    compilations.
    """

    def __init__(self, masked: StateSpaceLayer, keep: Bool[np.ndarray, "n"], fit: LayerData, config: FitConfig):
        self.masked, self.keep, self.fit, self.config = masked, keep, fit, config

    def refitted(self, layer: StateSpaceLayer) -> StateSpaceLayer:
        """With a least-squares readout."""
        of_kept = self._regressors(layer)
        new = regression.solve(self._sums(of_kept, self.fit), of_kept.readout(layer))
        return layer.with_readout(*of_kept.as_readout(new, layer))

    def fitted(self, layer: StateSpaceLayer, progress: Callable[[int], None]) -> StateSpaceLayer:
        """With parameters fitted by gradient, and a least-squares readout. The layer itself if the fit diverged."""
        wide = fit_layer(self._widened(layer), self.keep, self.fit, self.config, progress)
        fitted = wide.cut(self.keep)
        return layer if _diverged(layer, fitted) else self.refitted(fitted)

    def error(self, layer: StateSpaceLayer, data: LayerData) -> float:
        """The relative squared error of the layer's outputs."""
        of_kept = self._regressors(layer)
        return regression.error(self._sums(of_kept, data), of_kept.readout(layer))

    def key(self, layer: StateSpaceLayer) -> str:
        """A digest of all that `fitted` depends on except the code."""
        arrays = {**_parameters(layer), "keep": self.keep, **vars(self.fit)}
        return digests.of_text(f"{digests.of_arrays(arrays)} {self.config}")

    def _widened(self, layer: StateSpaceLayer) -> StateSpaceLayer:
        return self.masked.with_parameters(spread(self.masked, self.keep, _parameters(layer)))

    def _regressors(self, layer: StateSpaceLayer) -> Regressors:
        return regressors(self._widened(layer), self.keep)

    def _sums(self, of_kept: Regressors, data: LayerData) -> Sums:
        """The sums of the regression, float64 over groups of sequences."""
        groups = data.batches(self.config.batch_size)
        sets = np.ones((1, groups.u.shape[1]), np.float32)
        return of_kept.sums((*group, sets) for group in zip(groups.u, groups.y, groups.mask, strict=True))[0]


def _best_layer(
    fitting: _Fitting,
    held_out: LayerData,
    fits: MutableMapping[str, Mapping[str, np.ndarray]],
    progress: Callable[[int], None],
) -> StateSpaceLayer:
    """The cut layer, the refitted or the fitted one: the first with the lowest error on held-out sequences."""
    layer = fitting.masked.cut(fitting.keep)
    refitted = fitting.refitted(layer)
    key = fitting.key(refitted)
    if key in fits:
        fitted = refitted.with_parameters(fits[key])
        progress(fitting.config.steps)
    else:
        fitted = fitting.fitted(refitted, progress)
        fits[key] = _parameters(fitted)
    candidates = [layer, refitted, fitted]
    errors = [fitting.error(candidate, held_out) for candidate in candidates]
    return candidates[int(np.nanargmin(errors))]


def _diverged(before: StateSpaceLayer, after: StateSpaceLayer) -> bool:
    """Whether a parameter is NaN or infinite, or a stable state became unstable."""
    if not all(np.isfinite(a).all() for a in _parameters(after).values()):
        return True
    return bool(np.any((np.asarray(before.modes().margin) > 0) & (np.asarray(after.modes().margin) <= 0)))


def _parameters(layer: StateSpaceLayer) -> dict[str, np.ndarray]:
    return {name: np.asarray(getattr(layer, name)[...]) for name in fitted_names(layer)}


def _with_layer(cut: Cut, path: str, before: StateSpaceLayer, after: StateSpaceLayer) -> Cut:
    """The cut with what changed in this cut layer, so that only layers with a new readout or fit count as replaced."""
    old, new = _parameters(before), _parameters(after)
    changed = {name for name in new if not np.array_equal(old[name], new[name])}
    fitted = {name: new[name] for name in changed if after.ROLES.get(name) in FITTED_ROLES}
    if fitted:
        cut = dataclasses.replace(cut, fitted={**cut.fitted, path: fitted})
    if changed - fitted.keys():
        readout = Readout(np.asarray(after.readout()), np.asarray(after.D[...]))
        cut = dataclasses.replace(cut, readouts={**cut.readouts, path: readout})
    return cut
