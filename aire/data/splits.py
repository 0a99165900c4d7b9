"""Dividing and joining splits, and the references' random splits, reproduced without PyTorch."""

from collections.abc import Mapping

import numpy as np

from aire.data.pipeline import Split
from aire.utils.errors import UserError


def divide_validation(
    splits: Mapping[str, Split], *, validation_examples: int = 0, selection_examples: int = 0
) -> dict[str, Split]:
    """Divide the validation split, so that checkpoint and ratio are chosen on different examples.

    "validation" is at most its first half. "selection" is what follows.

    Args:
        validation_examples, selection_examples: at most so many; 0 for as many as there are.
    Raises:
        UserError: a number is negative, or there are fewer than two examples.
    """
    whole = splits["validation"]
    for name, limit in (("validation", validation_examples), ("selection", selection_examples)):
        if limit < 0:
            raise UserError(f"{name}_examples={limit}: expected at least 0, which means all")
    if len(whole) < 2:
        raise UserError(f"{len(whole)} validation examples: expected at least 2, because they are divided")
    half = len(whole) // 2
    n = min(validation_examples or half, half)
    stop = n + selection_examples if selection_examples else len(whole)
    return {**splits, "validation": whole[:n], "selection": whole[n:stop]}


def join(first: Split, second: Split) -> Split:
    """Return the examples of both splits. Both have the same length and `decode`."""
    arrays = {name: np.concatenate([getattr(s, name) for s in (first, second)]) for name in ("x", "lengths", "y")}
    return Split(**arrays, decode=first.decode)


def torch_permutation(n: int, seed: int) -> np.ndarray:
    """Return `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`, (n,) int64, for n below 2**32 / 20.

    `torch.utils.data.random_split` splits this permutation into consecutive parts. PyTorch's generator is the Mersenne
    Twister of NumPy's RandomState, whose stream is frozen. The permutation is a Fisher-Yates shuffle that takes the
    remainder of each draw (ATen's randperm_cpu).
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, n, dtype=np.uint32).tolist()
    order = list(range(n))
    for i, draw in enumerate(draws):
        j = i + draw % (n - i)
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)


def held_out(n: int, *, share: float = 0.1, seed: int = 42) -> np.ndarray:
    """Return a mask (n,) of the training examples that the references use for validation."""
    mask = np.zeros(n, bool)
    mask[torch_permutation(n, seed)[int(n * (1 - share)) :]] = True
    return mask
