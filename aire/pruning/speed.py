"""The time that a model takes before and after a cut."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from numpy.typing import ArrayLike

from aire.pruning.taps import call_with_taps
from aire.ssm import layers
from aire.utils.timing import interleaved


def milliseconds(
    uncut: nnx.Module, cut: nnx.Module, x: ArrayLike, lengths: ArrayLike | None = None
) -> dict[str, tuple[float, float]]:
    """Measure both models side by side on inputs x (B, …): medians of 15 calls, compilation excluded.

    Returns:
        Before and after the cut: "a sequence", the forward pass of the batch divided by its size; and "a token, all
        layers", one `step` of all layers for one sequence, left out if a layer has no step, as in two directions.
    """
    x, lengths = jnp.asarray(x), None if lengths is None else jnp.asarray(lengths)
    before, after = _in_turns([_forward(model, x, lengths) for model in (uncut, cut)])
    found = {"a sequence": (before / len(x), after / len(x))}
    if all(len(layer.reverse) == 1 and hasattr(layer, "step") for layer in layers(uncut).values()):
        features = _features(uncut, x, lengths)
        found["a token, all layers"] = _in_turns([_steps(model, features) for model in (uncut, cut)])
    return found


def _in_turns(calls: Sequence[Callable[[], object]]) -> tuple[float, float]:
    before, after = interleaved({str(i): call for i, call in enumerate(calls)}).values()
    return 1e3 * before, 1e3 * after


def _forward(model: nnx.Module, x: jax.Array, lengths: jax.Array | None) -> Callable[[], object]:
    model = nnx.clone(model)
    model.eval()
    graphdef, state = nnx.split(model)

    @jax.jit
    def call(state: nnx.State, x: jax.Array, lengths: jax.Array | None) -> object:
        called = nnx.merge(graphdef, state)
        return called(x) if lengths is None else called(x, lengths)

    return lambda: call(state, x, lengths)


def _features(model: nnx.Module, x: jax.Array, lengths: jax.Array | None) -> dict[str, int]:
    """The number of features that each layer is called with."""
    found: dict[str, int] = {}
    model = nnx.clone(model)
    model.eval()
    graphdef, state = nnx.split(model)

    def call(state: nnx.State) -> None:
        call_with_taps(nnx.merge(graphdef, state), lambda path, _, u: found.update({path: u.shape[-1]}), x, lengths)

    jax.eval_shape(call, state)
    return found


def _steps(model: nnx.Module, features: dict[str, int]) -> Callable[[], object]:
    found: dict[str, Any] = dict(layers(model))
    split = {path: nnx.split(layer) for path, layer in found.items()}
    arrays = {path: state for path, (_, state) in split.items()}
    states = {path: layer.initial_state(1) for path, layer in found.items()}
    u = {path: jnp.ones((1, features[path])) for path in found}

    @jax.jit
    def call(arrays: dict, u: dict, states: dict) -> dict:
        called: dict[str, Any] = {path: nnx.merge(split[path][0], arrays[path]) for path in u}
        return {path: layer.step(u[path], states[path]) for path, layer in called.items()}

    return lambda: call(arrays, u, states)
