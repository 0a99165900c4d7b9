"""One training step and one evaluation step, jitted on plain dicts.

A model is split once into its graph definition and plain dicts of arrays; a step then costs no walk over modules. The
arrays are parameters, which have gradients, and buffers, which have none: batch statistics, the channels of a bank.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

TrainState = dict[str, Any]  # params, buffers, opt_state, step (int32), key (uint32 key data)
Batch = dict[str, Array]  # x, y and, where sequences are padded, lengths


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
    return {
        "params": params,
        "buffers": buffers,
        "opt_state": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(key),
    }


def make_train_step(functions: ModelFunctions, optimizer: optax.GradientTransformation) -> Callable:
    """`train_step(state, batch) -> (state, metrics)`; the state's buffers are donated.

    The dropout key of a step is folded from the step's number, so a resumed run draws the same masks.
    """

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])

        def loss_fn(params):
            logits, buffers = functions.apply(params, state["buffers"], batch, train=True, key=key)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
            return losses.mean(), (buffers, logits)

        (loss, (buffers, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(state["params"])
        with jax.numpy_dtype_promotion("standard"):  # Optax raises floats to the power of its integer step count
            updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        accuracy = jnp.mean(logits.argmax(axis=-1) == batch["y"])
        new_state = state | {
            "params": optax.apply_updates(state["params"], updates),
            "buffers": buffers,
            "opt_state": opt_state,
            "step": state["step"] + 1,
        }
        return new_state, {"loss": loss, "accuracy": accuracy}

    return jax.jit(train_step, donate_argnums=0)


def make_answer_step(functions: ModelFunctions) -> Callable:
    """`answer_step(params, buffers, batch) -> (losses, correct)`, both by example.

    For a model that predicts at each step, both are means over the steps of an example.
    """

    @jax.jit
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

    @jax.jit
    def eval_step(params: dict, buffers: dict, batch: Batch) -> tuple[Array, Array]:
        losses, correct = answer_step(params, buffers, batch)
        return jnp.sum(losses * batch["weight"]), jnp.sum(correct.astype(losses.dtype) * batch["weight"])

    return eval_step
