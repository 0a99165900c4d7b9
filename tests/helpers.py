"""Shared by several test files: golden data, synthetic files, a check of errors, a training step."""

import functools
import gzip
import importlib
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import unflatten_dict
from jax.typing import ArrayLike
from ml_collections import ConfigDict

from aire.data import synthetic
from aire.models import Classifier, ModelConfig
from aire.training.loop import TrainConfig
from aire.training.step import init_state, make_train_step, split_model
from aire.utils.errors import UserError

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
MAMBA = {"batchnorm": False, "activation": "gelu"}  # what the block of S6 expects of a config


@functools.partial(jax.jit, static_argnums=0)
def _call(graphdef, state, *args):
    return nnx.merge(graphdef, state)(*args)


def logits(model: nnx.Module, *args) -> jax.Array:
    """model(*args), compiled. Models of equal structure share a compilation; batch statistics are not updated."""
    return _call(*nnx.split(model), *args)


def golden(file: str) -> dict[str, dict[str, np.ndarray]]:
    """Load the arrays of a golden file by case and name."""
    cases: dict[str, dict[str, np.ndarray]] = {}
    with np.load(GOLDEN / file, allow_pickle=False) as arrays:
        for key in arrays.files:
            case, name = key.split("/", 1)
            cases.setdefault(case, {})[name] = arrays[key]
    return cases


def below(case: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Return the arrays of a case under a prefix, without the prefix."""
    return {name.removeprefix(prefix): array for name, array in case.items() if name.startswith(prefix)}


def pack_tree(path: Path, tree: synthetic.Tree) -> Path:
    """Write files to a tar.gz at `path`; return its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb") as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
        for name, content in tree.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path.parent


def write_idx(folder: Path, arrays: dict[str, np.ndarray], *, packed: bool = True) -> Path:
    """Write arrays to idx files of the same names, with or without .gz; return the folder."""
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        content = synthetic.idx_bytes(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def write_cifar(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write batches to the archive of the binary version; return its folder."""
    tree = {f"cifar-10-batches-bin/{name}.bin": synthetic.binary_batch(*batch) for name, batch in batches.items()}
    return pack_tree(folder / "cifar-10-binary.tar.gz", tree | {"cifar-10-batches-bin/readme.html": b"<html>"})


@contextmanager
def refused(message: str, data_dir: Path | None = None) -> Iterator[pytest.ExceptionInfo]:
    """Expect a UserError with a one-line message, and no prepared dataset in `data_dir`."""
    with pytest.raises(UserError, match=message) as error:
        yield error
    assert "\n" not in str(error.value)
    assert data_dir is None or not list(data_dir.glob("*/*/1.0.0"))


@jax.jit
def forward(module: nnx.Module, *args: Any) -> Any:
    """Return `module(*args)`, compiled once per structure and shapes."""
    return module(*args)


@jax.jit
def stepwise(layer: nnx.Module, u: ArrayLike) -> jax.Array:
    """Return the outputs of `layer.step`, called for each step of u (B, L, H) in turn."""
    u = jnp.asarray(u)

    def step(x, u_k):
        y, x = layer.step(u_k, x)
        return x, y

    return jax.lax.scan(step, layer.initial_state(len(u)), u.swapaxes(0, 1))[1].swapaxes(0, 1)


@functools.partial(jax.jit, static_argnames="method")
def call(layer: nnx.Module, *args: Any, method: str) -> Any:
    """Call a method of a layer, compiled once per structure and shapes."""
    return getattr(layer, method)(*args)


def configured(name: str, variants: str = "") -> ConfigDict:
    """Return the config of a task."""
    return importlib.import_module(f"configs.{name}_prune").get_config(variants)


def train_one_step(options: ModelConfig, config, batch: dict) -> float:
    """Return the loss of a training step on a new model. Everything is compiled together."""
    train = TrainConfig.from_dict(config.train.to_dict())

    @jax.jit
    def step(batch):
        model = Classifier(options, rngs=nnx.Rngs(0))
        optimizer = train.make_optimizer(model, epoch_steps=10)
        functions, *_ = split_model(model)
        return make_train_step(functions, optimizer)(init_state(model, optimizer, jax.random.key(0)), batch)

    state, metrics = step(batch)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state["params"]))
    return float(metrics["loss"])


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """Turn paths "a/b/c" into nested dicts."""
    return unflatten_dict(flat, sep="/")


class Bomb:
    """Its pickle creates a file when it is loaded."""

    def __reduce__(self):
        return Path.touch, (Path("exploded"),)
