"""Accuracy and loss of a model on a split."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np
from flax import nnx

from aire.data.pipeline import Split, evaluation_batches
from aire.training.step import Batch, make_answer_step, split_model
from aire.utils import devices, stopping


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats, and the share of examples that were classified right."""

    loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True)
class Answers(Evaluation):
    """An evaluation, with the examples that were classified right, bool (n,)."""

    right: np.ndarray = dataclasses.field(repr=False, compare=False)


def make_evaluator(model: nnx.Module, batch_size: int) -> Callable[[nnx.Module, Split], Answers]:
    """`evaluate(model, split)` for models of one structure and shape; all of them share one compilation.

    Args:
        model: an example of these models; its arrays are not kept.
        batch_size: examples per call, rounded up to a multiple of the devices; the last batch is padded with examples
            of weight 0.
    """
    functions, *_ = split_model(model)
    answer_step = make_answer_step(functions)

    def evaluate(model: nnx.Module, split: Split) -> Answers:
        params, buffers = devices.place(split_model(model)[1:])
        answers = _each_batch(lambda batch: answer_step(params, buffers, batch), split, batch_size)
        losses, right = (np.concatenate(arrays)[: len(split)] for arrays in zip(*answers, strict=True))
        return Answers(float(losses.mean(dtype=np.float64)), float(right.mean()), right)

    return evaluate


def evaluate_arrays(eval_step: Callable, params: dict, buffers: dict, split: Split, batch_size: int) -> Evaluation:
    """Evaluate plain dicts, as the training loop holds them. Raise Stopped between batches.

    `eval_step` is from `make_eval_step`.
    """
    sums = _each_batch(lambda batch: eval_step(params, buffers, batch), split, batch_size)
    n = len(split.y)
    return Evaluation(float(sum(loss for loss, _ in sums)) / n, float(sum(right for _, right in sums)) / n)


def _each_batch(step: Callable[[Batch], tuple], split: Split, batch_size: int) -> list[tuple]:
    """Return the results of all batches. Raise Stopped between batches."""
    results: list[tuple] = []
    for batch in batches(split, batch_size):
        stopping.check()
        results.append(step(batch))
        jax.block_until_ready(results[-2:][0])  # never far behind, so that a signal does not wait for all batches
    return results


def batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """The evaluation batches, on all devices."""
    parts = evaluation_batches(split, batch_size, devices=jax.device_count(), **devices.process())
    return (devices.join_rows(part) for part in parts)
