"""Calibration: measure the moments of every layer's states on unlabelled inputs."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num
from numpy.typing import ArrayLike

from aire.models import stack_documents
from aire.pruning import features, gram, selective
from aire.pruning.moments import AnyMoments, GateMoments, Moments
from aire.ssm import StateSpaceLayer, layers, map_layers
from aire.ssm.paths import path_name
from aire.utils import devices
from aire.utils.arguments import describe, is_traced, numbers
from aire.utils.errors import UserError

Batch = ArrayLike | Mapping[str, ArrayLike]  # x, or a dict with x and, for padded sequences, lengths


def calibrate(model: nnx.Module, batches: Iterable[Batch], *, covariance: bool = False) -> dict[str, AnyMoments]:
    """Measure the moments of every state space layer on unlabelled inputs, in evaluation mode.

    Several devices share the sequences of each batch if these divide over them. Sums are float32 within a batch and
    float64 over batches. Memory holds one batch and one covariance per layer.

    Args:
        model: any module with state space layers, called as model(x), or model(x, lengths) if a batch has lengths.
        batches: inputs x, or dicts with x and lengths. Other entries, such as labels, are ignored.
        covariance: measure the covariance of the features of selective layers, too. It takes several times as long as
            their other moments, and N⁴ numbers of memory. Other layers have it anyway.
    Returns:
        Moments by layer path.
    Raises:
        UserError: no batches, a batch without x or that the model refuses, or a layer that the model does not call.
    """
    layers(model)  # before the copy, which fails on what is no module
    model = nnx.clone(model)
    model.eval()
    graphdef, state = nnx.split(model)
    state = devices.place(state)
    found_layers = layers(model)
    place = {path: features.places(layer.channels()) for path, layer in found_layers.items()}
    slots = devices.place({path: jnp.asarray(features.slots(p)) for path, p in place.items()})

    total: dict[str, dict[str, np.ndarray]] = {}
    for batch in each_batch(batches):
        x, lengths = inputs(batch)
        if hasattr(model, "check_inputs"):
            model.check_inputs(x, lengths)  # here, because a compiled call cannot check values
        for path, found in jax.device_get(
            _measure(graphdef, covariance, state, slots, *devices.divide(x, lengths))
        ).items():
            if found:
                old = total.get(path, {})
                total[path] = {name: old.get(name, 0) + np.asarray(a, np.float64) for name, a in found.items()}
    if missing := found_layers.keys() - total.keys():
        raise UserError(f"no moments of layers {sorted(missing)}: there was no batch, or the model does not call them")
    return {path: _moments(layer, place[path], total[path]) for path, layer in found_layers.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _measure(
    graphdef: nnx.GraphDef,
    covariance: bool,
    state: nnx.State,
    slots: dict[str, Int[Array, "channels m"]],
    x: Array,
    lengths: Array | None,
) -> dict[str, dict[str, Array]]:
    """The sums of one batch by layer path. Models of the same structure share a compilation."""

    def sums(x: Array, lengths: Array | None) -> dict[str, dict[str, Array]]:
        found: dict[str, dict[str, Array]] = {path: {} for path in slots}
        stacked = stack_documents(x, lengths)[1]

        def recording(path: tuple, layer: StateSpaceLayer) -> Recording:
            name = path_name(path)
            return Recording(layer, functools.partial(_record, layer, covariance, slots[name], stacked, found[name]))

        call = map_layers(nnx.merge(graphdef, state), recording)
        call(x) if lengths is None else call(x, lengths)
        return found

    return devices.sum_over_rows(sums, x, lengths)


def _record(
    layer: StateSpaceLayer,
    covariance: bool,
    index: Int[Array, "channels m"],
    lengths: Array | np.ndarray | None,
    found: dict[str, Array],
    u: Array,
    y: Array,
) -> None:
    """Add the sums of one call to those found so far."""
    B, L, _ = u.shape
    mask = true_steps(lengths, (B, L))
    if layer.SELECTIVE:
        new = layer.gate_sums(u, mask)
        if covariance:
            new["outer"] = selective.sums(layer, index[0], u, mask[None])["zz"][0]
    else:
        new = gram.moments(layer, index, u, None if lengths is None else jnp.clip(lengths, 0, L))
    new |= {"steps": mask.sum(), "output": jnp.sum(mask * jnp.sum(y.astype(jnp.float32) ** 2, axis=-1))}
    found.update({name: found[name] + value if name in found else value for name, value in new.items()})


def _moments(layer: StateSpaceLayer, place: features.Place, found: dict[str, np.ndarray]) -> AnyMoments:
    if layer.SELECTIVE:
        gates = {name: found[name] for name in found.keys() - {"steps", "output"}}
        return GateMoments(float(found["steps"]), float(found["output"]), **gates)
    return Moments(
        steps=float(found["steps"]),
        outer=gram.expand_moments(layer, features.slots(place), found),
        output=float(found["output"]),
        place=place,
        directions=len(layer.reverse),
    )


def each_batch(batches: Iterable[Batch]) -> Iterator[Batch]:
    """Iterate over batches. Raise UserError if they are no iterable of several batches."""
    if isinstance(batches, str | bytes | Mapping | np.ndarray | Array) or not isinstance(batches, Iterable):
        raise UserError(f"calibration batches: expected a list of arrays x or dicts with x, not {describe(batches)}")
    return iter(batches)


def inputs(batch: Batch) -> tuple[Num[Array, "..."], Int[Array, "..."] | None]:
    """x and lengths of a calibration batch. Raise UserError if it has no x, or if they are no arrays of numbers."""
    if not isinstance(batch, Mapping):
        return _known(numbers("a calibration batch", batch)), None
    if "x" not in batch:
        raise UserError(f"a calibration batch with {list(batch)}: expected inputs x, and lengths if padded")
    x, lengths = _known(numbers("x of a calibration batch", batch["x"])), batch.get("lengths")
    if lengths is None:
        return x, None
    return x, _known(numbers("lengths of a calibration batch", lengths, kinds="iu", expected="integers"))


def _known(array: Array | np.ndarray) -> Array:
    if is_traced(array):
        raise UserError("a calibration under jax.jit, where the inputs have no values: call it outside")
    return jnp.asarray(array)


class Calibration:
    """Calibration batches in memory, with a cache of their moments for the last model.

    Args:
        batches: as for `calibrate`.
        fits: the layers that `reconstruct` has fitted, by a digest of all that they depend on. A mapping that lives on
            a disk lets a stopped reconstruction go on.
    """

    def __init__(self, batches: Iterable[Batch], fits: MutableMapping[str, Mapping[str, np.ndarray]] | None = None):
        self.batches = list(each_batch(batches))
        self.fits = {} if fits is None else fits
        self._measured: tuple[nnx.Module, bool, dict[str, AnyMoments]] | None = None

    def moments(self, model: nnx.Module, *, covariance: bool = False) -> dict[str, AnyMoments]:
        """`calibrate` on the batches, cached for the last model. With covariance if it was ever asked for."""
        known, has_covariance, found = self._measured or (None, False, {})
        if known is not model or (covariance and not has_covariance):
            found = calibrate(model, self.batches, covariance=covariance)
            self._measured = model, covariance, found
        return found


class Recording(nnx.Module):
    """A layer that calls `record(u, y)` with its inputs and its outputs C x + D u while a function is traced."""

    def __init__(self, layer: StateSpaceLayer, record: Callable[[Array, Array], None]):
        self.layer = layer
        self._record = record

    def __call__(self, u: Array, *args: Any, **options: Any) -> Array:
        y = self.layer(u, *args, **options)
        # Without an output stage, y is the output of the state space. XLA would not see that two scans are one.
        has_stage = type(self.layer).system is not StateSpaceLayer.system
        self._record(u, self.layer.system(u) if has_stage else y)
        return y

    def __getattr__(self, name: str) -> Any:  # for models that read attributes of their layer
        return getattr(object.__getattribute__(self, "layer"), name)


def true_steps(
    lengths: Int[Array | np.ndarray, "..."] | None, shape: tuple[int, int]
) -> Float[Array, "{shape[0]} {shape[1]}"]:
    """1 for true steps and 0 for padding, float32."""
    if lengths is None:
        return jnp.ones(shape)
    if lengths.shape != shape[:1]:
        raise UserError(f"lengths {list(lengths.shape)} for {shape[0]} sequences: expected one for each")
    return (jnp.arange(shape[1])[None] < lengths[:, None]).astype(jnp.float32)
