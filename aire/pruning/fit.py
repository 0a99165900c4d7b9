"""Fit a layer's own parameters to given outputs, by gradient: the inner step of `reconstruct`."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from aire.ssm import StateSpaceLayer


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """How `reconstruct` fits a layer.

    Attributes:
        steps: gradient steps for each layer.
        batch_size: sequences of a step.
        lr: learning rate of Adam at the first step. It falls to zero along a cosine.
        seed: seed of the order of the sequences.
    """

    steps: int = 250
    batch_size: int = 32
    lr: float = 0.01
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class LayerData:
    """What a layer should do: its inputs in the cut model, and the uncut layer's outputs on the same sequences.

    Attributes:
        u: inputs.
        y: outputs C x + D u of the uncut layer in the uncut model.
        mask: 1 for true steps and 0 for padding.
    """

    u: Float[np.ndarray, "S L H"]
    y: Float[np.ndarray, "S L H"]
    mask: Float[np.ndarray, "S L"]

    def batches(self, size: int) -> "LayerData":
        """Groups of `size` sequences, along a new first axis. The last group is filled with empty sequences."""
        size = min(size, len(self.u))
        fill = -len(self.u) % size

        def grouped(a: np.ndarray) -> np.ndarray:
            return np.pad(a, [(0, fill)] + [(0, 0)] * (a.ndim - 1)).reshape(-1, size, *a.shape[1:])

        return LayerData(grouped(self.u), grouped(self.y), grouped(self.mask))


def fit_layer(
    layer: StateSpaceLayer,
    keep: Bool[np.ndarray, "n"],
    data: LayerData,
    config: FitConfig,
    progress: Callable[[int], None] = lambda steps: None,
) -> StateSpaceLayer:
    """Fit all parameters of the kept states, and D, to the mean squared error of the outputs.

    The layer keeps its size: cut states have a zero readout and stay as they are. So all layers of a size, and all
    cuts of a sweep, share one compilation.

    Args:
        layer: masked, so that only kept states reach the output.
        keep: the kept states.
        data: inputs and outputs.
        config: steps, rate and seed.
        progress: called with the number of steps done since the last call.
    Returns:
        The fitted layer, of the same size.
    """
    groups = data.batches(config.batch_size)
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)  # type: ignore[misc]
    arrays = tuple(jnp.asarray(a) for a in (groups.u, groups.y, groups.mask))
    optimizer = _optimizer(config.lr, config.steps)
    state = params, optimizer.init(params)
    rng = np.random.default_rng(config.seed)
    rounds = -(-config.steps // len(groups.u))
    order = np.concatenate([rng.permutation(len(groups.u)) for _ in range(rounds)])[: config.steps]
    mask = _update_masks(layer, np.asarray(keep))
    for part in np.array_split(order, -(-len(order) // 50)):
        state = _steps(graphdef, optimizer, state, rest, mask, arrays, jnp.asarray(part))
        jax.block_until_ready(state)
        progress(len(part))
    return nnx.merge(graphdef, state[0], rest)


@functools.cache
def _optimizer(lr: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(lr, steps))


def fitted_names(layer: StateSpaceLayer) -> list[str]:
    """The parameters that a fit may change: those with a role in the state space, and the readout."""
    return list(dict.fromkeys((*layer.ROLES, *layer.READOUT)))


def _update_masks(layer: StateSpaceLayer, keep: Bool[np.ndarray, "n"]) -> dict[str, Array]:
    """By parameter: 1 where it may change. Cut states, and parameters that are not the state space's, may not."""
    masks = {}
    for name in fitted_names(layer):
        array, axis = getattr(layer, name), layer.STATE_AXIS.get(name)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)]
        masks[name] = jnp.ones([1] * array.ndim) if axis is None else jnp.asarray(keep, jnp.float32).reshape(shape)
    return masks


@functools.partial(jax.jit, static_argnums=(0, 1))
def _steps(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    state: tuple,
    rest: nnx.State,
    masks: dict[str, Array],
    arrays: tuple[Array, Array, Array],
    order: Int[Array, "steps"],
) -> tuple:
    """Steps of Adam on the groups of `order`."""
    _, y, mask = arrays
    energy = jnp.sum(mask * jnp.sum(y**2, axis=-1)) / len(y)

    def error(params: nnx.State, i: Array) -> Array:
        u, y, mask = (a[i] for a in arrays)
        residual = nnx.merge(graphdef, params, rest).system(u) - y
        return jnp.sum(mask * jnp.sum(residual**2, axis=-1)) / energy

    def step(state: tuple, i: Array) -> tuple[tuple, None]:
        params, moments = state
        gradient = jax.grad(error)(params, i)
        updates, moments = optimizer.update(_masked(gradient, masks), moments)
        return (optax.apply_updates(params, _masked(updates, masks)), moments), None

    return jax.lax.scan(step, state, order)[0]


def _masked(tree: nnx.State, masks: dict[str, Array]) -> nnx.State:
    """Zero outside of the masks. Parameters without a mask are zero."""

    def masked(path: tuple, array: Array) -> Array:
        return array * masks[path[0].key] if path[0].key in masks else jnp.zeros_like(array)

    return jax.tree_util.tree_map_with_path(masked, tree)
