"""The command line, as people use it: complete jobs, their files, kills, and mistakes."""

import csv
import errno
import importlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import aire
import run
from aire.data.options import describe
from aire.data.synthetic import idx_arrays
from aire.data.tasks import load_task
from aire.pruning import scores
from aire.pruning.methods import METHODS
from aire.utils.errors import UserError
from aire.utils.files import occupied
from configs import lra_listops_prune
from experiments import settings, sweep
from experiments.model_source import data_options
from experiments.speed.speed_job import SECTIONS
from tests.experiments.conftest import ROOT, SAMPLE, call, command, start
from tests.helpers import configured, logits, write_idx

pytestmark = pytest.mark.usefixtures("jax_defaults")  # the job runs as a user's program
SMOKE = "--config=lra_listops_prune:smoke"


@pytest.mark.xdist_group("run")
def test_a_run_writes_all_files(finished):
    workdir, printed = finished
    figures = {"accuracy_against_ratio.png", "states_per_layer.png", "eigenvalues.png"}
    files = {"results.csv", "results.json", "report.md", "report.html", "pruned.safetensors", "model.safetensors"}
    assert files | figures <= {path.name for path in workdir.iterdir()}
    for figure in figures:
        assert (workdir / figure).read_bytes().startswith(b"\x89PNG")
        assert figure in (workdir / "report.md").read_text()
    rows = list(csv.DictReader((workdir / "results.csv").read_text().splitlines()))
    assert list(dict.fromkeys(row["method"] for row in rows)) == list(SAMPLE)
    assert [float(row["ratio"]) for row in rows[:4]] == [0.0, 0.25, 0.5, 0.75]
    assert [int(row["states"]) for row in rows[:4]] == [16, 12, 8, 4]
    assert "256 examples of train, without labels, for measured" in printed
    assert "bag of tokens" in printed and "no cut" in printed and "states" in printed


@pytest.mark.xdist_group("run")
def test_results_agree_with_each_other_and_the_saved_model(finished):
    workdir, _ = finished
    results = json.loads((workdir / "results.json").read_text())
    assert results["seed"] == 0 and len(results["commit"]) >= 7 and results["versions"]["jax"]
    chosen = results["chosen"]["aire"]
    pruned = aire.load(workdir / "pruned.safetensors")
    assert list(pruned.config.state_sizes) == chosen["states"]
    rows = [r for r in csv.DictReader((workdir / "results.csv").read_text().splitlines()) if r["method"] == "aire"]
    full = results["full"]["selection"]["accuracy"]
    within = [float(r["ratio"]) for r in rows if float(r["selection_accuracy"]) >= full - 0.01 - 1e-9]
    assert chosen["ratio"] == max(within)


@pytest.mark.xdist_group("run")
def test_the_interactive_report_has_the_sweep_and_predicts_errors_also_for_methods_without_data(finished):
    workdir, _ = finished
    page, rows = (workdir / "report.html").read_text(), list(csv.DictReader((workdir / "results.csv").open()))
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', page)[1])
    chosen = json.loads((workdir / "results.json").read_text())["chosen"]
    assert [method["name"] for method in data["methods"]] == list(SAMPLE)
    for method in data["methods"]:
        own = [row for row in rows if row["method"] == method["name"]]
        assert method["accuracy"] == [float(row["selection_accuracy"]) for row in own]
        assert [sum(kept) for kept in method["kept"]] == [int(row["states"]) for row in own]
        assert method["kept"][method["chosen"]] == chosen[method["name"]]["states"]
        predicted = [row for row in method["predicted"] if None not in row]
        assert len(predicted) == (0 if method["name"] == "aire_refit" else 4)
        assert not predicted or (predicted[0] == [0, 0] and all(error > 0 for error in predicted[-1]))
        measured = [row for row in method["measured"] if None not in row]
        assert len(measured) == (method["name"] in ("measured", "aire_refit"))
    assert "(report.html)" in (workdir / "report.md").read_text()


