"""S5 and LRU layers beside other JAX implementations, from clones of discretax and CompreSSM that the user names."""

import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from aire import convert
from aire.ssm import S5
from aire.utils.errors import UserError
from experiments.speed.side_by_side import clone_of, compare, relative_difference, side_by_side
from experiments.speed.speed_layers import PASSES, noise
from experiments.speed.table import Table
from experiments.timing import Prepared, compiled

Layer = Any  # of Equinox; it maps one sequence (L, H)
Convert = Callable[[Mapping[str, np.ndarray]], nnx.Module]


def discretax_table(config: ConfigDict) -> Table:
    """Compare our S5 layer with discretax's: outputs, and all gradients.

    Raises:
        UserError: `config.reference_discretax` is not a clone of discretax, or Equinox or einops is not installed.
    """
    url, file = "https://github.com/camail-official/discretax", "src/discretax/sequence_mixers/s5.py"
    folder = clone_of(url, config, "reference_discretax", file)
    _discretax(folder)  # what is missing is said here, not in a process
    return _compare(config, ("S5 layer", "discretax"), folder, config.s5_layers, discretax_numbers)


def lru_table(config: ConfigDict) -> Table:
    """Compare our LRU layer with CompreSSM's: outputs, and all gradients.

    Raises:
        UserError: `config.reference_lru` is not a clone of CompreSSM, or Equinox is not installed.
    """
    url = "https://github.com/camail-official/compressm"
    folder = clone_of(url, config, "reference_lru", "compressm/models/lru.py")
    _compressm(folder)
    return _compare(config, ("LRU layer", "CompreSSM"), folder, config.lru_layers, lru_numbers)


def discretax_numbers(folder: str, shape: Sequence[int], name: str, ours_first: bool, repetitions: int) -> list[float]:
    """Measure a pass of both S5 layers in this process."""
    d_model, states, *_ = shape
    key = jax.random.key(0)
    layer = _discretax(folder)(d_model, key, state_dim=2 * states)  # it counts both states of a pair

    def to_ours(arrays: Mapping[str, np.ndarray]) -> S5:
        return convert.s5_layer(
            arrays,
            conj_sym=layer.conj_sym,
            bidirectional=False,
            discretization=layer.discretization,
            clip_eigs=layer.clip_eigs,
            step_rescale=layer.step_rescale,
        )

    return _numbers(layer, lambda layer, u: layer(u, key), to_ours, shape, name, ours_first, repetitions)


def lru_numbers(folder: str, shape: Sequence[int], name: str, ours_first: bool, repetitions: int) -> list[float]:
    """Measure a pass of both LRU layers in this process."""
    d_model, states, *_ = shape
    layer = _compressm(folder)(states, d_model, key=jax.random.key(0))
    return _numbers(layer, lambda layer, u: layer(u), convert.lru_layer, shape, name, ours_first, repetitions)


def _compare(
    config: ConfigDict,
    titles: tuple[str, str],
    folder: str,
    shapes: Sequence[Sequence[int]],
    measure: Callable[..., list[float]],
) -> Table:
    rows = {f"H {H}, {states} states, L {L}, B {B}": (folder, (H, states, L, B)) for H, states, L, B in shapes}
    return compare(config, (*titles, "agree to, relative"), rows, PASSES, measure)


def _discretax(folder: str) -> Callable[..., Layer]:
    sys.path.insert(0, str(Path(folder) / "src"))
    try:
        from discretax.sequence_mixers.s5 import S5SequenceMixer
    except ImportError as error:
        raise _missing("discretax", "equinox einops", error) from None
    return S5SequenceMixer


def _compressm(folder: str) -> Callable[..., Layer]:
    """Import its layer. Its package imports what reads its data sets, so an empty package stands in for it."""
    package = types.ModuleType("compressm")
    package.__path__ = [str(Path(folder) / "compressm")]
    sys.modules["compressm"] = package
    try:
        from compressm.models.lru import LRULayer
    except ImportError as error:
        raise _missing("CompreSSM", "equinox", error) from None
    return LRULayer


def _missing(name: str, packages: str, error: ImportError) -> UserError:
    return UserError(f"{name} needs packages: pip install {packages} ({error})")


def _numbers(
    layer: Layer,
    apply: Callable[[Layer, jax.Array], jax.Array],
    to_ours: Convert,
    shape: Sequence[int],
    name: str,
    ours_first: bool,
    repetitions: int,
) -> list[float]:
    """Measure a pass of their layer and of ours with the same parameters and input."""
    d_model, _, length, batch = shape
    ours = to_ours(_arrays(layer))

    def difference(a: Any, b: Any) -> float:
        """A layer with gradients for parameters converts as well, because that only moves arrays."""
        if name == "forward":
            return relative_difference(a, b)
        state = nnx.state(to_ours(_arrays(a[0])), nnx.Param)
        return relative_difference(*((nnx.to_pure_dict(params), u) for params, u in ((state, a[1]), b)))

    return side_by_side(
        lambda: _theirs(layer, apply, name, noise(batch, length, d_model)),
        lambda: PASSES[name](ours, batch, length),
        difference,
        ours_first,
        repetitions,
    )


def _theirs(layer: Layer, apply: Callable[[Layer, jax.Array], jax.Array], name: str, u: jax.Array) -> Prepared:
    """Compile a pass of their layer on a batch."""
    import equinox as eqx

    params, rest = eqx.partition(layer, eqx.is_inexact_array)

    def forward(params: Layer, u: jax.Array) -> jax.Array:
        whole = eqx.combine(params, rest)
        return jax.vmap(lambda u: apply(whole, u))(u)

    def loss(params: Layer, u: jax.Array) -> jax.Array:
        return jnp.sum(forward(params, u) ** 2)

    run = compiled(forward if name == "forward" else jax.grad(loss, argnums=(0, 1)), params, u)
    return run, lambda: run(params, u)


def _arrays(layer: Layer) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in vars(layer).items() if isinstance(value, jax.Array)}
