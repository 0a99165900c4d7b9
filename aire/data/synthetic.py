"""Synthetic data in the formats of the public archives, so smoke runs and tests need no download.

A tree maps the file names of an unpacked archive to their contents.
"""

import io
import os
import shutil
import struct
import wave
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from aire.utils.files import writing

Tree = dict[str, bytes]

FOLDER = "synthetic"  # the value of `folder` in a config that selects this data


def prepare(task: str, root: Path) -> Path:
    """Return the folder with a task's synthetic files in `root`. Write them atomically on the first call.

    Raises:
        UserError: `root` cannot be written.
    """
    folder = root / task
    if not folder.exists():
        partial = root / f".{task}.{os.getpid()}"
        with writing(folder):
            write_tree(partial, TREES[task]())
            try:
                partial.rename(folder)
            except OSError:  # another process was first
                shutil.rmtree(partial)
                if not folder.exists():
                    raise
    return folder


def write_tree(folder: Path, tree: Tree) -> Path:
    """Write the files into a folder; return the folder."""
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def reviews(train: int = 50, test: int = 20, seed: int = 0) -> Tree:
    """Return a tree like aclImdb_v1.tar.gz with this many reviews of each class."""
    rng = np.random.default_rng(seed)
    tree = {"aclImdb/README": b"Large Movie Review Dataset", "aclImdb/train/unsup/0_0.txt": b"no label"}
    for split, n in (("train", train), ("test", test)):
        for label, rating in (("pos", 9), ("neg", 2)):
            for number in rng.permutation(n):
                text = "".join(rng.choice(list("abcd .é"), rng.integers(5, 90)))
                tree[f"aclImdb/{split}/{label}/{number}_{rating}.txt"] = f"{label} {text}".encode()
    return tree


def pairs(train: int = 80, other: int = 40, seed: int = 0) -> Tree:
    """Return a tree like the folder tsv_data of the Long Range Arena's release, with this many pairs."""
    rng = np.random.default_rng(seed)

    def row(_: int) -> str:
        texts = ("".join(rng.choice(list("abc d'\n\té"), rng.integers(1, 90))).encode() for _ in range(2))
        return "\t".join([str(float(rng.integers(2))), "P00-1000", "P00-1001", *map(repr, texts)]) + "\n"

    sizes = {"train": train, "eval": other, "test": other}
    return {f"new_aan_pairs.{stem}.tsv": "".join(map(row, range(n))).encode() for stem, n in sizes.items()}


def wav(samples: Iterable[int], *, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    """Return a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(np.asarray(samples, "<i2").tobytes())
    return file.getvalue()


def recordings(speakers: int = 40, seed: int = 0) -> Tree:
    """Return a tree like speech_commands_v0.02.tar.gz with three words per speaker, split 60/20/20 %."""
    rng = np.random.default_rng(seed)
    tree = {"./LICENSE": b"CC BY", "./_background_noise_/pink_noise.wav": wav([1, 2, 3])}
    lists: dict[int, list[str]] = {0: [], 1: []}
    for speaker in range(speakers):
        for word in ("bed", "zero", "backward"):
            name = f"{word}/{speaker:08x}_nohash_0.wav"
            tree[f"./{name}"] = wav(rng.integers(-3000, 3000, rng.integers(4000, 16_001)))
            lists.setdefault(speaker % 5, []).append(name)
    tree["./validation_list.txt"], tree["./testing_list.txt"] = ("\n".join(lists[i] + [""]).encode() for i in (0, 1))
    return tree


def idx_bytes(array: np.ndarray) -> bytes:
    """Encode a uint8 array as an idx file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_arrays(seed: int = 0, train: int = 36, test: int = 10) -> dict[str, np.ndarray]:
    """Return images and labels like those of MNIST and Fashion-MNIST, by file name."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for stem, n in (("train", train), ("t10k", test)):
        arrays[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = rng.integers(0, 10, n, np.uint8)
    return arrays


def cifar_batches(seed: int = 0, train: int = 4, test: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return images (n, 3, 32, 32) uint8 and labels by the names of CIFAR-10's batches."""
    rng = np.random.default_rng(seed)
    counts = {f"data_batch_{i}": train for i in range(1, 6)} | {"test_batch": test}
    return {
        name: (rng.integers(0, 256, (n, 3, 32, 32), np.uint8), rng.integers(0, 10, n, np.uint8))
        for name, n in counts.items()
    }


def binary_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """Encode a batch of CIFAR-10's binary version: for each image its label, then red, green and blue."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels.tolist(), strict=True))


TREES: dict[str, Callable[[], Tree]] = {
    "aan": pairs,
    "cifar10": lambda: {
        f"cifar-10-batches-bin/{name}.bin": binary_batch(*batch) for name, batch in cifar_batches(0, 64, 64).items()
    },
    "fashion_mnist": lambda: {name: idx_bytes(array) for name, array in idx_arrays(0, 360, 64).items()},
    "imdb": reviews,
    "mnist": lambda: {name: idx_bytes(array) for name, array in idx_arrays(1, 360, 64).items()},
    "speech_commands": recordings,
}