@pytest.mark.xdist_group("run")
def test_the_pruned_model_reports_its_own_test_accuracy(finished, data):
    workdir, _ = finished
    check_pruned_model(workdir, json.loads((workdir / "results.json").read_text()), data)


def check_pruned_model(workdir, results, data):
    """The saved model has the test accuracy in the results."""
    split = load_task(results["config"]["data"], data).splits["test"]
    model = aire.load(workdir / "pruned.safetensors")
    batch = split.take(np.arange(len(split)))
    answers = np.argmax(logits(model, batch["x"], batch["lengths"]), axis=-1)
    assert np.mean(answers == split.y) == pytest.approx(results["chosen"]["aire"]["test"]["accuracy"])


def test_only_what_is_read_is_prepared():
    """A model that is not trained here needs no training data, except for the calibration inputs."""
    config = lra_listops_prune.get_config("small")
    config.prune.calibration.examples = 64
    assert data_options(config) == config.data.to_dict() | {"train_examples": 64}
    config.init = "scratch"
    assert data_options(config) == config.data.to_dict()


@pytest.mark.slow
def test_every_method_runs(data, tmp_path):
    more = "--config.prune.methods=all", "--config.prune.ratios=(0.0, 0.5)"
    call(SMOKE, *more, data=data, workdir=tmp_path)
    rows = csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    assert list(dict.fromkeys(row["method"] for row in rows)) == list(METHODS)


@pytest.mark.xdist_group("run")
@pytest.mark.slow
@pytest.mark.parametrize("kind,per_layer", [("s4d", 16 * 8), ("lru", 8)])
def test_another_layer(kind, per_layer, data, tmp_path):
    """Variants may come in any order. S4D counts its states in each of 16 channels."""
    more = ["--config.prune.methods=('aire',)", "--config.prune.ratios=(0.0, 0.5)"]
    call(f"--config=lra_listops_prune:smoke,{kind}", *more, data=data, workdir=tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["config"]["name"] == f"lra_listops_{kind}_smoke"
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert [int(row["states"]) for row in rows] == [2 * per_layer, per_layer]
    uncut, pruned = (aire.load(tmp_path / f"{name}.safetensors").config for name in ("model", "pruned"))
    assert uncut.ssm.kind == pruned.ssm.kind == kind and uncut.state_sizes == (per_layer, per_layer)


KILLED = """
import os, signal, sys
from aire.training.checkpoints import Checkpoints
save = Checkpoints.save
def save_or_die(self, *args, **options):
    if self.latest():  # the first checkpoint is on disk
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, *args, **options)
Checkpoints.save = save_or_die
sys.argv.pop(0)
import run
run.main()
"""


@pytest.mark.xdist_group("run")
@pytest.mark.slow
def test_a_killed_run_resumes_to_identical_weights(finished, data, tmp_path):
    more = [SMOKE, "--config.train.epochs=80", "--config.train.evaluate_every=20"]
    more += ["--config.prune.methods=('aire',)", "--config.prune.ratios=(0.0, 0.5)"]
    call(*more, data=data, workdir=tmp_path / "uninterrupted")
    arguments = command(*more, data=data, workdir=tmp_path / "killed")[1:]
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    start(*more, data=data, workdir=tmp_path / "killed")
    a, b = (tmp_path / name / "model.safetensors" for name in ("uninterrupted", "killed"))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.xdist_group("run")
@pytest.mark.slow
def test_a_cut_model_is_trained_further(finished, data, tmp_path):
    cut = finished[0] / "pruned.safetensors"
    more = f"--config.init={cut}", "--config.finetune=True", "--config.prune.methods=('aire',)"
    printed = call(SMOKE, *more, data=data, workdir=tmp_path)
    assert f"model: loaded from {cut} (pruned.safetensors), fine-tuned here with seed 0, best at step" in printed
    before, after = aire.load(cut), aire.load(tmp_path / "model.safetensors")
    assert before.config == after.config
    assert np.any(np.asarray(before.encoder.kernel[...]) != np.asarray(after.encoder.kernel[...]))


def test_only_a_model_can_be_trained_further(data, tmp_path):
    with pytest.raises(UserError, match=r"finetune=True: expected --config\.init=FILE"):
        call(SMOKE, "--config.finetune=True", data=data, workdir=tmp_path)


@pytest.mark.slow
def test_image_data(data, tmp_path):
    folder = write_idx(tmp_path / "files", idx_arrays(train=192, test=80))
    args = "--config=fashion_mnist_prune:smoke", f"--config.data.folder={folder}", "--config.prune.methods=('aire',)"
    printed = call(*args, data=data, workdir=tmp_path / "run")
    sizes = "64 / 8 / 8 / 32 examples of up to 49 steps, 10 classes"
    assert f"data: Fashion-MNIST, the files in {folder}: {sizes}" in printed
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["baselines"]) == {"majority class", "linear classifier"}
    check_pruned_model(tmp_path / "run", results, data)


