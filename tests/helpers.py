"""What several test files share: golden data, made-up files, one training step."""

import functools
import gzip
import importlib
import io
import tarfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from aire.data import synthetic
from aire.models import Classifier, ModelConfig
from aire.training.loop import TrainConfig
from aire.training.step import init_state, make_train_step, split_model

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


@functools.partial(jax.jit, static_argnums=0)
def _call(graphdef, state, *args):
    return nnx.merge(graphdef, state)(*args)


def logits(model: nnx.Module, *args) -> jax.Array:
    """model(*args), compiled. Models of equal structure share a compilation; batch statistics are not updated."""
    return _call(*nnx.split(model), *args)


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


def pack_tree(path: Path, tree: synthetic.Tree) -> Path:
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
        content = synthetic.idx_bytes(array)
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    return folder


def write_cifar(folder: Path, batches: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    """The batches as the binary version's archive; returns the folder it is in."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / "cifar-10-binary.tar.gz", "w:gz") as tar:
        files = {f"{name}.bin": synthetic.binary_batch(*batch) for name, batch in batches.items()} | {
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


def nest(flat):
    tree = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[name] = value
    return tree
