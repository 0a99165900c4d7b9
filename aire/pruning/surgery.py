"""Apply a `Cut` to a model: the smaller model, or an equivalent masked model of the same size."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.typing import ArrayLike

from aire.pruning.moments import AnyMoments
from aire.ssm import Modes, StateSpaceLayer, layers, map_layers
from aire.ssm.paths import path_name
from aire.utils import digests
from aire.utils.arguments import instance, is_traced, mapping, numbers
from aire.utils.errors import UserError

# Roles of the parameters that a cut may replace besides the readout.
FITTED_ROLES = ("eigenvalue", "step", "input")


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
    """The decision of a method: which states to keep, and which arrays of their layers to replace.

    Attributes:
        keep: masks of kept states by layer path, bool (n,).
        readouts: new readouts by layer path. Other layers keep their C and D.
        fitted: other parameters that were fitted anew, by layer path and name, such as the eigenvalues. They have the
            shapes of the cut layer. All other parameters keep their values.
    """

    keep: Mapping[str, ArrayLike]
    readouts: Mapping[str, Readout] = dataclasses.field(default_factory=dict)
    fitted: Mapping[str, Mapping[str, ArrayLike]] = dataclasses.field(default_factory=dict)

    @property
    def n_states(self) -> int:
        """Number of kept states."""
        return sum(int(np.sum(mask)) for mask in self.keep.values())

    @property
    def is_whole(self) -> bool:
        """Whether every state is kept and no other parameter fitted, so that there is nothing to make up for."""
        return all(np.all(mask) for mask in self.keep.values()) and not self.fitted

    def changed(self, path: str) -> str:
        """Say how a layer got the parameters of its kept states: "fitted", "readout refitted" or "as before"."""
        return "fitted" if path in self.fitted else "readout refitted" if path in self.readouts else "as before"

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays of the cut by name. They identify the cut."""
        named = {path: np.asarray(mask) for path, mask in self.keep.items()}
        for path, readout in self.readouts.items():
            # No path contains "~C" or "~D".
            named |= {f"{path}~{name}": np.asarray(a) for name, a in readout._asdict().items()}
        for path, arrays in self.fitted.items():
            named |= {f"{path}~fitted/{name}": np.asarray(a) for name, a in arrays.items()}
        return named

    def digest(self) -> str:
        """SHA-256 of the masks and replaced arrays."""
        return digests.of_arrays(self.arrays())


def modes(model: nnx.Module, moments: Mapping[str, AnyMoments] | None = None) -> dict[str, Modes]:
    """The discrete modes of every state space layer, by its path in the model.

    Args:
        model: any module with state space layers.
        moments: from `aire.calibrate`. The modes of selective layers are then those on average over its inputs. Other
            layers do not need moments.
    """
    found = {path: layer.modes() for path, layer in layers(model).items()}
    return {path: moments[path].modes(m) if moments else m for path, m in found.items()}


def apply(model: nnx.Module, cut: Cut) -> nnx.Module:
    """Return the model after a cut. Its arrays are smaller.

    The model is not changed. The new model shares the arrays without a state axis with it.

    Raises:
        UserError: unknown or missing layers, or a mask or readout of the wrong shape.
    """
    _check(model, cut)

    def smaller(path: str, layer: StateSpaceLayer) -> StateSpaceLayer:
        kept = layer.cut(np.asarray(cut.keep[path])).with_parameters(cut.fitted.get(path, {}))
        return kept.with_readout(*cut.readouts[path]) if path in cut.readouts else kept

    return map_layers(model, lambda path, layer: smaller(path_name(path), layer))


def apply_masked(model: nnx.Module, cut: Cut) -> nnx.Module:
    """Return a model of the same size that computes what `apply` computes. All cuts of a sweep share one compilation.

    Raises:
        UserError: as `apply`.
    """
    _check(model, cut)

    def masked(path: str, layer: StateSpaceLayer) -> StateSpaceLayer:
        keep = np.asarray(cut.keep[path])
        layer = layer.mask(keep).with_parameters(spread(layer, keep, cut.fitted.get(path, {})))
        if path not in cut.readouts:
            return layer
        C, D = cut.readouts[path]
        own = layer.readout()
        kept = np.flatnonzero(keep)
        return layer.with_readout(jnp.zeros_like(own).at[..., kept].set(jnp.asarray(C).astype(own.dtype)), D)

    return map_layers(model, lambda path, layer: masked(path_name(path), layer))


