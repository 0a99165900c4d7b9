"""The tasks made of pictures, by their configs: parameter counts, the whole job, a training step at full size."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from aire.data.pipeline import Batches
from aire.data.synthetic import cifar_batches, idx_arrays
from aire.data.tasks import Task, load_task
from aire.models import Classifier
from aire.training.loop import TrainConfig
from aire.training.step import init_state, make_train_step, split_model
from experiments.model_source import model_config
from tests.helpers import write_cifar, write_idx

ROOT = Path(__file__).parents[2]
D_INPUT = {"smnist": 1, "psmnist": 1, "lra_image": 1, "scifar": 3}
LENGTH = {"smnist": 784, "psmnist": 784, "lra_image": 1024, "scifar": 1024}


def get_config(task: str, variants: str = ""):
    return importlib.import_module(f"configs.{task}_prune").get_config(variants)


@pytest.fixture
def folder(tmp_path):
    """Public files of all of them, made up."""
    write_idx(tmp_path / "files", idx_arrays(train=192, test=80))
    return write_cifar(tmp_path / "files", cifar_batches(train=40, test=80))


# S5: counted in the S5 reference's own model, built abstractly from its run script's numbers. S4D: the model of the S4
# code's example.py has 664,586, 3,563,530 and 3,564,554 in one direction; the other adds its C, depth x H x 32 complex.
@pytest.mark.parametrize(
    ("task", "variants", "count"),
    [
        ("smnist", "", 187_786),
        ("psmnist", "", 266_506),
        ("lra_image", "", 5_133_706),
        ("scifar", "", 5_134_730),
        ("smnist", "s4d", 664_586 + 4 * 256 * 32 * 2),
        ("psmnist", "s4d", 664_586 + 4 * 256 * 32 * 2),
        ("lra_image", "s4d", 3_563_530 + 6 * 512 * 32 * 2),
        ("scifar", "s4d", 3_564_554 + 6 * 512 * 32 * 2),
    ],
)
def test_as_many_parameters_as_the_references(task, variants, count):
    config = model_config(get_config(task, variants).model, Task("", {}, D_INPUT[task], 10))
    model = nnx.eval_shape(lambda: Classifier(config, rngs=nnx.Rngs(0)))
    assert sum(parameter.size for parameter in jax.tree.leaves(nnx.state(model, nnx.Param))) == count


def test_the_papers_settings():
    """Typed in from the S5 paper's table and the reference's run_lra_cifar.sh."""
    for task, *expected in (
        ("smnist", 4, 96, 64, 1, 0.1, 0.008, 0.002, 50, 150, 0.01, "standard", False),
        ("psmnist", 4, 128, 64, 2, 0.15, 0.004, 0.001, 50, 150, 0.01, "standard", False),
        ("lra_image", 6, 512, 192, 3, 0.1, 0.0045, 0.001, 50, 250, 0.07, "BfastandCdecay", True),
        ("scifar", 6, 512, 192, 3, 0.1, 0.0045, 0.001, 50, 250, 0.07, "BfastandCdecay", True),
    ):
        config = get_config(task)
        m, t, o = config.model, config.train, config.train.optimizer
        found = [m.depth, m.d_model, m.states, m.ssm.blocks, m.dropout, o.lr, o.ssm_lr, t.batch_size, t.epochs]
        assert [*found, o.weight_decay, o.groups, m.ssm.clip_eigs] == expected
        assert (config.name, config.init, t.warmup_epochs, m.activation) == (task, "scratch", 1, "half_glu1")


def train_one_step(config, folder, data_dir, batch_size):
    """The whole way from the public files: (task, parameters before, parameters after, metrics)."""
    config.data.folder = str(folder)
    config.train.batch_size = batch_size
    task = load_task(config.data.to_dict(), data_dir)
    model = Classifier(model_config(config.model, task), rngs=nnx.Rngs(0))
    model.train()
    functions, params, _ = split_model(model)
    before = jax.tree.map(np.array, params)
    optimizer = TrainConfig.from_dict(config.train.to_dict()).make_optimizer(model, 10)
    batch = Batches(task.splits["train"], batch_size=batch_size, seed=0)[0]
    state, metrics = make_train_step(functions, optimizer)(init_state(model, optimizer, jax.random.key(0)), batch)
    return task, before, state["params"], metrics


def check_step(task, before, after, metrics):
    assert np.isfinite(metrics["loss"]) and 1 < metrics["loss"] < 6  # log 10 = 2.3 for a model that knows nothing
    assert all(np.isfinite(new).all() for new in jax.tree.leaves(after))
    moved = [not np.array_equal(*pair) for pair in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)]
    assert np.mean(moved) > 0.9


@pytest.mark.parametrize("task", ["psmnist", "scifar"])
def test_a_step_from_the_public_files(task, folder, tmp_path):
    config = get_config(task, "smoke")
    config.model.depth = 1
    check_step(*train_one_step(config, folder, tmp_path / "data", 8))


@pytest.mark.slow
@pytest.mark.parametrize("variants", ["", "s4d"])
@pytest.mark.parametrize("task", D_INPUT)
def test_a_step_at_full_size(task, variants, folder, tmp_path):
    """Of a batch of two; all other shapes are the paper's."""
    step = train_one_step(get_config(task, variants), folder, tmp_path / "data", 2)
    split = step[0].splits["train"]
    assert split.take(np.arange(2))["x"].shape == (2, LENGTH[task], D_INPUT[task])
    check_step(*step)


@pytest.mark.slow
@pytest.mark.parametrize("variants", ["smoke", "s4d,smoke"])
@pytest.mark.parametrize("task", D_INPUT)
def test_the_whole_job(task, variants, folder, tmp_path):
    args = f"--config={task}_prune:{variants}", f"--config.data.folder={folder}", "--config.prune.methods=('aire',)"
    command = [sys.executable, "run.py", *args, f"--data_dir={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    steps = (LENGTH[task] // 16, D_INPUT[task])
    assert f" examples of up to {steps[0]} steps, 10 classes" in result.stdout
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert results["chosen"]["aire"]["test"]["accuracy"] > 0
