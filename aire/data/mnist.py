"""Sequential MNIST and permuted sequential MNIST: handwritten digits, a grey value a step.

As the references read them (S4's and S5's dataloaders/basic.py): grey values scaled to [0, 1] and nothing more, row by
row, or in the order of the bit-reversal permutation. Their validation split, 6,000 of the 60,000 pixels for training,
chosen by PyTorch from seed 42, is reproduced exactly.
"""

import functools
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import pixels
from aire.data.formats.idx import SIDE, Checksums, Files, Published
from aire.data.formats.pixels import Pictures, Sequences
from aire.data.pipeline import Split
from aire.data.splits import held_out

# Sizes and checksums of the packed files: tensorflow-datasets 4.9.10, url_checksums/mnist.txt. Of the unpacked ones:
# the same in several public projects, such as those that load MNIST in Go and C++.
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


class Mnist(Pictures, skip_registration=True):  # TFDS has one of this name, which needs TensorFlow
    """Grey pixels of handwritten digits."""

    TITLE = PUBLISHED.title
    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same files would give other data
    SHAPE = (SIDE, SIDE)
    HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"


def files(data_dir: str | Path, folder: str | Path = "") -> Files:
    """The four files in a folder; without one, the published ones."""
    return Files(PUBLISHED, held_out, data_dir, folder)


@functools.cache  # asked for at every batch
def bit_reversal(n: int) -> np.ndarray:
    """(n,): the numbers below n, ordered by their binary digits read backwards."""
    digits = (n - 1).bit_length()
    reversed_ = [int(f"{i:0{digits}b}"[::-1], 2) for i in range(2**digits)]
    return np.array([i for i in reversed_ if i < n])


def load(
    data_dir: str | Path, folder: str | Path = "", *, permuted: bool = False, pool: int = 1, **limits: int
) -> dict[str, Split]:
    """The splits "train", "validation" and "test"; prepared in `data_dir` if need be.

    Args:
        folder: of the four files, each with .gz or without; empty: the published ones.
        permuted: the steps in the order of `bit_reversal`.
        pool: side of the squares of grey values that become one step, their mean: 1 gives L = 784, 2 gives L = 196.
        **limits: numbers of examples, and what is raised: see `aire.data.formats.pixels.load`.
    """
    sequences = Sequences(SIDE, pool, order=bit_reversal if permuted else None)
    return pixels.load(Mnist, data_dir, files(data_dir, folder), sequences, **limits)
