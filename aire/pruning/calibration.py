"""Calibration: measure the moments of every layer's states on unlabelled inputs."""

import functools
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Num
from numpy.typing import ArrayLike

from aire.models import stack_documents
from aire.pruning.moments import Moments
from aire.ssm import StateSpaceLayer, layers, map_layers
from aire.ssm.paths import path_name
from aire.utils.errors import UserError

# Maximum size of the states computed at once, in numbers: 64 MiB. The states of a bank for a batch of long sequences
# would need gigabytes.
_STATE_NUMBERS = 2**24

Batch = ArrayLike | Mapping[str, ArrayLike]  # x, or a dict with x and, for padded sequences, lengths


def calibrate(model: nnx.Module, batches: Iterable[Batch]) -> dict[str, Moments]:
    """Measure the moments of every state space layer on unlabelled inputs, in evaluation mode.

    Sums are float32 within a batch and float64 over batches. Memory holds one batch and one covariance per layer.

    Args:
        model: any module with state space layers, called as model(x), or model(x, lengths) if a batch has lengths.
        batches: inputs x, or dicts with x and lengths. Other entries, such as labels, are ignored.
    Returns:
        Moments by layer path.
    Raises:
        UserError: no batches, a batch without x, or a layer that the model does not call.
    """
    model = nnx.clone(model)
    model.eval()
    graphdef, state = nnx.split(model)
    found_layers = layers(model)
    places = {path: _places(layer) for path, layer in found_layers.items()}
    directions = {path: len(layer.reverse) for path, layer in found_layers.items()}

    @jax.jit
    def measure(state: nnx.State, x: Array, lengths: Array | None) -> dict[str, dict[str, Array]]:
        sums: dict[str, dict[str, Array]] = {}
        mask_rows = functools.partial(true_steps, stack_documents(x, lengths)[1])

        def recording(path: tuple, layer: StateSpaceLayer) -> Recording:
            return Recording(layer, places[path_name(path)], mask_rows, sums.setdefault(path_name(path), {}))

        call = map_layers(nnx.merge(graphdef, state), recording)
        call(x) if lengths is None else call(x, lengths)
        return sums

    total: dict[str, Moments] = {}
    for batch in batches:
        x, lengths = inputs(batch)
        for path, found in jax.device_get(measure(state, x, lengths)).items():
            if found:
                new = Moments(
                    steps=float(found["steps"]),
                    outer=np.asarray(found["outer"], np.float64),
                    output=float(found["output"]),
                    place=places[path],
                    directions=directions[path],
                )
                total[path] = total[path] + new if path in total else new
    if missing := places.keys() - total.keys():
        raise UserError(f"no moments of layers {sorted(missing)}: there was no batch, or the model does not call them")
    return {path: total[path] for path in places}


def inputs(batch: Batch) -> tuple[Num[Array, "..."], Int[Array, "..."] | None]:
    """x and lengths of a calibration batch. Raise UserError if it has no x."""
    if not isinstance(batch, Mapping):
        return jnp.asarray(batch), None
    if "x" not in batch:
        raise UserError(f"a calibration batch with {sorted(batch)}: expected inputs x, and lengths if padded")
    lengths = batch.get("lengths")
    return jnp.asarray(batch["x"]), None if lengths is None else jnp.asarray(lengths)


class Calibration:
    """Calibration batches in memory, with a cache of their moments for the last model.

    Args:
        batches: as for `calibrate`.
        fits: the layers that `reconstruct` has fitted, by a digest of all that they depend on. A mapping that lives on
            a disk lets a stopped reconstruction go on.
    """

    def __init__(self, batches: Iterable[Batch], fits: MutableMapping[str, Mapping[str, np.ndarray]] | None = None):
        self.batches = list(batches)
        self.fits = {} if fits is None else fits
        self._measured: tuple[nnx.Module, dict[str, Moments]] | None = None

    def moments(self, model: nnx.Module) -> dict[str, Moments]:
        """`calibrate` on the batches, cached for the last model."""
        if self._measured is None or self._measured[0] is not model:
            self._measured = model, calibrate(model, self.batches)
        return self._measured[1]


