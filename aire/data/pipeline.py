"""From a split in memory to batches: deterministic, shuffled per epoch, sharded by process, resumable at any step.

Axes: n examples of a split, B batch, L length. A batch is a dict of NumPy arrays: `x` (B, L) tokens or (B, L, d_in)
float32, `lengths` (B,) int32, `y` (B,) int32, and for evaluation `weight` (B,) float32. Of examples of two documents,
`x` is (B, 2, L) and `lengths` (B, 2): every array of a batch has one row per example, so a batch can be divided among
processes and devices anywhere.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from aire.utils.errors import UserError

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Split:
    """Examples of one split, padded to one length and kept in memory, where a batch is a mere gather.

    Attributes:
        x: inputs, (n, L) integer tokens or (n, L, d_in); (n, 2, L) tokens of two documents; or, with `decode`, what
            that takes. Zeros past the end of a sequence.
        lengths: true lengths, (n,) int32; (n, 2) for two documents.
        y: classes, (n,) int32.
        decode: makes a batch's part of `x` the model's input, (B, L, d_in) float32, so that large data stays in memory
            as the bytes that it was stored in. None: it is that already.
    Raises:
        UserError: the three do not have the same number of examples.
    """

    x: np.ndarray
    lengths: np.ndarray
    y: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray] | None = None

    def __post_init__(self):
        if not len(self.x) == len(self.lengths) == len(self.y):
            raise UserError(
                f"{len(self.x)} inputs, {len(self.lengths)} lengths and {len(self.y)} labels: expected as many of each"
            )

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: np.ndarray) -> Batch:
        """The examples with these indices, as a batch."""
        x = self.x[indices]
        return {"x": self.decode(x) if self.decode else x, "lengths": self.lengths[indices], "y": self.y[indices]}

    @property
    def holds_tokens(self) -> bool:
        """Whether the inputs are tokens, not values."""
        return self.decode is None and np.issubdtype(self.x.dtype, np.integer)


def pad(sequences: Sequence[np.ndarray], labels: Sequence[int], length: int, *, name: str) -> Split:
    """A split from token sequences (L_i,) of different lengths, padded with 0 to `length`.

    Its tokens have the smallest unsigned dtype that holds the largest of them.

    Raises:
        UserError: a sequence is longer than `length`, or a token is negative; `name` is the split's name in the
            message.
    """
    lengths = np.fromiter(map(len, sequences), np.int32, len(sequences))
    if len(lengths) and lengths.max() > length:
        first = int(np.argmax(lengths > length))
        raise UserError(
            f"split {name!r}, example {first}: {lengths[first]} tokens are more than the length {length}; "
            f"the longest of the split has {lengths.max()}: set the length to at least that, or shorten the sequences"
        )
    tokens = np.concatenate(sequences) if lengths.any() else np.zeros(0, np.uint8)
    if tokens.min(initial=0) < 0:
        place = int(np.argmax(tokens < 0))
        example = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
        raise UserError(f"split {name!r}, example {example}: token {tokens[place]} is negative; expected 0 or more")
    x = np.zeros((len(sequences), length), np.min_scalar_type(int(tokens.max(initial=0))))
    x[np.arange(length) < lengths[:, None]] = tokens  # the mask is read row by row
    return Split(x, lengths, np.asarray(labels, np.int32))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Number of full batches; the examples left over are dropped, other ones each epoch.

    Raises:
        UserError: not even one batch is full, or a batch would be empty.
    """
    if not 1 <= batch_size <= len(split):
        raise UserError(f"batch_size={batch_size}: expected 1 to {len(split)}, the number of examples in the split")
    return len(split) // batch_size


@dataclasses.dataclass(frozen=True)
class Batches:
    """Training batches with random access: `Batches(…)[t]` is batch number t of the whole run.

    It is a pure function of the seed and t, so a resumed run just goes on at its step. In each epoch every example
    occurs once, in an order of its own, but for those that do not fill the last batch.

    Attributes:
        split: the examples.
        batch_size: examples of one step over all processes; each gets `batch_size // process_count` of them. The
            processes together get what one would get alone, so a run may resume with another number of them.
        seed: of the order; at least 0.
        process_index, process_count: whose part of each batch this is.
    Raises:
        UserError: `batch_size` exceeds the split or `process_count` does not divide it, no such process, a bad seed.
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
        order = _order(len(self.split), self.seed, epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        return self.split.take(order[self.process_index :: self.process_count])

    def __iter__(self) -> Iterator[Batch]:
        # Without this, Python would call `__getitem__` until an IndexError, which never comes.
        raise TypeError("Batches has no end: index it by step, batches[step]")


# A whole epoch's order at once: Grain's shuffle, an index at a time, cost 4 % of a small model's step on one core.
@functools.lru_cache(maxsize=2)
def _order(n: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(n)


def evaluation_batches(split: Split, batch_size: int) -> Iterator[Batch]:
    """All examples once, in order, in batches of one shape, so that one compilation serves all.

    The last batch is filled up with copies of the last example, of `weight` 0: real ones, since a sequence without
    any token could make the model divide by zero, and NaN times 0 is NaN.

    Raises:
        UserError: a batch would be empty.
    """
    if batch_size < 1:
        raise UserError(f"batch_size={batch_size}: expected at least 1")
    rows = (np.arange(start, start + batch_size) for start in range(0, len(split), batch_size))
    last = len(split) - 1
    return (split.take(np.minimum(i, last)) | {"weight": (i <= last).astype(np.float32)} for i in rows)
