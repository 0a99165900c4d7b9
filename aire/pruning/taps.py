"""Taps: see the inputs of a model's state space layers while the model is called."""

import functools
from collections.abc import Callable
from typing import Any

from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Array

from aire.ssm import StateSpaceLayer, map_layers
from aire.ssm.paths import path_name

# note(path of the layer, layer, inputs (B, L, H))
Note = Callable[[str, StateSpaceLayer, Array], None]


class Tap(nnx.Module):
    """A layer that shows its inputs before each call."""

    def __init__(self, layer: StateSpaceLayer, note: Callable[[StateSpaceLayer, Array], None]):
        self.layer = layer
        self._note = functools.partial(note)

    def __call__(self, u: Array, *args: Any, **options: Any) -> Array:
        self._note(self.layer, u)
        return self.layer(u, *args, **options)

    def __getattr__(self, name: str) -> Any:  # for models that read attributes of their layer
        return getattr(object.__getattribute__(self, "layer"), name)


def call_with_taps(model: nnx.Module, note: Note, x: ArrayLike, lengths: ArrayLike | None) -> None:
    """Call a model as model(x), or as model(x, lengths), and note every call of its layers, in order."""
    tapped = map_layers(model, lambda path, layer: Tap(layer, functools.partial(note, path_name(path))))
    tapped(x) if lengths is None else tapped(x, lengths)
