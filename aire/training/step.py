"""One training step and one evaluation step, jitted on plain dicts.

A model is split once into its graph definition and plain dicts of arrays; a step then costs no walk over modules. The
arrays are parameters, which have gradients, and buffers, which have none: batch statistics, the channels of a bank.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from aire.utils import devices

TrainState = dict[str, Any]  # params, buffers, opt_state, step (int32), key (uint32 key data)
Batch = Mapping[str, Array | np.ndarray]  # x, y and, where sequences are padded, lengths


@dataclasses.dataclass(frozen=True)
class ModelFunctions:
    """A model as a static graph definition; arrays travel beside it as plain nested dicts."""

    graphdef: nnx.GraphDef

    def apply(self, params: dict, buffers: dict, batch: Batch, *, train: bool, key: Array | None = None):
        """Logits, and the buffers after the call."""
        model = nnx.merge(self.graphdef, params, buffers, copy=True)
        model.train() if train else model.eval()
        rngs = None if key is None else nnx.Rngs(dropout=key)
        logits = model(batch["x"], batch.get("lengths"), rngs=rngs)
        return logits, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param)))


def split_model(model: nnx.Module) -> tuple[ModelFunctions, dict, dict]:
    """A model's functions, parameters and buffers. The arrays are shared with the model, not copied."""
    graphdef, *states = nnx.split(model, nnx.Param, ...)
    params, buffers = map(nnx.to_pure_dict, states)
    return ModelFunctions(graphdef), params, buffers


def init_state(model: nnx.Module, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """Everything that training changes, on copies of the model's arrays."""
    _, params, buffers = split_model(model)
    params, buffers = jax.tree.map(jnp.copy, (params, buffers))
    return start_state(params, buffers, optimizer, key)


def start_state(params: dict, buffers: dict, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    """The state before the first step."""
    return {
        "params": params,
        "buffers": buffers,
        "opt_state": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(key),
    }


def make_train_step(
    functions: ModelFunctions, optimizer: optax.GradientTransformation, *, accumulate: int = 1, shardings: Any = None
) -> Callable:
    """`train_step(state, batch) -> (state, metrics)`; the state's buffers are donated.

    The dropout key of a step is folded from the step's number, so a resumed run draws the same masks.

    Args:
        functions: of the model.
        optimizer: its optimiser.
        accumulate: number of parts into which a batch is divided, one after the other, to save memory. Gradients are
            those of the whole batch, except that batch norm and dropout see one part at a time.
        shardings: of the new state, on several devices.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])

        def gradients(batch: Batch, key: Array) -> tuple[dict, dict, dict[str, Array]]:
            """Gradients, the buffers afterwards, and metrics."""

            def loss_fn(params):
                logits, buffers = functions.apply(params, state["buffers"], batch, train=True, key=key)
                losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
                return losses.mean(), (buffers, logits)

            (loss, (buffers, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
            accuracy = jnp.mean(logits.argmax(axis=-1) == batch["y"])
            return grads, buffers, {"loss": loss, "accuracy": accuracy}

        grads, buffers, metrics = mean_of_parts(gradients, batch, key, accumulate)
        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to the power of its integer step count
            updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        new_state = state | {
            "params": optax.apply_updates(state["params"], updates),
            "buffers": buffers,
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return new_state, metrics

    return jax.jit(train_step, donate_argnums=0, out_shardings=(shardings, devices.whole()))


def mean_of_parts(fn: Callable[[Batch, Array], Any], batch: Batch, key: Array, parts: int) -> Any:
    """The mean of fn(part, key) over parts of a batch of equal size, each with its own key.

    A part takes every `parts`-th row. So on several devices, which hold consecutive rows, each computes some of it.
    """
    if parts == 1:
        return fn(batch, key)
    divided = {name: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1) for name, x in batch.items()}
    inputs = divided, jax.random.split(key, parts)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: fn(batch, key)))
    total, _ = jax.lax.scan(lambda total, part: (jax.tree.map(jnp.add, total, fn(*part)), None), zeros, inputs)
    # Integers, such as the channels of a bank, are the same in all parts.
    return jax.tree.map(lambda x: x / parts if jnp.issubdtype(x.dtype, jnp.floating) else x // parts, total)


def make_answer_step(functions: ModelFunctions) -> Callable:
    """`answer_step(params, buffers, batch) -> (losses, correct)`, both by example.

    For a model that predicts at each step, both are means over the steps of an example.
    """

    @functools.partial(jax.jit, out_shardings=devices.whole())
    def answer_step(params: dict, buffers: dict, batch: Batch) -> tuple[Array, Array]:
        logits, _ = functions.apply(params, buffers, batch, train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
        right = logits.argmax(axis=-1) == batch["y"]
        steps = tuple(range(1, losses.ndim))
        return (losses.mean(axis=steps), right.mean(axis=steps)) if steps else (losses, right)

    return answer_step


def make_eval_step(functions: ModelFunctions) -> Callable:
    """`eval_step(params, buffers, batch) -> (summed loss, number correct)` over examples of weight 1."""
    answer_step = make_answer_step(functions)

    @functools.partial(jax.jit, out_shardings=devices.whole())
    def eval_step(params: dict, buffers: dict, batch: Batch) -> tuple[Array, Array]:
        losses, correct = answer_step(params, buffers, batch)
        return jnp.sum(losses * batch["weight"]), jnp.sum(correct.astype(losses.dtype) * batch["weight"])

    return eval_step
