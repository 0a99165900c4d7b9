"""From a model and a `Cut` to the smaller model, or to one of the same size that computes the same."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from aire.ssm import Modes, StateSpaceLayer, layers, map_layers
from aire.ssm.paths import path_name
from aire.utils.errors import UserError


class Readout(NamedTuple):
    """A layer's output map after a cut.

    Attributes:
        C: of the states that are kept, complex (directions, outputs of a channel, kept), as in `Modes`.
        D: real (H,).
    """

    C: ArrayLike
    D: ArrayLike


@dataclasses.dataclass(frozen=True)
class Cut:
    """What a method decides about a model: which states stay, and the readouts that it replaced.

    Attributes:
        keep: per layer path, bool (n_states,).
        readouts: per layer path; a layer that is not named keeps its own C and D.
    """

    keep: Mapping[str, ArrayLike]
    readouts: Mapping[str, Readout] = dataclasses.field(default_factory=dict)

    @property
    def n_states(self) -> int:
        """States that stay."""
        return sum(int(np.sum(mask)) for mask in self.keep.values())

    def arrays(self) -> dict[str, np.ndarray]:
        """All that the cut consists of, by name: what tells two cuts apart."""
        named = {path: np.asarray(mask) for path, mask in self.keep.items()}
        for path, readout in self.readouts.items():
            named |= {
                f"{path}~{name}": np.asarray(a) for name, a in readout._asdict().items()
            }  # no path has "~C" in it
        return named

    def digest(self) -> str:
        """SHA-256 of the masks and readouts."""
        return digest(self.arrays())


def digest(arrays: Mapping[str, ArrayLike]) -> str:
    """SHA-256 of named arrays, in any order of the names, as hexadecimal digits."""
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
    """The model after a cut. Its arrays are really smaller.

    The model given is not changed; arrays without a state axis are shared with it.

    Raises:
        UserError: unknown or missing layers, or a mask or readout of the wrong shape.
    """
    _check(model, cut)

    def smaller(path: str, layer: StateSpaceLayer) -> StateSpaceLayer:
        kept = layer.cut(cut.keep[path])
        return kept.with_readout(*cut.readouts[path]) if path in cut.readouts else kept

    return map_layers(model, lambda path, layer: smaller(path_name(path), layer))


def apply_masked(model: nnx.Module, cut: Cut) -> nnx.Module:
    """A model of the same size that computes what `apply` would: one compilation serves every cut of a sweep.

    Raises:
        UserError: as `apply`.
    """
    _check(model, cut)

    def masked(path: str, layer: StateSpaceLayer) -> StateSpaceLayer:
        if path not in cut.readouts:
            return layer.mask(cut.keep[path])
        C, D = cut.readouts[path]
        kept = np.flatnonzero(np.asarray(cut.keep[path]))
        own = layer.readout()
        return layer.with_readout(jnp.zeros_like(own).at[..., kept].set(jnp.asarray(C).astype(own.dtype)), D)

    return map_layers(model, lambda path, layer: masked(path_name(path), layer))


def cut(model: nnx.Module, keep: Mapping[str, ArrayLike] | Cut) -> nnx.Module:
    """`apply`, also for masks alone: per layer path, bool (n_states,), as from `select`; every layer must be named."""
    return apply(model, as_cut(keep))


def mask(model: nnx.Module, keep: Mapping[str, ArrayLike] | Cut) -> nnx.Module:
    """`apply_masked`, also for masks alone."""
    return apply_masked(model, as_cut(keep))


def as_cut(keep: Mapping[str, ArrayLike] | Cut) -> Cut:
    """A `Cut`, from one or from its masks."""
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
