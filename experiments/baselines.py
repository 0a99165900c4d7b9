"""What needs no sequence model: the majority class, and a linear classifier on the bag of tokens."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.optimize

from aire.data.pipeline import Split

_PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2)


def majority(data: Mapping[str, Split]) -> dict[str, float]:
    """Accuracy, per evaluated split, of always answering with the training split's most frequent class."""
    answer = np.bincount(data["train"].y).argmax()
    return {name: float(np.mean(data[name].y == answer)) for name in ("validation", "test")}


def bag_of_tokens(data: Mapping[str, Split], vocabulary: int, classes: int) -> dict[str, float]:
    """Accuracy, per evaluated split, of multinomial logistic regression on token counts, its L2 penalty chosen on
    validation."""
    counts = {name: _counts(data[name], vocabulary) for name in ("train", "validation", "test")}
    mean, std = counts["train"].mean(axis=0), counts["train"].std(axis=0) + 1e-6
    features = {name: (c - mean) / std for name, c in counts.items()}

    def accuracies(W: np.ndarray) -> dict[str, float]:
        return {name: float(np.mean(_logits(W, features[name]).argmax(-1) == data[name].y)) for name in features}

    fits = [accuracies(_fit(features["train"], data["train"].y, classes, penalty)) for penalty in _PENALTIES]
    best = max(fits, key=lambda fit: fit["validation"])
    return {name: best[name] for name in ("validation", "test")}


def _counts(split: Split, vocabulary: int) -> np.ndarray:
    """How often each token stands in each sequence, float32 (n, vocabulary); padding counts for nothing."""
    counts = np.zeros((len(split.y), vocabulary), np.float32)
    steps = np.arange(split.x.shape[1]) < split.lengths[:, None]
    rows = np.broadcast_to(np.arange(len(split.y))[:, None], split.x.shape)
    np.add.at(counts, (rows[steps], split.x[steps]), 1)
    return counts


def _logits(W, features):
    return features @ W[:-1] + W[-1]


def _fit(features: np.ndarray, labels: np.ndarray, classes: int, penalty: float) -> np.ndarray:
    """Weights (features + 1, classes) by L-BFGS."""
    shape = (features.shape[1] + 1, classes)
    X, y = jnp.asarray(features), jnp.asarray(labels)

    @jax.jit
    @jax.value_and_grad
    def objective(flat):
        W = flat.reshape(shape)
        losses = optax.softmax_cross_entropy_with_integer_labels(_logits(W, X), y)
        return losses.mean() + penalty * jnp.sum(W[:-1] ** 2)

    def in_float64(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(jnp.asarray(flat, jnp.float32))
        return float(value), np.asarray(gradient, np.float64)

    start = np.zeros(shape[0] * shape[1])
    return scipy.optimize.minimize(in_float64, start, jac=True, method="L-BFGS-B").x.reshape(shape).astype(np.float32)