@pytest.mark.parametrize(
    "args,message",
    [
        ([], "give one --config=NAME; there are: accelerator_check, compare_methods, fashion_"),
        (["--config=lra_listop_prune"], "unknown config 'lra_listop_prune' (did you mean 'lra_listops_prune'?)"),
        (
            ["--config=lra_listops_prune:tiny"],
            "unknown variant 'tiny': expected one of ['lru', 'mamba', 's4d', 'small', 'smoke']",
        ),
        ([SMOKE, "--config.train.epoch=3"], "the config has no 'train.epoch' (did you mean 'epochs'?)"),
        ([SMOKE, "--config.train.lr=3"], "the config has no 'train.lr' (did you mean 'train.optimizer.lr'?)"),
        ([SMOKE, "--config.train.epochs=many"], "flag --config.train.epochs=many"),
        ([SMOKE, "--workdirs=x"], "Unknown command line flag 'workdirs'"),
        ([SMOKE, "more"], "unexpected arguments ['more']"),
        (
            [SMOKE, "--config.prune.ratios=(0.0, 1.0)"],
            "prune.ratios=(0.0, 1.0): expected 1 to 1,000 values, each a",
        ),
        ([SMOKE, "--config.prune.ratios=(0.5,)"], "prune.ratios=(0.5,): expected 0.0 among them"),
        ([SMOKE, "--config.prune.methods=('airy',)"], "prune.methods: unknown score 'airy': expected one of"),
        ([SMOKE, "--config.prune.methods=('aire','aire')"], "prune.methods names aire more than once"),
        ([SMOKE, "--config.prune.scope=local"], "prune.scope='local': expected one of ['', 'global', 'uniform']"),
        ([SMOKE, "--config.data.task=lists"], "data.task='lists': expected one of ["),
        (
            ["--config=fashion_mnist_prune:smoke", "--config.data.folder=nowhere"],
            "nowhere: missing train-images-idx3-ubyte",
        ),
        (["--config=fashion_mnist_prune:smoke", "--config.data.pool=5"], "pool=5: expected a divisor of 28"),
        ([SMOKE, "--config.init=nowhere.safetensors"], "no model file at nowhere.safetensors"),
        (
            [SMOKE, "--config.init=nowhere"],
            "no file or folder at nowhere: expected a .safetensors file of aire.save or a reference",
        ),
        ([SMOKE, "--config.init=zoo"], "no model 'lra_listops_smoke' in the zoo"),
        ([SMOKE, "--config.data.lra_release=nowhere"], "nowhere: missing basic_train.tsv"),
        ([SMOKE, "--config.data.length=20"], "max_length=30 does not fit length 20"),
        ([SMOKE, "--config.model.activation=relu"], "model.activation='relu': expected one of"),
        ([SMOKE, "--config.model.ssm.step_rescale=-1.0"], "model.ssm.step_rescale=-1.0: expected a number > 0"),
        ([SMOKE, "--config.model.ssm.dt_max=inf"], "model.ssm.dt_max=inf: expected a number > 0"),
        (
            [SMOKE, "--config.model.ssm.kind=s4d"],
            "model.ssm.S4DConfig: unknown 'C_init', 'blocks', 'clip_eigs', 'conj_sym': expected",
        ),
        ([SMOKE, "--config.model.bn_momentum=-1.0"], "model.bn_momentum=-1.0: expected a number >= 0 and < 1"),
        ([SMOKE, "--config.model.retrieval=True"], "model.retrieval=True: expected False with this task"),
        ([SMOKE, "--config.model.d_model=0"], "model.d_model=0: expected a whole number from 1 to"),
        ([SMOKE, "--config.model.d_model=1000000000"], "model.d_model=1000000000: expected a whole number from 1 to"),
        ([SMOKE, "--config.model.d_model=65536"], "GB of memory, this machine has"),
        (
            [SMOKE, "--config.model.states=100000"],
            "model.states=100000: expected at most 16,384 in the matrix of HiPPO",
        ),
        ([SMOKE, "--config.model.depth=-1"], "model.depth=-1: expected a whole number from 1 to 1,024"),
        ([SMOKE, "--config.train.optimizer.lr=nan"], "train.optimizer.lr=nan: expected a number > 0"),
        ([SMOKE, "--config.train.optimizer.ssm_lr=-1.0"], "train.optimizer.ssm_lr=-1.0: expected a number > 0"),
        ([SMOKE, "--config.train.optimizer.weight_decay=-1.0"], "weight_decay=-1.0: expected a number >= 0"),
        ([SMOKE, "--config.train.epochs=-1"], "train.epochs=-1: expected a whole number from 1 to"),
        ([SMOKE, "--config.train.batch_size=65"], "train.batch_size=65: expected at most data.train_examples=64"),
        ([SMOKE, "--config.train.checkpoint_minutes=0.0"], "train.checkpoint_minutes=0.0: expected a number > 0"),
        ([SMOKE, "--config.prune.tolerance=-1.0"], "prune.tolerance=-1.0: expected a number >= 0 and <= 100"),
        ([SMOKE, "--config.prune.tolerance=nan"], "prune.tolerance=nan: expected a number >= 0 and <= 100"),
        ([SMOKE, "--config.prune.unstable=foo"], "prune.unstable='foo': expected one of ['error', 'first']"),
        ([SMOKE, "--config.prune.batch_size=0"], "prune.batch_size=0: expected a whole number from 1 to 1,048,576"),
        ([SMOKE, "--config.prune.batch_size=1000000000"], "prune.batch_size=1000000000: expected a whole number"),
        ([SMOKE, "--config.prune.ratios=abc"], "prune.ratios="),
        ([SMOKE, "--config.prune.ratios=(0.0, None)"], "prune.ratios=(0.0, None): expected 1 to 1,000 values"),
        ([SMOKE, "--config.prune.ratios=(0.0, 'a')"], "prune.ratios=(0.0, 'a'): expected 1 to 1,000 values"),
        (
            [SMOKE, "--config.prune.methods=('aire',)", "--config.prune.ratios=(0.0, 0.97)"],
            "prune.ratios: 0.97 would keep none of the 16 states, with",
        ),
        ([SMOKE, "--config.data.length=1000000000"], "data.length=1000000000: expected a whole number from 2 to"),
        ([SMOKE, "--config.seed=4294967296"], "seed=4294967296: expected a whole number from 0 to 4,294,967,295"),
        ([SMOKE, "--config.seed=9223372036854775808"], "seed=9223372036854775808: expected a whole number"),
        ([SMOKE, "--config.experiment=foo"], "experiment='foo': this config's is 'prune', which cannot be changed"),
        ([SMOKE, "--config.name=a\0b"], "name='a\\x00b': expected a name without / and NUL, at most"),
        (
            ["--config=compare_methods:smoke", "--config.models=(0.5,)"],
            "models=(0.5,): expected 1 to 1,000 values, each",
        ),
        (["--config=compare_methods:smoke", "--config.models=(None,)"], "models=(None,): expected 1 to 1,000 values"),
    ],
)
def test_a_mistake_is_one_clear_line(args, message, data, tmp_path, monkeypatch):
    assert message in error_of(*args, data=data, workdir=tmp_path, monkeypatch=monkeypatch)


