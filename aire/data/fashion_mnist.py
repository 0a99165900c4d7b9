"""Sequential Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): images of clothes, one grey value per step.

The dataset is four idx files: 60,000 training and 10,000 test images with labels, 28×28 grey values, 10 classes of
equal size. Images are read row by row. The files have no validation split, so every twelfth training image (5,000 of
60,000) becomes one. This choice is deterministic and includes all classes even if the files are sorted by class.
"""

from pathlib import Path

import numpy as np

from aire.data.formats import pixels
from aire.data.formats.idx import SIDE, Checksums, IdxSource, Published
from aire.data.formats.pixels import ImageDataset, Sequences
from aire.data.pipeline import Split

MEAN, STD = 0.2860, 0.3530  # of the grey values of the 60,000 training images, scaled to [0, 1]
VALIDATION_EVERY = 12

# Sizes and checksums of the gzip files are from tensorflow-datasets 4.9.10, url_checksums/fashion_mnist.txt. Those of
# the unpacked files are from Debian's package.
PUBLISHED = Published(
    title="Fashion-MNIST",
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    files={
        "train-images-idx3-ubyte": Checksums(
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train-labels-idx1-ubyte": Checksums(
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images-idx3-ubyte": Checksums(
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "t10k-labels-idx1-ubyte": Checksums(
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
    package=Path("/usr/share/datasets/fashion-mnist"),
)


class FashionMnist(ImageDataset):
    """Grey images of ten kinds of clothes."""

    TITLE = PUBLISHED.title
    SHAPE = (SIDE, SIDE)
    HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"


def files(data_dir: str | Path, folder: str | Path = "") -> IdxSource:
    """Return the four files in a folder, or the published ones if `folder` is empty."""
    return IdxSource(PUBLISHED, _held_out, data_dir, folder)


def _held_out(n: int) -> np.ndarray:
    return np.arange(n) % VALIDATION_EVERY == VALIDATION_EVERY - 1


def load(data_dir: str | Path, folder: str | Path = "", *, pool: int = 1, **limits: int) -> dict[str, Split]:
    """Load the normalised splits "train", "validation" and "test". Prepare them in `data_dir` on the first call.

    Args:
        folder: of the four files, each with or without .gz; empty for the published ones.
        pool: average squares of this side into one step: 1 gives L = 784, 2 gives L = 196.
        **limits: numbers of examples, see `aire.data.formats.pixels.load`, which also lists the errors.
    """
    sequences = Sequences(SIDE, pool, MEAN, STD)
    return pixels.load(FashionMnist, data_dir, files(data_dir, folder), sequences, **limits)
