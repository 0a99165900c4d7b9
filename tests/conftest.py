"""Fixtures: CPU only, golden data, small models, made-up pictures."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests and the commands they run compile the same few programs many times over: once is enough.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import gzip
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from aire.models import Classifier, ModelConfig, ssm_config
from aire.ssm import S4D, S5, S4DConfig, S5Config

GOLDEN = Path(__file__).parent / "golden"


def golden(file: str) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of a golden file by case and name."""
    cases: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDEN / file, allow_pickle=False) as arrays:
        for key in arrays.files:
            case, name = key.split("/", 1)
            cases.setdefault(case, {})[name] = arrays[key]
    return cases


def below(case: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays of a case under a prefix, without it."""
    return {name.removeprefix(prefix): array for name, array in case.items() if name.startswith(prefix)}


def idx_bytes(array: np.ndarray) -> bytes:
    """A uint8 array as an idx file."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def pictures(seed: int = 0, train: int = 36, test: int = 10) -> dict[str, np.ndarray]:
    """Made-up pictures and labels in the place of Fashion-MNIST's, by the names of its files."""
    rng = np.random.default_rng(seed)
    made = {}
    for stem, n in (("train", train), ("t10k", test)):
        made[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), np.uint8)
        made[f"{stem}-labels-idx1-ubyte"] = rng.integers(0, 10, n, np.uint8)
    return made


def write_idx(folder: Path, arrays: dict[str, np.ndarray], *, packed: bool = True) -> Path:
    """The arrays as the files that their names say, with .gz or without; returns the folder."""
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        content = idx_bytes(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def cifar_batches(seed: int = 0, train: int = 4, test: int = 10) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Made-up pictures, (n, 3, 32, 32) uint8, and labels, by the names of CIFAR-10's batches."""
    rng = np.random.default_rng(seed)
    counts = {f"data_batch_{i}": train for i in range(1, 6)} | {"test_batch": test}
    return {
        name: (rng.integers(0, 256, (n, 3, 32, 32), np.uint8), rng.integers(0, 10, n, np.uint8))
        for name, n in counts.items()
    }


def binary_batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    """A batch of CIFAR-10's binary version: for each picture its label, then red, green and blue."""
    return b"".join(bytes([label]) + image.tobytes() for image, label in zip(images, labels.tolist(), strict=True))


def write_cifar(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """The batches as the binary version's archive; returns the folder it is in."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        files = {f"{name}.bin": binary_batch(*batch) for name, batch in batches.items()} | {"readme.html": b"<html>"}
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


@pytest.fixture
def x64():
    """float64 for oracles that need more digits than float32 has."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def make_layer() -> Callable[..., S5]:
    def make(d_model: int = 3, n_states: int = 6, seed: int = 0, **options) -> S5:
        return S5(d_model, n_states, S5Config(**{"blocks": 2, **options}), rngs=nnx.Rngs(seed))

    return make


@pytest.fixture
def make_bank() -> Callable[..., S4D]:
    """S4D with channels of different sizes, the second of them empty."""

    def make(counts=(3, 0, 1, 4), seed: int = 0, layer: type[S4D] = S4D, **options) -> S4D:
        N = max(*counts, 1)
        full = layer(len(counts), N * len(counts), S4DConfig(**options), rngs=nnx.Rngs(seed))
        return full.cut(np.concatenate([np.arange(N) < count for count in counts]))

    return make


@pytest.fixture
def make_model() -> Callable[..., Classifier]:
    def make(state_sizes=(6, 6, 6), seed: int = 0, d_model: int = 8, ssm: dict | None = None, **options) -> Classifier:
        ssm = {"bidirectional": True, **(ssm or {})}
        if ssm.get("kind", "s5") == "s5":
            ssm = {"blocks": 2, **ssm}
        config = ModelConfig(20, d_model, 10, tuple(state_sizes), ssm_config(ssm), **options)
        model = Classifier(config, rngs=nnx.Rngs(seed))
        model.eval()
        return model

    return make