@pytest.mark.parametrize(
    "mistake",
    ["train.epochs=-1", "model.dropout=2.0", "prune.tolerance=nan", "data.max_depth=0", "model.ssm.dt_min=-1.0"],
)
def test_mistakes_are_found_before_the_data_is_prepared(mistake, tmp_path, monkeypatch):
    folders = {"data": tmp_path / "data", "workdir": tmp_path / "run", "monkeypatch": monkeypatch}
    assert mistake.partition("=")[0] in error_of(SMOKE, f"--config.{mistake}", **folders)
    assert not (tmp_path / "data").exists()


def test_all_mistakes_are_named_at_once(tmp_path):
    mistakes = "train.epochs=0", "train.optimizer.lr=-1.0", "model.dropout=2.0", "model.depth=0", "data.max_args=1"
    mistakes += "prune.scope=x", "prune.calibration.examples=0", "seed=-1"
    with pytest.raises(UserError) as error:
        unknown = "--config.prune.methods=('airy', 'aire', 'lost')"
        call(SMOKE, unknown, *(f"--config.{mistake}" for mistake in mistakes), data=tmp_path / "data", workdir=tmp_path)
    named = [line.partition(": expected")[0].replace("'", "") for line in str(error.value).splitlines()]
    names = [f"prune.methods: unknown score {name}" for name in ("airy", "lost")]
    assert sorted(named) == sorted([*mistakes, *names])


