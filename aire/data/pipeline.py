"""Batches from splits in memory: deterministic, shuffled per epoch, sharded by process, resumable at any step.

Axes: n examples of a split, B batch, L length. A batch is a dict of NumPy arrays: `x` (B, L) tokens or (B, L, d_in)
float32, `lengths` (B,) int32, `y` (B,) int32, and for evaluation `weight` (B,) float32. For pairs of documents, `x` is
(B, 2, L) and `lengths` is (B, 2). Every array has one row per example, so a batch can be split between processes and
devices at any row.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from aire.utils.errors import UserError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of one split, padded to one length and kept in memory.

    Attributes:
        x: inputs, (n, L) integer tokens, (n, L, d_in) values or (n, 2, L) tokens of two documents. Sequences are
            padded with zeros. With `decode`, anything that `decode` accepts.
        lengths: true lengths, (n,) int32; (n, 2) for two documents.
        y: classes, (n,) int32.
        decode: maps a raw batch of `x` to model input (B, L, d_in) float32, so large data can stay in memory as bytes.
            None if `x` is already model input.
    Raises:
        UserError: the arrays differ in the number of examples.
    """

    x: np.ndarray
    lengths: np.ndarray
    y: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self):
        if not len(self.x) == len(self.lengths) == len(self.y):
            raise UserError(
                f"{len(self.x)} inputs, {len(self.lengths)} lengths and {len(self.y)} labels: expected equal numbers"
            )

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, part: slice) -> "Split":
        """Return consecutive examples. The arrays are views."""
        return dataclasses.replace(self, x=self.x[part], lengths=self.lengths[part], y=self.y[part])

    def take(self, indices: np.ndarray) -> Batch:
        """Return the examples with these indices as a batch."""
        x = self.x[indices]
        return {"x": self.decode(x) if self.decode else x, "lengths": self.lengths[indices], "y": self.y[indices]}

    @property
    def holds_tokens(self) -> bool:
        """Whether the inputs are tokens rather than values."""
        return self.decode is None and np.issubdtype(self.x.dtype, np.integer)


def pad(sequences: Sequence[np.ndarray], labels: ArrayLike, length: int, *, name: str) -> Split:
    """Make a split from token sequences (L_i,) of different lengths, padded with 0 to `length`.

    Tokens are stored in the smallest unsigned dtype that fits the largest one. `name` is used in error messages.

    Raises:
        UserError: a sequence is longer than `length`, or a token is negative.
    """
    lengths = np.fromiter(map(len, sequences), np.int32, len(sequences))
    if len(lengths) and lengths.max() > length:
        first = int(np.argmax(lengths > length))
        raise UserError(
            f"split {name!r}, example {first}: {lengths[first]} tokens exceed the length {length}; the longest "
            f"sequence of the split has {lengths.max()}: increase the length or shorten the sequences"
        )
    tokens = np.concatenate(sequences) if lengths.any() else np.zeros(0, np.uint8)
    if tokens.min(initial=0) < 0:
        place = int(np.argmax(tokens < 0))
        example = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        raise UserError(f"split {name!r}, example {example}: token {tokens[place]} is negative; expected 0 or more")
    x = np.zeros((len(sequences), length), np.min_scalar_type(int(tokens.max(initial=0))))
    x[np.arange(length) < lengths[:, None]] = tokens  # the mask selects row by row
    return Split(x, lengths, np.asarray(labels, np.int32))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Return the number of full batches. The remaining examples are dropped; they differ between epochs.

    Raises:
        UserError: `batch_size` is below 1 or exceeds the split.
    """
    if not 1 <= batch_size <= len(split):
        raise UserError(f"batch_size={batch_size}: expected 1 to {len(split)}, the number of examples in the split")
    return len(split) // batch_size


@dataclasses.dataclass(frozen=True)
class Batches:
    """Training batches with random access: `Batches(…)[t]` is batch number t of the run.

    A batch is a pure function of the seed and t, so a resumed run continues at its step. Each epoch has its own order
    and contains every example once, except those that do not fill a batch.

    Attributes:
        split: the examples.
        batch_size: examples per step over all processes. Each process gets `batch_size // process_count` of them. The
            global batch does not depend on the number of processes, so a run can resume with a different number.
        seed: of the order; at least 0.
        process_index, process_count: select the part of each batch for this process. The parts of all processes one
            after the other are the batch of a single process.
    Raises:
        UserError: `batch_size` exceeds the split or is not a multiple of `process_count`; `process_index` or `seed` is
            out of range.
    """

    split: Split
    batch_size: int
    seed: int
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self):
        steps_per_epoch(self.split, self.batch_size)
        if not 0 <= self.process_index < self.process_count:
            raise UserError(
                f"process_index={self.process_index}: expected 0 to {self.process_count - 1} (process_count - 1)"
            )
        if self.batch_size % self.process_count:
            raise UserError(f"batch_size={self.batch_size}: expected a multiple of the {self.process_count} processes")
        if self.seed < 0:
            raise UserError(f"seed={self.seed}: expected at least 0")

    def __getitem__(self, step: int) -> Batch:
        epoch, place = divmod(step, steps_per_epoch(self.split, self.batch_size))
        share = self.batch_size // self.process_count
        start = place * self.batch_size + self.process_index * share
        return self.split.take(_order(len(self.split), self.seed, epoch)[start : start + share])

    def __iter__(self) -> Iterator[Batch]:
        # Otherwise Python would call `__getitem__` until an IndexError, which never occurs.
        raise TypeError("Batches is infinite: index it by step, batches[step]")


# Shuffles one epoch at a time. Grain's shuffle by single indices took 4 % of a small model's step on one core.
@functools.lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def evaluation_batches(
    split: Split, batch_size: int, *, devices: int = 1, process_index: int = 0, process_count: int = 1
) -> Iterator[Batch]:
    """Yield all examples once, in order, in batches of one shape, so the model is compiled once.

    The last batch is filled with copies of the last example at `weight` 0. Empty sequences would not do: the model
    could divide by zero, and NaN times 0 is NaN.

    Args:
        split: the examples.
        batch_size: examples per step over all processes, rounded up to a multiple of the devices.
        devices: of all processes.
        process_index, process_count: select the part of each batch for this process, as in `Batches`.
    Raises:
        UserError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1")
    batch_size = min(batch_size, max(len(split), 1))  # a larger one would only take memory
    batch_size = -(-batch_size // devices) * devices
    share, last = batch_size // process_count, len(split) - 1
    rows = (np.arange(share) + start + process_index * share for start in range(0, len(split), batch_size))
    return (split.take(np.minimum(i, last)) | {"weight": (i <= last).astype(np.float32)} for i in rows)
