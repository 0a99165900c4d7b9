"""The random choices that the references make with PyTorch, made without it."""

import numpy as np


def torch_permutation(n: int, seed: int) -> np.ndarray:
    """(n,) int64: `torch.randperm(n, generator=torch.Generator().manual_seed(seed))`, for n below 2**32 / 20.

    `torch.utils.data.random_split` cuts its dataset at the same places of it. PyTorch's generator is the Mersenne
    Twister of NumPy's RandomState, whose stream is frozen; the permutation is R. Fisher and F. Yates' with a remainder
    for each draw (ATen's randperm_cpu).
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, n, dtype=np.uint32).tolist()
    order = list(range(n))
    for i, draw in enumerate(draws):
        j = i + draw % (n - i)
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)


def held_out(n: int, *, share: float = 0.1, seed: int = 42) -> np.ndarray:
    """(n,) bool: the examples that the references take from training for validation, by these shares and seeds."""
    mask = np.zeros(n, bool)
    mask[torch_permutation(n, seed)[int(n * (1 - share)) :]] = True
    return mask