class Recording(nnx.Module):
    """A layer that accumulates the moments of its calls while a function is traced.

    Args:
        layer: the layer.
        place: as in `Moments`.
        mask_rows: maps the shape (B, L) of the inputs to a mask, 1 for true steps and 0 for padding.
        sums: the moments are added to this dict.
    """

    def __init__(self, layer: StateSpaceLayer, place: np.ndarray, mask_rows: Any, sums: dict[str, Array]):
        self.layer = layer
        self._record = functools.partial(_record, layer, place, mask_rows, sums)

    def __call__(self, u: Array, *args: Any, **options: Any) -> Array:
        y = self.layer(u, *args, **options)
        self._record(u, y)
        return y

    def __getattr__(self, name: str) -> Any:  # for models that read attributes of their layer
        return getattr(object.__getattribute__(self, "layer"), name)


def _record(
    layer: StateSpaceLayer, place: np.ndarray, mask_rows: Any, sums: dict[str, Array], u: Array, y: Array
) -> None:
    mask = mask_rows(u.shape[:2])
    new = {
        "steps": mask.sum(),
        "outer": _outer(layer, place, u, mask),
        "output": jnp.sum(mask * jnp.sum(y.astype(jnp.float32) ** 2, axis=-1)),
    }
    sums.update({name: sums[name] + value if name in sums else value for name, value in new.items()})


def _outer(
    layer: StateSpaceLayer, place: np.ndarray, u: Float[Array, "B L H"], mask: Float[Array, "B L"]
) -> Float[Array, "channels F F"]:
    """Σ z zᵀ over the true steps of a batch, a few rows at a time."""
    B, L, _ = u.shape
    channels, width = _extent(place)
    features = 2 * len(layer.reverse) * width
    if layer.n_states == 0:
        return jnp.zeros((channels, features, features))
    rows = int(np.clip(_STATE_NUMBERS // (L * features * channels), 1, B))
    pad = -B % rows  # rows without true steps
    chunks = [jnp.pad(a, [(0, pad)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, rows, *a.shape[1:]) for a in (u, mask)]

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        z = _features(layer.state_pairs(chunk[0]), place) * chunk[1].reshape(-1, 1, 1)
        return total + jnp.einsum("scf,scg->cfg", z, z, precision="highest"), None

    zero = jnp.zeros((channels, features, features), layer.D.dtype)
    return jax.lax.scan(add, zero, (chunks[0], chunks[1]))[0]


def _features(x: Float[Array, "B L R 2 n"], place: np.ndarray) -> Float[Array, "BL channels F"]:
    """z at every step, from the states."""
    B, L, R, _, n = x.shape
    channels, width = _extent(place)
    if channels == 1:
        return x.reshape(B * L, 1, -1)
    index = np.full((channels, width), n)
    index[tuple(place)] = np.arange(n)
    z = jnp.take(x.reshape(B * L, R, 2, n), index, axis=-1, mode="fill", fill_value=0)
    return jnp.moveaxis(z, 3, 1).reshape(B * L, channels, -1)


def _places(layer: StateSpaceLayer) -> Int[np.ndarray, "2 n"]:
    """The channel of each state, and its index among the states of that channel."""
    channel = np.asarray(layer.channels())
    first = np.searchsorted(channel, channel)
    return np.stack([channel, np.arange(channel.size) - first])


def _extent(place: np.ndarray) -> tuple[int, int]:
    """The number of channels up to the last with a state, and the largest number of states in a channel."""
    channel, within = place
    return int(channel.max(initial=0)) + 1, int(within.max(initial=-1)) + 1


def true_steps(
    lengths: Int[Array | np.ndarray, "..."] | None, shape: tuple[int, int]
) -> Float[Array, "{shape[0]} {shape[1]}"]:
    """1 for true steps and 0 for padding, float32."""
    if lengths is None:
        return jnp.ones(shape)
    if lengths.shape != shape[:1]:
        raise UserError(f"lengths {list(lengths.shape)} for {shape[0]} sequences: expected one for each")
    return (jnp.arange(shape[1])[None] < lengths[:, None]).astype(jnp.float32)
