"""Sequential MNIST and permuted sequential MNIST: handwritten digits, one grey value per step.

As in the references (dataloaders/basic.py of S4 and S5), grey values are scaled to [0, 1] and read row by row or in
bit-reversed order. The references' validation split is reproduced exactly: PyTorch chooses 6,000 of the 60,000
training images from seed 42.
"""

import functools
from pathlib import Path

import numpy as np

from aire.data.formats import pixels
from aire.data.formats.idx import SIDE, Checksums, IdxSource, Published
from aire.data.formats.pixels import ImageDataset, Sequences
from aire.data.pipeline import Split
from aire.data.splits import held_out

# Sizes and checksums of the gzip files are from tensorflow-datasets 4.9.10, url_checksums/mnist.txt. Those of the
# unpacked files are the same in several public projects that load MNIST in Go and C++.
PUBLISHED = Published(
    title="MNIST",
    url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    files={
        "train-images-idx3-ubyte": Checksums(
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train-labels-idx1-ubyte": Checksums(
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "t10k-images-idx3-ubyte": Checksums(
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "t10k-labels-idx1-ubyte": Checksums(
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
)


class Mnist(ImageDataset):
    """Grey images of handwritten digits."""

    TITLE = PUBLISHED.title
    SHAPE = (SIDE, SIDE)
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"


def files(data_dir: str | Path, folder: str | Path = "") -> IdxSource:
    """Return the four files in a folder, or the published ones if `folder` is empty."""
    return IdxSource(PUBLISHED, held_out, data_dir, folder)


@functools.cache  # called for every batch
def bit_reversal(n: int) -> np.ndarray:
    """Return the numbers below n, ordered by their reversed binary digits, (n,)."""
    digits = (n - 1).bit_length()
    reversed_ = [int(f"{i:0{digits}b}"[::-1], 2) for i in range(2**digits)]
    return np.array([i for i in reversed_ if i < n])


def load(
    data_dir: str | Path, folder: str | Path = "", *, permuted: bool = False, pool: int = 1, **limits: int
) -> dict[str, Split]:
    """Load the splits "train", "validation" and "test". Prepare them in `data_dir` on the first call.

    Args:
        folder: of the four files, each with or without .gz; empty for the published ones.
        permuted: order the steps by `bit_reversal`.
        pool: average squares of this side into one step: 1 gives L = 784, 2 gives L = 196.
        **limits: numbers of examples, see `aire.data.formats.pixels.load`, which also lists the errors.
    """
    sequences = Sequences(SIDE, pool, order=bit_reversal if permuted else None)
    return pixels.load(Mnist, data_dir, files(data_dir, folder), sequences, **limits)