def spread(layer: StateSpaceLayer, keep: np.ndarray, fitted: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
    """Parameters of the cut layer, in the shapes of the uncut one. Cut states keep their old values."""
    spread = {}
    for name, array in fitted.items():
        spread[name] = np.array(array)
        if name in layer.STATE_AXIS:
            spread[name] = np.array(getattr(layer, name)[...])
            axis = layer.STATE_AXIS[name]
            np.moveaxis(spread[name], axis, 0)[keep] = np.moveaxis(np.asarray(array), axis, 0)
    return spread


def cut(model: nnx.Module, keep: Mapping[str, ArrayLike] | Cut) -> nnx.Module:
    """`apply`, also for plain masks: by layer path, bool (n,), as from `select`, for every layer."""
    return apply(model, as_cut(keep))


def mask(model: nnx.Module, keep: Mapping[str, ArrayLike] | Cut) -> nnx.Module:
    """`apply_masked`, also for plain masks."""
    return apply_masked(model, as_cut(keep))


def as_cut(keep: Mapping[str, ArrayLike] | Cut) -> Cut:
    """Convert masks to a `Cut`. A `Cut` is returned unchanged."""
    if not isinstance(keep, Cut):
        mapping("keep", keep, "from layer paths to masks, or a Cut")
    return keep if isinstance(keep, Cut) else Cut(keep)


def _check(model: nnx.Module, cut: Cut) -> None:
    found = layers(model)
    instance("cut", cut, Cut, "an aire.Cut")
    mapping("keep", cut.keep, "from layer paths to masks")
    mapping("readouts", cut.readouts, "from layer paths to an aire.Readout")
    mapping("fitted", cut.fitted, "from layer paths to arrays by name")
    if found.keys() != cut.keep.keys():
        raise UserError(f"masks for layers {sorted(cut.keep)}: expected one for each of {sorted(found)}")
    if unknown := (cut.readouts.keys() | cut.fitted.keys()) - found.keys():
        raise UserError(f"replaced arrays for unknown layers {sorted(unknown)}: expected some of {sorted(found)}")
    for path, layer in found.items():
        n = layer.n_states
        mask = numbers(f"mask of layer {path!r}", cut.keep[path], kinds="fiub", expected=f"bool[{n}]")
        if is_traced(mask):
            raise UserError(
                f"mask of layer {path!r} is traced: a cut decides the shapes, so make it outside of jax.jit"
            )
        if mask.shape != (n,) or mask.dtype != np.bool_:
            raise UserError(f"mask of layer {path!r} is {mask.dtype}{list(mask.shape)}: expected bool[{n}]")
        if path in cut.readouts:
            _check_readout(path, cut.readouts[path], layer, int(mask.sum()))
        _check_fitted(path, cut.fitted.get(path, {}), layer, int(mask.sum()))


def _check_readout(path: str, readout: Readout, layer: StateSpaceLayer, kept: int) -> None:
    instance(f"readout of layer {path!r}", readout, Readout, "an aire.Readout")
    for name, kinds in (("C", "fc"), ("D", "f")):
        numbers(f"{name} of the readout of layer {path!r}", getattr(readout, name), kinds=kinds)
    expected = (*layer.readout().shape[:2], kept), layer.D.shape
    given = np.shape(readout.C), np.shape(readout.D)
    if given != expected:
        raise UserError(f"readout of layer {path!r} has C, D of shapes {given}: expected {expected}")
    if not all(np.isfinite(a).all() for a in readout):
        raise UserError(f"readout of layer {path!r} holds NaN or infinite values")


def _check_fitted(path: str, fitted: Mapping[str, ArrayLike], layer: StateSpaceLayer, kept: int) -> None:
    mapping(f"fitted arrays of layer {path!r}", fitted, "from names of parameters to arrays")
    for name, array in fitted.items():
        array = numbers(f"fitted {name!r} of layer {path!r}", array, kinds="f", expected="floats")
        if layer.ROLES.get(name) not in FITTED_ROLES:
            expected = [n for n, role in layer.ROLES.items() if role in FITTED_ROLES]
            raise UserError(f"fitted parameter {name!r} of layer {path!r}: expected one of {expected}")
        shape = list(getattr(layer, name).shape)
        if name in layer.STATE_AXIS:
            shape[layer.STATE_AXIS[name]] = kept
        if list(np.shape(array)) != shape or not np.isfinite(array).all():
            raise UserError(f"fitted {name!r} of layer {path!r}: expected finite numbers of shape {shape}")
