"""Streaming: a classifier applied to a sequence as it arrives, step by step or in parts of any length."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, Shaped

from aire.models.classifier import AnyArray, Classifier
from aire.utils.errors import UserError


class StreamState(NamedTuple):
    """What a classifier remembers of B sequences.

    Attributes:
        layers: the states of each block's layer, as its `initial_state` makes them.
        pooled: (B, H) float32, the sum of the last block's outputs, or the last of them if the model pools the last.
        steps: int32, the number of steps so far.
    """

    layers: list[Any]
    pooled: Float[Array, "B H"]
    steps: Shaped[Array, ""]


def start(model: Classifier, batch: int) -> StreamState:
    """Return the state before the first step of `batch` sequences.

    Raises:
        UserError: the model has bidirectional layers or compares two documents, so it needs complete sequences; or it
            is in training mode.
    """
    options = model.config
    if options.retrieval:
        raise UserError("this model compares two complete documents, so it cannot be applied step by step")
    if any(getattr(block.norm, "use_running_average", True) is False for block in model.blocks):
        raise UserError("the model is in training mode, where batch norm needs complete batches: call model.eval()")
    for block in model.blocks:
        block.ssm.check_one_direction()
    layers = [block.ssm.initial_state(batch) for block in model.blocks]
    return StreamState(layers, jnp.zeros((batch, options.d_model), jnp.float32), jnp.zeros((), jnp.int32))


def step(
    model: Classifier, x: Num[AnyArray, "..."], state: StreamState
) -> tuple[Float[Array, "B classes"], StreamState]:
    """Advance by one step: return the logits of the sequences so far and the new state.

    The logits after the last step are those of the whole-sequence call, up to rounding. Takes the same time and memory
    at every step, whatever the length. Jit it with the model as an argument or closed over.

    Args:
        x: the next inputs, integer tokens (B,) or floats (B, d_input). Tokens outside the vocabulary count as zeros.
    """
    h = _encode(model, x)
    layers = []
    for block, own in zip(model.blocks, state.layers, strict=True):
        h, own = block.step(h, own)
        layers.append(own)
    h = h.astype(jnp.float32)
    last = model.config.pooling == "last"
    return _finish(model, StreamState(layers, h if last else state.pooled + h, state.steps + 1))


def scan(
    model: Classifier, x: Num[AnyArray, "..."], state: StreamState
) -> tuple[Float[Array, "B classes"], StreamState]:
    """Advance by L steps at once, as `step` does L times, in the time of a whole-sequence call.

    Args:
        x: the next inputs, integer tokens (B, L) or floats (B, L, d_input).
    """
    h = _encode(model, x)
    layers = []
    for block, own in zip(model.blocks, state.layers, strict=True):
        h, own = block.scan(h, own)
        layers.append(own)
    h = h.astype(jnp.float32)
    pooled = h[:, -1] if model.config.pooling == "last" else state.pooled + h.sum(axis=1)
    return _finish(model, StreamState(layers, pooled, state.steps + h.shape[1]))


def _encode(model: Classifier, x: Num[AnyArray, "..."]) -> Float[Array, "..."]:
    x, options = jnp.asarray(x), model.config
    if jnp.issubdtype(x.dtype, jnp.integer):
        x = jax.nn.one_hot(x.astype(jnp.int32), options.d_input)
    if x.shape[-1] != options.d_input:
        raise UserError(f"input {list(x.shape)}: expected integer tokens or floats (…, {options.d_input})")
    return model.encoder(x).astype(options.dtype)


def _finish(model: Classifier, state: StreamState) -> tuple[Float[Array, "B classes"], StreamState]:
    count = 1 if model.config.pooling == "last" else state.steps.astype(jnp.float32)
    return model.decoder(state.pooled / count), state
