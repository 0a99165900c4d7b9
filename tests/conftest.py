"""Fixtures: CPU only, golden data, small models, made-up pictures."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
# Tests and the commands they run compile the same few programs many times over: once is enough.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.path.dirname(__file__), "..", ".pytest_cache", "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import contextlib
import gzip
import importlib
import io
import tarfile
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from aire.data import made_up
from aire.models import Classifier, ModelConfig
from aire.ssm import S4D, S5, S4DConfig, S5Config, ssm_config
from aire.training.loop import TrainConfig
from aire.training.optimizer import make_optimizer
from aire.training.step import init_state, make_train_step, split_model

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


@pytest.fixture
def serve():
    """Publishes a folder on this machine: `serve(folder)` is its address."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with contextlib.ExitStack() as stack:

        def start(folder: Path) -> str:
            server = ThreadingHTTPServer(("localhost", 0), partial(Handler, directory=folder))
            stack.callback(server.server_close)
            threading.Thread(target=server.serve_forever, args=[0.01]).start()
            stack.callback(server.shutdown)
            return f"http://localhost:{server.server_port}"

        yield start


def pack_tree(path: Path, tree: made_up.Tree) -> Path:
    """The files as a tar.gz at `path`; returns its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.parent


def write_idx(folder: Path, arrays: dict[str, np.ndarray], *, packed: bool = True) -> Path:
    """The arrays as the files that their names say, with .gz or without; returns the folder."""
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        content = made_up.idx_bytes(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def write_cifar(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """The batches as the binary version's archive; returns the folder it is in."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        files = {f"{name}.bin": made_up.binary_batch(*batch) for name, batch in batches.items()} | {
            "readme.html": b"<html>"
        }
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return folder


def configured(name: str, variants: str = "") -> ConfigDict:
    """The config of a task."""
    return importlib.import_module(f"configs.{name}_prune").get_config(variants)


def train_one_step(options: ModelConfig, config, batch: dict) -> float:
    """The loss of a training step on a new model; everything in one compilation."""
    optimizer_config = TrainConfig(**config.train.to_dict()).optimizer(epoch_steps=10)

    @jax.jit
    def step(batch):
        model = Classifier(options, rngs=nnx.Rngs(0))
        optimizer = make_optimizer(optimizer_config, model)
        functions, *_ = split_model(model)
        return make_train_step(functions, optimizer)(init_state(model, optimizer, jax.random.key(0)), batch)

    state, metrics = step(batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))
    return float(metrics["loss"])


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
