"""From the public formats of IMDB, AAN and Speech Commands to training and pruning; preparing again after a kill."""

import dataclasses
import itertools
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import aire
from aire import zoo
from aire.data.pipeline import Batches
from aire.data.synthetic import pairs, recordings, reviews, write_tree
from aire.data.tasks import load_task
from aire.io.weights import get_arrays, run_as
from experiments.model_source import model_config
from tests.helpers import configured, pack_tree, train_one_step

ROOT = Path(__file__).parents[2]
DATASETS = {"lra_text": "Imdb", "lra_retrieval": "Aan", "speech_commands": "SpeechCommands"}
NAMES = tuple(DATASETS)
SIZES = {"lra_text": (64, 10, 32), "lra_retrieval": (64, 32, 32), "speech_commands": (64, 24, 24)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Made-up data of each task, by the name of its config."""
    folder = tmp_path_factory.mktemp("public")
    return {
        "lra_text": pack_tree(folder / "imdb/aclImdb_v1.tar.gz", reviews()),
        "lra_retrieval": write_tree(folder / "lra_release/tsv_data", pairs()),
        "speech_commands": pack_tree(folder / "speech/speech_commands_v0.02.tar.gz", recordings()),
    }


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("name", NAMES)
def test_to_a_training_step(folders, data_dir, name):
    config = configured(name, "smoke")
    config.data.folder = str(folders[name])
    config.model.depth = 1
    task = load_task(config.data.to_dict(), data_dir)
    assert tuple(len(split) for split in task.splits.values()) == SIZES[name]
    batch = Batches(task.splits["train"], batch_size=8, seed=0)[0]
    assert train_one_step(model_config(config.model, task), config, batch) == pytest.approx(
        math.log(task.n_classes), rel=0.3
    )


# Another sampling rate ------------------------------------------------------------------------------------------------


def rescaled(config, factor):
    return dataclasses.replace(config, ssm=dataclasses.replace(config.ssm, step_rescale=factor))


@pytest.mark.parametrize("name", ["fashion_mnist_small", "fashion_mnist_s4d_small"])
def test_at_another_rate_two_steps_are_one(name):
    model = aire.load(zoo.path(name))
    half = run_as(model, rescaled(model.config, 2.0))
    once, twice = (jax.jit(lambda s: s.modes().Lambda_bar)(m.blocks[0].ssm) for m in (model, half))
    np.testing.assert_allclose(twice, once**2, rtol=1e-4, atol=1e-6)
    assert model.config.ssm.step_rescale == 1 and half.config.ssm.step_rescale == 2
    back = get_arrays(run_as(half, rescaled(half.config, 1.0)))
    assert all(np.array_equal(array, back[path]) for path, array in get_arrays(model).items())


def test_the_variant_8khz_loads_what_the_rest_of_the_command_trained():
    config = configured("speech_commands", "8khz,s4d")
    assert config.init == "{runs}/speech_commands_s4d/model.safetensors" and config.name == "speech_commands_s4d_8khz"
    assert (config.data.sample_every, config.model.ssm.step_rescale) == (2, 2.0)


def test_the_variant_8khz_finds_the_model_beside_its_own_work_folder(folders, data_dir, tmp_path):
    """Wherever that is: the error names the place, and so does what is announced."""
    command = [sys.executable, "run.py", "--config=speech_commands_prune:smoke,8khz", f"--data_dir={data_dir}"]
    command += [f"--config.data.folder={folders['speech_commands']}", f"--workdir={tmp_path / 'half'}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    model = tmp_path / "speech_commands_smoke" / "model.safetensors"
    assert f"error: no model file at {model}" in result.stderr
    assert f"features: {model}\n" in result.stdout


# Preparing -----------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from aire.data.tasks import load_task
from aire.data.formats.preparation import PreparedOnce

dataset = next(d for d in PreparedOnce.__subclasses__() if d.__name__ == sys.argv[1])

def encode(self, example, encode=dataset.encode, seen=[]):
    seen.append(example)
    return encode(self, example) if len(seen) < 60 else os.kill(os.getpid(), signal.SIGKILL)

dataset.encode = encode
load_task(eval(sys.argv[2]), Path(sys.argv[3]))
"""


def contents(folder: Path) -> dict[str, bytes]:
    """All files of the one dataset prepared in a folder, but for its lock."""
    (dataset,) = (path for path in folder.glob("*/*") if path.parent.name != "downloads")
    files = {str(path.relative_to(dataset)): path for path in dataset.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "lock"}


@pytest.mark.parametrize(
    "name", ["lra_text", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lra_retrieval", "speech_commands"))]
)
def test_killed_while_preparing(folders, tmp_path, name):
    """kill -9 amid the examples, then the same call: nothing is left of the first, and the data is what an undisturbed
    preparation writes."""
    config = configured(name, "smoke").data
    config.folder = str(folders[name])
    command = [sys.executable, "-c", KILLED, DATASETS[name], repr(config.to_dict()), str(tmp_path / "killed")]
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode == -signal.SIGKILL
    left = {path.name.partition(".")[0] for path in (tmp_path / "killed").glob("*/*/*")}
    assert left == {"incomplete", "lock"}
    resumed, whole, again = (load_task(config.to_dict(), tmp_path / n) for n in ("killed", "whole", "whole"))
    for split, other in itertools.product(whole.splits, (resumed, again)):
        np.testing.assert_array_equal(other.splits[split].x, whole.splits[split].x)
        np.testing.assert_array_equal(other.splits[split].y, whole.splits[split].y)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


# The commands --------------------------------------------------------------------------------------------------------


def run(name: str, folder: Path, data: Path, workdir: Path, *more: str) -> dict:
    """The results of a run that prunes by one method."""
    options = f"--config.data.folder={folder}", "--config.prune.methods=('aire',)", f"--data_dir={data}"
    command = [sys.executable, "run.py", f"--config={name}", *options, f"--workdir={workdir}", *more]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return json.loads((workdir / "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "s4d,"])
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_job(folders, data_dir, tmp_path, name, kind):
    results = run(f"{name}_prune:{kind}smoke", folders[name], data_dir, tmp_path / "run")
    baseline = "linear classifier" if name == "speech_commands" else "bag of tokens"
    assert set(results["baselines"]) == {"majority class", baseline}
    pruned = aire.load(tmp_path / "run/pruned.safetensors")
    split = load_task(results["config"]["data"], data_dir).splits["test"]
    batch = split.take(np.arange(len(split)))
    accuracy = np.mean(np.argmax(pruned(batch["x"], batch["lengths"]), axis=-1) == batch["y"])
    assert accuracy == pytest.approx(results["chosen"]["aire"]["test"]["accuracy"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "s4d,"])
def test_trained_at_16_khz_and_pruned_at_8(folders, data_dir, tmp_path, kind):
    folder = folders["speech_commands"]
    trained = run(f"speech_commands_prune:{kind}smoke", folder, data_dir, tmp_path / "whole")
    for file in ("model", "pruned"):
        init = f"--config.init={tmp_path / 'whole' / file}.safetensors"
        half = run(f"speech_commands_prune:{kind}smoke,8khz", folder, data_dir, tmp_path / file, init)
        assert half["config"]["name"] == trained["config"]["name"] + "_8khz"
        assert aire.load(tmp_path / file / "pruned.safetensors").config.ssm.step_rescale == 2
