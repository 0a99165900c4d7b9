"""Random choices of the references, which use PyTorch, reproduced without PyTorch."""

import numpy as np


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