def test_data_of_another_task_is_named(tmp_path):
    with pytest.raises(UserError) as error:
        call(SMOKE, "--config.data.task=cifar10", data=tmp_path / "data", workdir=tmp_path)
    lines = str(error.value).splitlines()
    assert "data.max_depth: the task 'cifar10' has no such option" in lines
    assert "data.grey is missing, an option of the task 'cifar10'" in lines


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return None", "score 'mine' returned"),
        ("return [1.0] * 3", "score 'mine' returned shape [3]"),
        ("return -abs(modes.Lambda_bar)", "score 'mine' returned negative"),
        ("return (1, [2])", "score 'mine' returned a tuple"),
        ("return modes.eigenvalues", "score 'mine' fails for layer 'blocks/0/ssm' with AttributeError"),
        ("raise KeyError('rank')", "score 'mine' fails for layer 'blocks/0/ssm' with KeyError: 'rank'"),
        ("raise ValueError('a\\nb')", "score 'mine' fails for layer 'blocks/0/ssm' with ValueError: a b"),
        ("raise SystemExit(0)", "score 'mine' fails for layer 'blocks/0/ssm' with SystemExit: 0"),
    ],
)
def test_a_users_score_is_tried_first(body, message, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(f"import aire\n@aire.pruning.scores.register('mine')\ndef f(modes):\n    {body}\n")
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    config = lra_listops_prune.get_config("smoke")
    config.prune.update(scores_file=str(tmp_path / "own.py"), methods=("aire", "mine"))
    with pytest.raises(UserError) as error:
        sweep.prepare(config, tmp_path)
    assert str(error.value).startswith(f"prune.scores_file: {message}") and "\n" not in str(error.value)


@pytest.mark.parametrize("body", ["return abs(modes.Lambda_bar)", "return list(range(len(modes.Lambda_bar)))"])
def test_a_good_score_is_accepted(body, tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(f"import aire\n@aire.pruning.scores.register('mine')\ndef f(modes):\n    {body}\n")
    monkeypatch.setattr(scores, "SCORES", dict(scores.SCORES))
    config = lra_listops_prune.get_config("smoke")
    config.prune.scores_file = str(tmp_path / "own.py")
    assert "mine" in sweep.prepare(config, tmp_path)


def test_too_little_space_is_named_first(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9 - 10**6, 10**6))
    line = error_of(SMOKE, data=data, workdir=tmp_path, monkeypatch=monkeypatch)
    assert f"{tmp_path}: about 0.1 GB will be written, 0.0 GB are free" in line


@pytest.mark.xdist_group("run")
def test_space_for_the_data_is_checked_before_it_is_prepared(finished, data, tmp_path, monkeypatch):
    """Generated data count by their sizes, downloads by theirs, and prepared data not at all."""
    forms = {name: describe(configured(name).data.to_dict()) for name in ("lra_listops", "speech_commands")}
    assert forms["lra_listops"].missing_bytes(tmp_path) == (96_000 + 3 * 2_000) * 2_000
    assert 5e9 < forms["speech_commands"].missing_bytes(tmp_path) < 7e9
    form = describe(configured("lra_listops", "smoke").data.to_dict())
    assert form.missing_bytes(data) == 0 < form.missing_bytes(tmp_path)
    free = shutil._ntuple_diskusage(10**9, 0, 10**8)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    folders = {"data": tmp_path / "data", "workdir": tmp_path / "run", "monkeypatch": monkeypatch}
    line = error_of(SMOKE, "--config.data.train_examples=10000000", "--config.data.max_length=30", **folders)
    assert f"{tmp_path / 'data'}: about 0.3 GB will be written, 0.1 GB are free" in line
    assert not (tmp_path / "data").exists()


def test_every_config_passes_its_own_checks(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**15, 0, 10**15))
    monkeypatch.setattr(os, "sysconf", lambda _: 10**6)
    for name in run.config_names():
        if name.endswith("_prune"):
            for variants in ("", "s4d", "small", "smoke"):
                config = importlib.import_module(f"configs.{name}").get_config(variants)
                sweep.prepare(config, tmp_path)
                if config.init == "scratch" and variants == "":
                    settings.check_room(config, config.data.to_dict(), tmp_path, tmp_path)


