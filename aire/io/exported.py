"""Export of a model's computation and weights as StableHLO, which JAX alone runs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from aire.models import Classifier, streaming
from aire.utils.errors import UserError
from aire.utils.files import write_bytes
from aire.utils.traced import not_required

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export(model: Classifier, path: str | Path, like: ArrayLike, *, platforms: Sequence[str] = ("cpu",)) -> None:
    """Write a model as a file that a program without `aire` runs, for any batch size.

        exported = jax.export.deserialize(open(path, "rb").read())
        logits = exported.call(x, lengths)  # whole sequences
        logits, state = exported.call(x, state)  # one step; at first, all arrays of the state are zero

    `exported.in_avals` has the shapes and dtypes of the arguments. The state of a step is a list of arrays.

    Args:
        model: the model. It is exported in evaluation mode.
        path: the file to write.
        like: inputs of the form to export: sequences, integer tokens (B, L) or floats (B, L, d_input), or one step of
            them, (B,) or (B, d_input). The values and B do not matter.
        platforms: names in `PLATFORMS` to compile for. The file has the form of the scan for each.
    Raises:
        UserError: an unknown platform, inputs of another form, or steps of a model that needs complete sequences.
    """
    if not platforms or not set(platforms) <= set(PLATFORMS):
        raise UserError(f"platforms={tuple(platforms)}: expected some of {PLATFORMS}")
    model = nnx.clone(model)
    model.eval()
    like = np.asarray(like)
    tokens = np.issubdtype(like.dtype, np.integer)
    if like.ndim - (not tokens) not in (1, 2):
        raise UserError(
            f"like {like.dtype}{list(like.shape)}: expected integer tokens (B, L) or (B,), or floats (B, L, d_input) "
            "or (B, d_input)"
        )
    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, *like.shape[1:]), jnp.int32 if tokens else jnp.float32)
    whole = like.ndim - (not tokens) == 2
    function, other = _whole_function(model, batch) if whole else _step_function(model, batch)
    with not_required():
        exported = jax.export.export(jax.jit(function), platforms=tuple(platforms))(x, other)
    write_bytes(path, bytes(exported.serialize()))


def _whole_function(model: Classifier, batch: Any) -> tuple[Callable, Any]:
    """Return a function of inputs and lengths, and the form of the lengths for a symbolic batch."""
    return lambda x, lengths: model(x, lengths), jax.ShapeDtypeStruct((batch,), jnp.int32)


def _step_function(model: Classifier, batch: Any) -> tuple[Callable, Any]:
    """Return a function of the inputs and the flat state, and the form of the state for a symbolic batch."""
    leaves, structure = jax.tree.flatten(streaming.start(model, 1))
    flat = [jax.ShapeDtypeStruct((batch, *leaf.shape[1:]) if leaf.ndim else (), leaf.dtype) for leaf in leaves]

    def step(x, flat):
        logits, state = streaming.step(model, x, jax.tree.unflatten(structure, flat))
        return logits, jax.tree.leaves(state)

    return step, flat
