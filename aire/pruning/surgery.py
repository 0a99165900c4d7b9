"""From a model and keep masks to a smaller model. Layers are found by walking the module graph."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from aire.errors import UserError
from aire.models import ModelConfig
from aire.pruning.selection import natural_order
from aire.ssm import Modes


@runtime_checkable
class StateSpaceLayer(Protocol):
    """What a module gives to be pruned; any class with these methods takes part."""

    n_states: int

    def modes(self) -> Modes: ...
    def cut(self, keep: Array) -> nnx.Module: ...
    def mask(self, keep: Array) -> nnx.Module: ...


def layers(model: nnx.Module) -> dict[str, StateSpaceLayer]:
    """State space layers by path ("" where the model is itself one), in path order, numbers by value."""
    found = {"/".join(map(str, path)): m for path, m in nnx.iter_modules(model) if isinstance(m, StateSpaceLayer)}
    if not found:
        raise UserError(f"{type(model).__name__} contains no state space layer: nothing to prune")
    return {path: found[path] for path in sorted(found, key=natural_order)}


def modes(model: nnx.Module) -> dict[str, Modes]:
    """The discrete modes of every state space layer, by its path in the model."""
    return {path: layer.modes() for path, layer in layers(model).items()}


def cut(model: nnx.Module, keep: Mapping[str, Array]) -> nnx.Module:
    """A model without the states where `keep` is false: its arrays are smaller and its config says so.

    The model given is not changed; arrays without a state axis are shared with it.

    Args:
        model: any module with state space layers.
        keep: per layer path, bool (n_states,), as from `select`; every layer must be named.
    Raises:
        UserError: unknown or missing layers, or a mask of the wrong length.
    """
    return _replace_layers(model, keep, lambda layer, mask: layer.cut(mask))


def mask(model: nnx.Module, keep: Mapping[str, Array]) -> nnx.Module:
    """A model of the same size that computes what `cut` would: one compilation serves every mask of a sweep."""
    return _replace_layers(model, keep, lambda layer, keep: layer.mask(keep))


def _replace_layers(
    model: nnx.Module, keep: Mapping[str, Array], replace: Callable[[StateSpaceLayer, Array], nnx.Module]
) -> nnx.Module:
    found = layers(model)
    _check_keep(found, keep)
    new = {path: replace(layer, keep[path]) for path, layer in found.items()}
    if "" in new:
        return new[""]
    model = nnx.clone(model)
    for path, layer in new.items():
        *parents, name = path.split("/")
        parent = model
        for part in parents:
            parent = _child(parent, part)
        if name.isdigit():
            parent[int(name)] = layer
        else:
            setattr(parent, name, layer)
    _update_config(model, tuple(layer.n_states for layer in new.values()))
    return model


def _child(module: nnx.Module, name: str) -> nnx.Module:
    return module[int(name)] if name.isdigit() else getattr(module, name)


def _update_config(model: nnx.Module, state_sizes: tuple[int, ...]) -> None:
    if isinstance(getattr(model, "config", None), ModelConfig):
        model.config = dataclasses.replace(model.config, state_sizes=state_sizes)


def _check_keep(found: Mapping[str, StateSpaceLayer], keep: Mapping[str, Array]) -> None:
    if found.keys() != keep.keys():
        raise UserError(f"masks for layers {sorted(keep)}: expected one for each of {sorted(found)}")
    for path, layer in found.items():
        shape, dtype = np.shape(keep[path]), jnp.asarray(keep[path]).dtype
        if shape != (layer.n_states,) or dtype != np.bool_:
            raise UserError(f"mask of layer {path!r} is {dtype}{list(shape)}: expected bool[{layer.n_states}]")
