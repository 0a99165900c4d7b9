"""The output error of every layer after a cut, predicted and measured: the risk of a cut before it is evaluated."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aire.models import stack_documents
from aire.pruning.calibration import Calibration, Recording, true_steps
from aire.pruning.refit import split_batches
from aire.pruning.surgeon import predicted_error
from aire.pruning.surgery import Cut, apply_masked
from aire.ssm import StateSpaceLayer, layers, map_layers
from aire.ssm.paths import path_name


class OutputError(NamedTuple):
    """Σ ‖ŷ − y‖² / Σ ‖y‖² of a layer, with y its outputs C x + D u in the uncut model.

    Attributes:
        predicted: with the uncut model's inputs to the layer, from its moments: what the cut of this layer alone costs.
            NaN for a selective layer whose covariance no method has asked for.
        fit: in the cut model, where the layers before are cut too, on the sequences that a refit uses.
        held_out: the same on the sequences that no refit uses. Far above `fit`: too few inputs, or the wrong ones. NaN
            with a single sequence.
    """

    predicted: float
    fit: float
    held_out: float


def output_errors(model: nnx.Module, cut: Cut, calibration: Calibration) -> dict[str, OutputError]:
    """Predict and measure the output error of every layer, in one pass over the calibration inputs.

    Raises:
        UserError: no sequence, or a layer that the model does not call.
    """
    moments = calibration.moments(model)
    model = nnx.clone(model)
    model.eval()
    graphdefs, states = zip(nnx.split(model), nnx.split(apply_masked(model, cut)), strict=True)
    total: dict[str, np.ndarray] = {}
    for batch in split_batches(calibration.batches, least=1):
        for path, sums in jax.device_get(_measure(graphdefs, states, *batch)).items():
            total[path] = total.get(path, 0) + np.asarray(sums, np.float64)
    errors = {}
    for path, layer in layers(model).items():
        own, predicted = moments[path], float("nan")
        if own.has_covariance:
            predicted = predicted_error(layer.modes(), own, cut.keep[path], refitted=path in cut.readouts)
        squares, energy = total[path]
        fit, held_out = np.divide(squares, energy, out=np.full(2, np.nan), where=energy > 0)
        errors[path] = OutputError(predicted, float(fit), float(held_out))
    return errors


@functools.partial(jax.jit, static_argnums=0)
def _measure(
    graphdefs: tuple[nnx.GraphDef, nnx.GraphDef],
    states: tuple[nnx.State, nnx.State],
    x: Array,
    lengths: Array | None,
    sets: Float[Array, "2 B"],
) -> dict[str, Float[Array, "2 2"]]:
    """Σ ‖ŷ − y‖² and Σ ‖y‖² of each set, by layer path."""
    uncut, masked = (_outputs(nnx.merge(*parts), x, lengths) for parts in zip(graphdefs, states, strict=True))

    def sums(y: Array, other: Array) -> Float[Array, "2 2"]:
        mask = true_steps(stack_documents(x, lengths)[1], (y.shape[0], y.shape[1]))
        y, other = y.astype(mask.dtype), other.astype(mask.dtype)
        squares = [jnp.sum(mask * jnp.sum(a**2, axis=-1), axis=1) for a in (other - y, y)]
        return jnp.stack(squares) @ sets.T

    return {path: functools.reduce(jnp.add, map(sums, calls, masked[path])) for path, calls in uncut.items()}


def _outputs(model: nnx.Module, x: Array, lengths: Array | None) -> dict[str, list[Float[Array, "B L H"]]]:
    """The outputs of each call of every layer."""
    found: dict[str, list[Array]] = {}

    def recording(path: tuple, layer: StateSpaceLayer) -> Recording:
        outputs = found.setdefault(path_name(path), [])
        return Recording(layer, lambda u, y: outputs.append(y))

    call = map_layers(model, recording)
    call(x) if lengths is None else call(x, lengths)
    return found
