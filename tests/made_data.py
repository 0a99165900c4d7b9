"""Made-up data in the formats of the public archives, for IMDB, AAN and Speech Commands."""

import gzip
import io
import tarfile
import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def write_tree(folder: Path, tree: dict[str, bytes]) -> Path:
    """The files, by their names below the folder; returns the folder."""
    for name, content in tree.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def pack_tree(path: Path, tree: dict[str, bytes]) -> Path:
    """The files as a tar.gz at `path`; returns its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.parent


def reviews(train: int = 50, test: int = 20, seed: int = 0) -> dict[str, bytes]:
    """A tree as aclImdb_v1.tar.gz unpacks to, with this many reviews of each class."""
    rng = np.random.default_rng(seed)
    tree = {"aclImdb/README": b"Large Movie Review Dataset", "aclImdb/train/unsup/0_0.txt": b"no label"}
    for split, n in (("train", train), ("test", test)):
        for label, rating in (("pos", 9), ("neg", 2)):
            for number in rng.permutation(n):
                text = "".join(rng.choice(list("abcd .é"), rng.integers(5, 90)))
                tree[f"aclImdb/{split}/{label}/{number}_{rating}.txt"] = f"{label} {text}".encode()
    return tree


def pairs(train: int = 80, other: int = 40, seed: int = 0) -> dict[str, bytes]:
    """A folder tsv_data as in the Long Range Arena's release, with this many pairs."""
    rng = np.random.default_rng(seed)

    def row(_: int) -> str:
        texts = ("".join(rng.choice(list("abc d'\n\té"), rng.integers(1, 90))).encode() for _ in range(2))
        return "\t".join([str(float(rng.integers(2))), "P00-1000", "P00-1001", *map(repr, texts)]) + "\n"

    sizes = {"train": train, "eval": other, "test": other}
    return {f"new_aan_pairs.{stem}.tsv": "".join(map(row, range(n))).encode() for stem, n in sizes.items()}


def wav(samples: Iterable[int], *, rate: int = 16_000, channels: int = 1, width: int = 2) -> bytes:
    """A WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(np.asarray(samples, "<i2").tobytes())
    return file.getvalue()


def recordings(speakers: int = 40, seed: int = 0) -> dict[str, bytes]:
    """A tree as speech_commands_v0.02.tar.gz unpacks to, with three words of each speaker; a fifth validates, as many
    test."""
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