def error_of(*args, monkeypatch, **folders):
    """The error message of `run.py`."""
    monkeypatch.setattr(sys, "argv", command(*args, **folders)[1:])
    with pytest.raises(SystemExit) as stopped:
        run.main()
    line = stopped.value.code
    assert line.startswith("error: ") and "\n" not in line
    return line


def test_a_file_of_scores_that_exits_does_not_end_the_run_silently(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text("import sys\nsys.exit(0)\n")
    folders = {"data": tmp_path, "workdir": tmp_path, "monkeypatch": monkeypatch}
    assert "own.py' fails with SystemExit: 0" in error_of(SMOKE, f"--config.prune.scores_file={own}", **folders)
    long = error_of(SMOKE, f"--config.prune.scores_file={300 * 'é'}", **folders)
    assert "expected a text without NUL, at most 255 bytes between two /" in long and "Errno" not in long


def test_a_terminal_without_arrows_does_not_end_a_run(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    monkeypatch.setattr(run, "run", lambda _: print("64 → 32 states"))
    run.main()
    assert written.getvalue() == b"64 ? 32 states\n"


def test_standard_output_that_cannot_be_written_is_one_line(monkeypatch):
    def fail(_):
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

    monkeypatch.setattr(run, "run", fail)
    monkeypatch.setattr(os, "dup2", lambda *_: None)  # pytest's own
    with pytest.raises(SystemExit, match=r"error: \[Errno 32\] Broken pipe; run the same command again to go on"):
        run.main()


def test_an_error_goes_to_standard_error(data, tmp_path):
    result = subprocess.run(command(data=data, workdir=tmp_path), cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("error: give one --config=NAME")
    assert result.stderr.count("\n") == 1


@pytest.mark.xdist_group("run")
def test_a_config_that_does_not_fit_is_an_error_and_changes_no_file(finished, data, monkeypatch):
    workdir, _ = finished
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    for args, message in [
        (["--config.model.d_model=8"], "model.d_model is 16 there, 8 here"),
        ([f"--config.init={workdir / 'model.safetensors'}", "--config.model.depth=3"], "layers is 2 there, 3 here"),
    ]:
        assert message in error_of(SMOKE, *args, data=data, workdir=workdir, monkeypatch=monkeypatch)
    assert {path: path.read_bytes() for path in before} == before


def test_an_unwritable_work_folder_is_named(data, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    line = error_of(SMOKE, data=data, workdir=tmp_path / "file" / "run", monkeypatch=monkeypatch)
    assert f"cannot write {tmp_path / 'file'}" in line


def test_a_second_run_in_a_work_folder_is_told_who_is_there(data, tmp_path, monkeypatch):
    """In one process, because a lock belongs to an open file. The lock file of a killed process does not block."""
    program = Path(sys.argv[0]).name
    with occupied(tmp_path):
        line = error_of(SMOKE, data=data, workdir=tmp_path, monkeypatch=monkeypatch)
    assert line.startswith(f"error: {tmp_path} is in use by process {os.getpid()} on {socket.gethostname()} since 20")
    assert line.endswith("wait for it, or choose another --workdir") and program in line
    assert not (tmp_path / "running.json").exists()
    held = "with files.occupied(pathlib.Path('.')): os.kill(os.getpid(), 9)"
    killed = subprocess.run(
        [sys.executable, "-c", f"import os, pathlib; from aire.utils import files\n{held}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert killed.returncode == -9 and (tmp_path / "running.json").exists()
    with occupied(tmp_path):
        pass


def test_compiled_programs_are_kept_in_the_work_folder(tmp_path):
    """The limit on the compile time is set to 0 after `keep_compiled`, so the test does not depend on the machine."""
    code = """
import jax, pathlib, run
run.keep_compiled(pathlib.Path("work"))
assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.eye(9))
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=300)
    assert any((tmp_path / "work" / "compiled").iterdir())
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cache_of_the_users_own_is_left_alone(tmp_path):
    before = jax.config.jax_compilation_cache_dir
    run.keep_compiled(tmp_path)
    assert jax.config.jax_compilation_cache_dir == before == os.environ["JAX_COMPILATION_CACHE_DIR"]


@pytest.mark.skipif(sys.platform != "linux", reason="huge pages are requested on Linux only")
@pytest.mark.parametrize(("name", "restarts"), [("aire", True), ("theirs", False)])
def test_the_installed_command_asks_for_huge_pages_and_an_import_does_not(name, restarts, tmp_path, monkeypatch):
    """The command restarts itself with another setting of glibc. The start of `run.py` is in `finished`."""
    calls = []
    monkeypatch.setattr(os, "execv", lambda *args: calls.append(args))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / name)])
    monkeypatch.setenv("GLIBC_TUNABLES", "theirs")
    monkeypatch.delenv("GLIBC_TUNABLES")
    importlib.reload(run)
    assert calls == [(sys.executable, sys.orig_argv)] * restarts
    assert os.environ.get("GLIBC_TUNABLES") == ("glibc.malloc.hugetlb=1" if restarts else None)


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_the_configs(flag, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["run.py", flag])
    run.main()
    printed = capsys.readouterr().out
    assert "lra_listops_prune" in printed and "--config=NAME" in printed


ALONE = tuple(name for name in SECTIONS if not name.startswith("reference"))  # the others need clones


@pytest.mark.parametrize("sections", [("step", "pruning"), pytest.param(ALONE, marks=pytest.mark.slow, id="all")])
def test_the_benchmark_runs(sections, data, tmp_path):
    call("--config=speed:smoke", f"--config.sections={sections!r}", data=data, workdir=tmp_path)
    report = (tmp_path / "report.md").read_text()
    for name, (title, _) in SECTIONS.items():
        assert (f"## {title}" in report) == (tmp_path / f"{name}.csv").exists() == (name in sections)
    assert "![One step after a cut](step.png)" in report and (tmp_path / "step.png").exists()
