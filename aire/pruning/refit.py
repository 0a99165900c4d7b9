"""The refit: after a cut, fit C and D of every layer to the outputs of the uncut model, by least squares.

Layer by layer in the order of the data's way: the regressors are the states and inputs of the already cut and refitted
model, the outputs to reach are those of the same layer in the uncut model. Ridges pull towards the old C and D. Every
fourth sequence is held out, and a layer whose error on them does not fall keeps its readout.
"""

import dataclasses
import functools
import warnings
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from aire.models import stack_documents
from aire.pruning import regression
from aire.pruning.calibration import Batch, Calibration, inputs, true_steps
from aire.pruning.regression import Sums
from aire.pruning.regressors import Regressors, regressors
from aire.pruning.surgery import Cut, apply, apply_masked
from aire.pruning.taps import call_with_taps
from aire.ssm import StateSpaceLayer, layers
from aire.utils.errors import UserError

# Relative error of a readout that needs no refit, such as where nothing was cut. Below it is noise of the sums.
NEGLIGIBLE = 1e-6


class RefitWarning(UserWarning):
    """The refit would have made layers worse on held-out inputs."""


class SplitBatch(NamedTuple):
    """A calibration batch and its two sets of sequences.

    Attributes:
        x, lengths: inputs of the model.
        sets: 1 where a sequence is in the fit, and where it is held out. Two documents are two sequences.
    """

    x: Array
    lengths: Array | None
    sets: Float[np.ndarray, "2 B"]


def split_batches(batches: Iterable[Batch], *, least: int = 2) -> list[SplitBatch]:
    """Hold out every fourth sequence, the second first.

    Raises:
        UserError: fewer than `least` sequences.
    """
    result: list[SplitBatch] = []
    count = 0
    for batch in batches:
        x, lengths = inputs(batch)
        held_out = np.arange(count, count + len(x)) % 4 == 1
        count += len(x)
        held_out = np.tile(held_out, len(stack_documents(x, lengths)[0]) // len(x))
        result.append(SplitBatch(x, lengths, np.stack([~held_out, held_out]).astype(np.float32)))
    if count < least:
        raise UserError(f"{count} calibration sequences: expected at least {least}; a refit holds one in four out")
    return result


def refit(model: nnx.Module, cut: Cut, calibration: Calibration) -> Cut:
    """Return the cut with refitted readouts: a `Refit` for `Method`.

    Warns:
        RefitWarning: names the layers whose error on held-out inputs would not fall. They keep their readouts.
    Raises:
        UserError: fewer than two sequences.
    """
    if cut.is_whole:
        return cut
    uncut = nnx.clone(model)
    uncut.eval()
    batches = split_batches(calibration.batches)
    unchanged = []
    for path in order_of_calls(uncut, batches[0]):
        smaller, masked = layers(apply(uncut, cut))[path], apply_masked(uncut, cut)
        of_kept = regressors(layers(masked)[path], np.asarray(cut.keep[path]))
        fit, held_out = observed_sums(uncut, masked, path, of_kept, batches)
        old = of_kept.readout(smaller)
        new = regression.solve(fit, old)
        before = regression.error(held_out, old)
        if regression.error(held_out, new) < before:
            cut = dataclasses.replace(cut, readouts={**cut.readouts, path: of_kept.as_readout(new, smaller)})
        elif before > NEGLIGIBLE:
            unchanged.append(path)
    if unchanged:
        message = f"layers {unchanged} keep their readouts: the refit would not lower their error on held-out inputs"
        warnings.warn(message, RefitWarning, stacklevel=2)
    return cut


def order_of_calls(model: nnx.Module, batch: SplitBatch) -> list[str]:
    """Paths of the layers that the model calls, by their first call."""
    graphdef, state = nnx.split(model)
    found: dict[str, None] = {}

    def call(state: nnx.State, x: Array, lengths: Array | None) -> None:
        call_with_taps(nnx.merge(graphdef, state), lambda path, layer, u: found.setdefault(path), x, lengths)

    jax.eval_shape(call, state, batch.x, batch.lengths)
    return list(found)


def observed_sums(
    uncut: nnx.Module, masked: nnx.Module, path: str, of_kept: Regressors, batches: Sequence[SplitBatch]
) -> list[Sums]:
    """The sums of one layer, fit and held-out: regressors from the masked model, outputs from the uncut one.

    The sums of several calls of the layer add.
    """
    return of_kept.sums((*call, batch.sets) for batch in batches for call in observe(uncut, masked, path, batch))


def observe(uncut: nnx.Module, masked: nnx.Module, path: str, batch: SplitBatch) -> list[tuple[Array, Array, Array]]:
    """What each call of a layer should do: its inputs in the masked model, its outputs C x + D u in the uncut one, both
    (B, L, H), and the mask of true steps (B, L)."""
    (uncut_def, uncut_state), (masked_def, masked_state) = nnx.split(uncut), nnx.split(masked)
    return _observe((uncut_def, masked_def), path, (uncut_state, masked_state), batch.x, batch.lengths)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _observe(
    graphdefs: tuple[nnx.GraphDef, nnx.GraphDef],
    path: str,
    states: tuple[nnx.State, nnx.State],
    x: Array,
    lengths: Array | None,
) -> list[tuple[Array, Array, Array]]:
    """`observe`. XLA leaves out what lies behind the layer, because nothing of it is returned."""
    models = map(nnx.merge, graphdefs, states)
    lengths_of_rows = stack_documents(x, lengths)[1]
    return [
        (v, layer.system(u), true_steps(lengths_of_rows, u.shape[:2]))
        for (layer, u), (_, v) in zip(*(calls(model, path, x, lengths) for model in models), strict=True)
    ]


def calls(
    model: nnx.Module, path: str, x: Array, lengths: Array | None
) -> list[tuple[StateSpaceLayer, Float[Array, "B L H"]]]:
    """The layer at a path with its inputs, for each of its calls."""
    found: list[tuple[StateSpaceLayer, Array]] = []
    call_with_taps(model, lambda p, layer, u: found.append((layer, u)) if p == path else None, x, lengths)
    return found
