"""Accuracy and loss of a model on a split."""

import dataclasses
from collections.abc import Callable

import jax
from flax import nnx

from aire.data.pipeline import Split, evaluation_batches
from aire.training.step import make_eval_step, split_model
from aire.utils import stopping


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, and the share of examples that were classified right."""

    loss: float
    accuracy: float


def make_evaluator(model: nnx.Module, batch_size: int) -> Callable[[nnx.Module, Split], Evaluation]:
    """`evaluate(model, split)` for models of one structure and shape; all of them share one compilation.

    Args:
        model: an example of these models; its arrays are not kept.
        batch_size: examples per call; the last batch is padded with examples of weight 0.
    """
    functions, *_ = split_model(model)
    eval_step = make_eval_step(functions)

    def evaluate(model: nnx.Module, split: Split) -> Evaluation:
        _, params, buffers = split_model(model)
        return evaluate_arrays(eval_step, params, buffers, split, batch_size)

    return evaluate


def evaluate_arrays(eval_step: Callable, params: dict, buffers: dict, split: Split, batch_size: int) -> Evaluation:
    """The same on plain dicts, as the training loop holds them. Raise Stopped between batches."""
    sums = []
    for batch in evaluation_batches(split, batch_size):
        stopping.check()
        sums.append(eval_step(params, buffers, batch))
        jax.block_until_ready(sums[-2:][0])  # never far behind, so that a signal does not wait for all batches
    n = len(split.y)
    return Evaluation(float(sum(loss for loss, _ in sums)) / n, float(sum(right for _, right in sums)) / n)
