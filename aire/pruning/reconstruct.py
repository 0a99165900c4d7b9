"""Reconstruct: after a cut, fit every layer's own parameters to the outputs of the uncut model's layer.

Layer by layer in the order of the data's way, as the refit does. In each layer a refit of C and D comes first, then
Adam on Λ, Δ, B, C and D, then a last refit. The inputs are those of the model that is already cut and reconstructed. Of
the cut layer, the refitted one and the fitted one, the layer with the lowest error on held-out sequences stays.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from aire.models import stack_documents
from aire.pruning import features, regression
from aire.pruning.calibration import Calibration, true_steps
from aire.pruning.fit import FitConfig, LayerData, fit_layer
from aire.pruning.refit import SplitBatch, as_readout, calls, order_of_calls, split_batches
from aire.pruning.regression import Sums
from aire.pruning.surgery import FITTED_ROLES, Cut, Readout, apply_masked, digest
from aire.ssm import StateSpaceLayer, layers
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
    uncut = nnx.clone(model)
    uncut.eval()
    batches = split_batches(calibration.batches)
    paths = order_of_calls(uncut, batches[0])
    with Progress("reconstruct", config.steps * len(paths)) as progress:
        for path in paths:
            masked = apply_masked(uncut, cut)
            keep, layer = np.asarray(cut.keep[path]), layers(masked)[path]
            fit, held_out = layer_data(uncut, masked, path, batches)
            best = _best_layer(layer, keep, fit, held_out, config, calibration.fits, progress.update)
            if best is not layer:
                cut = _with_layer(cut, path, best)
    return cut


def layer_data(
    uncut: nnx.Module, masked: nnx.Module, path: str, batches: Sequence[SplitBatch]
) -> tuple[LayerData, LayerData]:
    """Inputs of one layer in the masked model and its outputs in the uncut one: sequences of the fit, and held out."""
    (uncut_def, uncut_state), (masked_def, masked_state) = nnx.split(uncut), nnx.split(masked)
    sets: tuple[list[tuple], list[tuple]] = ([], [])
    for batch in batches:
        for seen in _observe(uncut_def, masked_def, path, uncut_state, masked_state, batch.x, batch.lengths):
            for chosen, parts in zip(batch.sets, sets, strict=True):
                parts.append(tuple(np.asarray(a)[chosen > 0] for a in seen))
    fit, held_out = (LayerData(*(_stack(arrays) for arrays in zip(*parts, strict=True))) for parts in sets)
    return fit, held_out


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _observe(
    uncut_def: nnx.GraphDef,
    masked_def: nnx.GraphDef,
    path: str,
    uncut: nnx.State,
    masked: nnx.State,
    x: Array,
    lengths: Array | None,
) -> list[tuple[Array, Array, Array]]:
    """u, y and mask of every call of the layer. XLA leaves out what lies behind the layer."""
    models = nnx.merge(uncut_def, uncut), nnx.merge(masked_def, masked)
    lengths_of_rows = stack_documents(x, lengths)[1]
    return [
        (v, layer.system(u), true_steps(lengths_of_rows, u.shape[:2]))
        for (layer, u), (_, v) in zip(*(calls(model, path, x, lengths) for model in models), strict=True)
    ]


def _stack(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate sequences. Shorter ones are padded with zeros, which the mask marks as padding."""
    L = max(a.shape[1] for a in arrays)
    return np.concatenate([np.pad(a, [(0, 0), (0, L - a.shape[1])] + [(0, 0)] * (a.ndim - 2)) for a in arrays])


def _best_layer(
    layer: StateSpaceLayer,
    keep: Bool[np.ndarray, "n"],
    fit: LayerData,
    held_out: LayerData,
    config: FitConfig,
    fits: MutableMapping[str, Mapping[str, np.ndarray]],
    progress: Callable[[int], None],
) -> StateSpaceLayer:
    """The layer, the refitted layer or the fitted one: the first with the lowest error on held-out sequences."""
    refitted = _refitted(layer, keep, fit)
    key = _key(refitted, keep, fit, config)
    if key in fits:
        fitted = refitted.with_parameters(fits[key])
        progress(config.steps)
    else:
        fitted = _refitted(fit_layer(refitted, keep, fit, config, progress), keep, fit)
        fits[key] = {name: np.asarray(getattr(fitted, name)[...]) for name in layer.ROLES}
    candidates = [layer, refitted, fitted]
    errors = [_error(candidate, held_out) for candidate in candidates]
    return candidates[int(np.nanargmin(errors))]


def _refitted(layer: StateSpaceLayer, keep: Bool[np.ndarray, "n"], data: LayerData) -> StateSpaceLayer:
    """The masked layer with a least-squares readout of the kept states."""
    old = regression.real_readout(layer)
    place, directions = features.places(layer.channels()), len(layer.reverse)
    new = regression.solve(_sums(layer, data), old, features.mask(keep, place, directions, len(old.G)))
    C, D = as_readout(new, layer, np.ones(layer.n_states, bool))  # zero for cut states
    return layer.with_readout(C, D)


def _error(layer: StateSpaceLayer, data: LayerData) -> float:
    """The relative squared error of the layer's outputs."""
    return regression.error(_sums(layer, data), regression.real_readout(layer))


def _sums(layer: StateSpaceLayer, data: LayerData) -> Sums:
    """The sums of the regression on all sequences, float64 over groups of them."""
    graphdef, state = nnx.split(layer)
    groups = data.batches(FitConfig.batch_size)
    parts = [_group_sums(graphdef, state, *group) for group in zip(groups.u, groups.y, groups.mask, strict=True)]
    return Sums(*(np.sum([np.asarray(a, np.float64) for a in arrays], axis=0) for arrays in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
def _group_sums(
    graphdef: nnx.GraphDef,
    state: nnx.State,
    u: Float[Array, "B L H"],
    y: Float[Array, "B L H"],
    mask: Float[Array, "B L"],
) -> Sums:
    sums = regression.sums(nnx.merge(graphdef, state), u, y, mask, jax.numpy.ones((1, len(u))))
    return Sums(*(a[0] for a in sums))


def _with_layer(cut: Cut, path: str, layer: StateSpaceLayer) -> Cut:
    """The cut with the parameters of the kept states of this layer."""
    kept = layer.cut(np.asarray(cut.keep[path]))
    fitted = {name: np.asarray(getattr(kept, name)[...]) for name, role in kept.ROLES.items() if role in FITTED_ROLES}
    readout = Readout(np.asarray(kept.readout()), np.asarray(kept.D[...]))
    return dataclasses.replace(cut, readouts={**cut.readouts, path: readout}, fitted={**cut.fitted, path: fitted})


def _key(layer: StateSpaceLayer, keep: Bool[np.ndarray, "n"], data: LayerData, config: FitConfig) -> str:
    """A digest of all that a fit depends on except the code."""
    parameters = {f"layer/{name}": np.asarray(getattr(layer, name)[...]) for name in layer.ROLES}
    return hashlib.sha256(f"{digest({**parameters, 'keep': keep, **vars(data)})} {config}".encode()).hexdigest()
