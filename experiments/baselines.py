"""Baselines without a sequence model: the majority class, and a linear classifier on token counts or all inputs."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from aire.data.pipeline import Split
from aire.data.tasks import Task

REPORTED = ("selection", "test")
_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)
_MOST_INPUTS = 4096  # per example; sound and Path-X have more and get no linear classifier
_ITERATIONS = 100  # of L-BFGS; ten times as many change the accuracy on Fashion-MNIST by 0.2 points


def measure(task: Task) -> dict[str, dict[str, float]]:
    """Return the accuracy of each baseline that suits the task, by name and split."""
    data = task.splits
    fits = {"majority class": majority(data)}
    if data["train"].holds_tokens:
        features = {name: _counts(split, task.d_input) for name, split in data.items()}
        fits["bag of tokens"] = linear(features, data, task.n_classes)
    elif data["train"].take(np.arange(1))["x"].size <= _MOST_INPUTS:
        features = {name: _inputs(split) for name, split in data.items()}
        fits["linear classifier"] = linear(features, data, task.n_classes)
    return fits


def majority(data: Mapping[str, Split]) -> dict[str, float]:
    """Return the accuracy of the training split's most frequent class, by split."""
    answer = np.bincount(data["train"].y).argmax()
    return {name: float(np.mean(data[name].y == answer)) for name in REPORTED}


def linear(features: Mapping[str, np.ndarray], data: Mapping[str, Split], classes: int) -> dict[str, float]:
    """Return the accuracy of multinomial logistic regression, by split. Validation chooses the L2 penalty.

    Args:
        features: of each split, float32 (n, any).
    """
    mean, std = features["train"].mean(axis=0), features["train"].std(axis=0) + 1e-6
    features = {name: (f - mean) / std for name, f in features.items()}

    def accuracies(W: np.ndarray) -> dict[str, float]:
        return {name: float(np.mean(_logits(W, features[name]).argmax(-1) == data[name].y)) for name in features}

    fits = [accuracies(_fit(features["train"], data["train"].y, classes, penalty)) for penalty in _PENALTIES]
    best = max(fits, key=lambda fit: fit["validation"])
    return {name: best[name] for name in REPORTED}


def _counts(split: Split, vocabulary: int) -> np.ndarray:
    """Count each token in each sequence, without padding: float32 (n, vocabulary), two documents side by side."""
    x, lengths = split.x.reshape(split.lengths.size, -1), split.lengths.reshape(-1)
    counts = [np.bincount(row[:length], minlength=vocabulary) for row, length in zip(x, lengths, strict=True)]
    return np.array(counts, np.float32).reshape(len(split), -1)


def _inputs(split: Split) -> np.ndarray:
    """Return all inputs of each example, float32 (n, inputs)."""
    return split.take(np.arange(len(split)))["x"].reshape(len(split), -1)


def _logits(W, features):
    return features @ W[:-1] + W[-1:]


def _fit(features: np.ndarray, labels: np.ndarray, classes: int, penalty: float) -> np.ndarray:
    """Fit weights (features + 1, classes) by L-BFGS."""
    shape = (features.shape[1] + 1, classes)
    # One-hot, because indexing by the labels leaves XLA a large constant to fold, with warnings, for seconds.
    X, Y = jnp.asarray(features), jax.nn.one_hot(labels, classes)

    @jax.jit
    @jax.value_and_grad
    def objective(flat):
        W = flat.reshape(shape)
        losses = optax.softmax_cross_entropy(_logits(W, X), Y)
        return losses.mean() + penalty * jnp.sum(W[:-1] ** 2)

    def in_float64(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(jnp.asarray(flat, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    start = np.zeros(shape[0] * shape[1])
    options = {"maxiter": _ITERATIONS}
    fit = scipy.optimize.minimize(in_float64, start, jac=True, method="L-BFGS-B", options=options)
    return fit.x.reshape(shape).astype(np.float32)
