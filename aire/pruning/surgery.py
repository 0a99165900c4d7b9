"""Apply a `Cut` to a model: the smaller model, or an equivalent masked model of the same size."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from aire.ssm import Modes, StateSpaceLayer, layers, map_layers
from aire.ssm.paths import path_name
from aire.utils.errors import UserError


class Readout(NamedTuple):
    """A layer's output map after a cut.

    Attributes:
        C: output matrix of the kept states, complex (R, O, kept), as in `Modes`.
        D: real (H,).
    """

    C: ArrayLike
    D: ArrayLike


@dataclasses.dataclass(frozen=True)
class Cut:
    """The decision of a method: which states to keep, and which readouts to replace.

    Attributes:
        keep: masks of kept states by layer path, bool (n,).
        readouts: new readouts by layer path. Other layers keep their C and D.
    """

    keep: Mapping[str, ArrayLike]
    readouts: Mapping[str, Readout] = dataclasses.field(default_factory=dict)

    @property
    def n_states(self) -> int:
        """Number of kept states."""
        return sum(int(np.sum(mask)) for mask in self.keep.values())

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the cut by name. They identify the cut."""
        named = {path: np.asarray(mask) for path, mask in self.keep.items()}
        for path, readout in self.readouts.items():
            # No path contains "~C" or "~D".
            named |= {f"{path}~{name}": np.asarray(a) for name, a in readout._asdict().items()}
        return named

    def digest(self) -> str:
        """SHA-256 of the masks and readouts."""
        return digest(self.arrays())


def digest(arrays: Mapping[str, ArrayLike]) -> str:
    """SHA-256 of named arrays as hexadecimal digits, independent of their order."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(array.data)
    return sha.hexdigest()


def modes(model: nnx.Module) -> dict[str, Modes]:
    """The discrete modes of every state space layer, by its path in the model."""
    return {path: layer.modes() for path, layer in layers(model).items()}


def apply(model: nnx.Module, cut: Cut) -> nnx.Module:
    """Return the model after a cut. Its arrays are smaller.

    The model is not changed. The new model shares the arrays without a state axis with it.

    Raises:
        UserError: unknown or missing layers, or a mask or readout of the wrong shape.
    """
    _check(model, cut)

    def smaller(path: str, layer: StateSpaceLayer) -> StateSpaceLayer:
        kept = layer.cut(np.asarray(cut.keep[path]))
        return kept.with_readout(*cut.readouts[path]) if path in cut.readouts else kept

    return map_layers(model, lambda path, layer: smaller(path_name(path), layer))


def apply_masked(model: nnx.Module, cut: Cut) -> nnx.Module:
    """Return a model of the same size that computes what `apply` computes. All cuts of a sweep share one compilation.

    Raises:
        UserError: as `apply`.
    """
    _check(model, cut)

    def masked(path: str, layer: StateSpaceLayer) -> StateSpaceLayer:
        if path not in cut.readouts:
            return layer.mask(np.asarray(cut.keep[path]))
        C, D = cut.readouts[path]
        kept = np.flatnonzero(np.asarray(cut.keep[path]))
        own = layer.readout()
        return layer.with_readout(jnp.zeros_like(own).at[..., kept].set(jnp.asarray(C).astype(own.dtype)), D)

    return map_layers(model, lambda path, layer: masked(path_name(path), layer))


def cut(model: nnx.Module, keep: Mapping[str, ArrayLike] | Cut) -> nnx.Module:
    """`apply`, also for plain masks: by layer path, bool (n,), as from `select`, for every layer."""
    return apply(model, as_cut(keep))


def mask(model: nnx.Module, keep: Mapping[str, ArrayLike] | Cut) -> nnx.Module:
    """`apply_masked`, also for plain masks."""
    return apply_masked(model, as_cut(keep))


def as_cut(keep: Mapping[str, ArrayLike] | Cut) -> Cut:
    """Convert masks to a `Cut`. A `Cut` is returned unchanged."""
    return keep if isinstance(keep, Cut) else Cut(keep)


def _check(model: nnx.Module, cut: Cut) -> None:
    found = layers(model)
    if found.keys() != cut.keep.keys():
        raise UserError(f"masks for layers {sorted(cut.keep)}: expected one for each of {sorted(found)}")
    if unknown := cut.readouts.keys() - found.keys():
        raise UserError(f"readouts for unknown layers {sorted(unknown)}: expected some of {sorted(found)}")
    for path, layer in found.items():
        mask, n = jnp.asarray(cut.keep[path]), layer.n_states
        if mask.shape != (n,) or mask.dtype != np.bool_:
            raise UserError(f"mask of layer {path!r} is {mask.dtype}{list(mask.shape)}: expected bool[{n}]")
        if path in cut.readouts:
            _check_readout(path, cut.readouts[path], layer, int(mask.sum()))


def _check_readout(path: str, readout: Readout, layer: StateSpaceLayer, kept: int) -> None:
    expected = (*layer.readout().shape[:2], kept), layer.D.shape
    given = np.shape(readout.C), np.shape(readout.D)
    if given != expected:
        raise UserError(f"readout of layer {path!r} has C, D of shapes {given}: expected {expected}")
    if not all(np.isfinite(a).all() for a in readout):
        raise UserError(f"readout of layer {path!r} holds NaN or infinite values")
