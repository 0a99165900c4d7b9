"""All tasks: from files in the public formats to training and pruning, and preparation after a kill."""

import itertools
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aire
from aire.data.pipeline import Batches, Split
from aire.data.splits import divide_validation
from aire.data.tasks import load_task
from aire.utils.errors import UserError
from experiments.model_source import model_config
from tests.experiments.conftest import call
from tests.helpers import ROOT, configured, logits, train_one_step

# Steps and features of an example of the smoke configs. All but Pathfinder read synthetic files in the public formats.
SHAPES = {
    "lra_text": (64, 135),
    "lra_retrieval": (64, 98),
    "lra_image": (64, 1),
    "lra_pathfinder": (256, 1),
    "lra_pathx": (256, 1),
    "speech_commands": (160, 1),
    "smnist": (49, 1),
    "psmnist": (49, 1),
    "fashion_mnist": (49, 1),
    "scifar": (64, 3),
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("name", SHAPES)
def test_smoke_data(data_dir, name):
    steps, d_input = SHAPES[name]
    task = load_task(configured(name, "smoke").data.to_dict(), data_dir)
    assert (max(split.lengths.max() for split in task.splits.values()), task.d_input) == (steps, d_input)
    assert f" examples of up to {steps} steps, {task.n_classes} classes" in task.description()
    again = load_task(configured(name, "smoke").data.to_dict(), data_dir)
    for split, other in zip(task.splits.values(), again.splits.values(), strict=True):
        np.testing.assert_array_equal(split.x, other.x)


@pytest.mark.parametrize("name", ["lra_listops", "lra_pathfinder", "smnist"])
def test_selection_has_other_examples_than_validation(data_dir, name):
    """More examples that evaluate leave the other splits as they are, and the settings of the training, too."""
    options = configured(name, "smoke").data
    splits = load_task(options.to_dict(), data_dir).splits
    options.update(selection_examples=10, more_test_examples=8)
    more = load_task(options.to_dict(), data_dir).splits
    for split in ("train", "validation"):
        np.testing.assert_array_equal(more[split].x, splits[split].x)
    np.testing.assert_array_equal(more["selection"].x, splits["selection"].x[:10])
    np.testing.assert_array_equal(more["test"].x[:32], splits["test"].x)
    assert (len(more["selection"]), len(more["test"])) == (10, 40)
    rows = [x.tobytes() for split in ("validation", "selection", "test") for x in more[split].x]
    assert len(set(rows)) == len(rows)


def test_the_validation_split_is_divided():
    whole = Split(np.arange(9), np.arange(9), np.arange(9))

    def sizes(**limits) -> list[list[int]]:
        divided = divide_validation({"validation": whole}, **limits)
        return [divided[name].y.tolist() for name in ("validation", "selection")]

    assert sizes() == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    assert sizes(validation_examples=2, selection_examples=3) == [[0, 1], [2, 3, 4]]
    assert sizes(validation_examples=9) == sizes()
    with pytest.raises(UserError, match="selection_examples=-1: expected at least 0"):
        sizes(selection_examples=-1)
    with pytest.raises(UserError, match="1 validation examples: expected at least 2"):
        divide_validation({"validation": whole[:1]})


@pytest.mark.parametrize(
    "name",
    ["lra_retrieval", "scifar", *(pytest.param(n, marks=pytest.mark.slow) for n in ("lra_text", "speech_commands"))],
)
def test_a_training_step(data_dir, name):
    """Pairs of documents and several features, then tokens and one feature: the first loss is about that of a guess."""
    config = configured(name, "smoke")
    config.model.depth = 1
    task = load_task(config.data.to_dict(), data_dir)
    batch = Batches(task.splits["train"], batch_size=8, seed=0)[0]
    loss = train_one_step(model_config(config.model, task), config, batch)
    assert loss == pytest.approx(math.log(task.n_classes), rel=0.5)


# Another sampling rate -----------------------------------------------------------------------------------------------


def test_the_8khz_variant_names_the_model_of_the_other_variants():
    config = configured("speech_commands", "8khz,s4d")
    assert config.init == "{runs}/speech_commands_s4d/model.safetensors" and config.name == "speech_commands_s4d_8khz"
    assert (config.data.sample_every, config.model.ssm.step_rescale) == (2, 2.0)


def test_the_8khz_variant_looks_for_the_model_next_to_its_work_folder(data_dir, tmp_path):
    model = tmp_path / "speech_commands_smoke" / "model.safetensors"
    with pytest.raises(UserError, match=f"^no model file at {model}"):
        call("--config=speech_commands_prune:smoke,8khz", data=data_dir, workdir=tmp_path / "half")


# Preparation ---------------------------------------------------------------------------------------------------------

KILLED = """
import json, os, signal, sys
from pathlib import Path
from aire.data.formats.preparation import PreparedOnce
from aire.data.tasks import load_task

generate = PreparedOnce._generate_examples

def generate_some(self, examples, done=[]):
    for example in generate(self, examples):
        done.append(0)
        yield example if len(done) < 30 else os.kill(os.getpid(), signal.SIGKILL)

PreparedOnce._generate_examples = generate_some
load_task(json.loads(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lra_text", "lra_retrieval", "speech_commands", "scifar", "smnist", "lra_pathfinder"])
def test_killed_while_preparing(data_dir, tmp_path, name):
    """After kill -9, the same call starts again and gives the same data. `test_preparation` compares the files."""
    options = configured(name, "smoke").data.to_dict()
    command = [sys.executable, "-c", KILLED, json.dumps(options), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, cwd=ROOT).returncode == -signal.SIGKILL
    folders = [path for path in tmp_path.glob("*/*") if path.parent.name != "synthetic"]
    assert {path.name.partition(".")[0] for folder in folders for path in folder.iterdir()} == {"incomplete", "lock"}
    resumed, full = (load_task(options, folder).splits for folder in (tmp_path, data_dir))
    for split, field in itertools.product(full, ("x", "lengths", "y")):
        np.testing.assert_array_equal(getattr(resumed[split], field), getattr(full[split], field))


# Runs ----------------------------------------------------------------------------------------------------------------


def run(config: str, data: Path, workdir: Path, *more: str) -> dict:
    """Return the results of a run with one method; check the accuracy of the saved model."""
    call(f"--config={config}", "--config.prune.methods=('aire',)", *more, data=data, workdir=workdir)
    results = json.loads((workdir / "results.json").read_text())
    pruned = aire.load(workdir / "pruned.safetensors")
    split = load_task(results["config"]["data"], data).splits["test"]
    batch = split.take(np.arange(len(split)))
    accuracy = np.mean(np.argmax(logits(pruned, batch["x"], batch["lengths"]), axis=-1) == batch["y"])
    assert accuracy == pytest.approx(results["chosen"]["aire"]["test"]["accuracy"])
    return results


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "s4d,"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_run(data_dir, tmp_path, name, kind):
    results = run(f"{name}_prune:{kind}smoke", data_dir, tmp_path)
    baseline = "bag of tokens" if SHAPES[name][1] > 3 else "linear classifier"
    assert set(results["baselines"]) == {"majority class", baseline}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "s4d,"])
def test_trained_at_16_khz_and_pruned_at_8(data_dir, tmp_path, kind):
    trained = run(f"speech_commands_prune:{kind}smoke", data_dir, tmp_path / "full")
    for file in ("model", "pruned"):
        init = f"--config.init={tmp_path / 'full' / file}.safetensors"
        half = run(f"speech_commands_prune:{kind}smoke,8khz", data_dir, tmp_path / file, init)
        assert half["config"]["name"] == trained["config"]["name"] + "_8khz"
        assert aire.load(tmp_path / file / "pruned.safetensors").config.ssm.step_rescale == 2
