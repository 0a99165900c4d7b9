"""The comparison of methods, and its file of evaluations."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from flax import nnx

import aire
from aire.data.pipeline import Split
from aire.data.tasks import Task
from aire.pruning import Cut, Readout
from aire.pruning.methods import METHODS, Method, data_free
from aire.report.tables import mean_spread
from aire.ssm import layers
from aire.training.evaluate import Answers, Evaluation, make_evaluator
from aire.utils.errors import UserError
from aire.utils.stopping import Stopped
from configs import compare_methods
from experiments.calibration_inputs import calibration_split, noise
from experiments.compare.compare_job import check_models
from experiments.evaluations import CutEvaluator, EvaluationFile
from experiments.records import Measurement, Point
from experiments.sweep import Cuts, largest_within, load_scores, sweep
from tests.experiments.conftest import OWN_SCORE, call, comparison
from tests.helpers import refused

DATA_FREE = data_free()


def rows(workdir):
    return list(csv.DictReader((workdir / "results.csv").read_text().splitlines()))


@pytest.mark.xdist_group("run")
def test_every_method_is_compared_and_the_users_own(compared):
    workdir, printed = compared
    points = rows(workdir)
    assert {p["method"] for p in points} == {*DATA_FREE, "slowness"}
    assert len([p for p in points if p["method"] == "aire"]) == 4
    assert len([p for p in points if p["method"] == "random"]) == 4 * 5  # repetitions
    for method in ("slowness", "lamp"):
        assert f"\n{method}  " in printed and f"| {method}  " in (workdir / "report.md").read_text()
    assert (workdir / "accuracy_against_ratio.png").read_bytes().startswith(b"\x89PNG")
    assert len((workdir / "accuracy.md").read_text().splitlines()) == 2 + 4


@pytest.mark.xdist_group("run")
def test_the_chosen_ratios_are_the_largest_within_a_point(compared):
    workdir, _ = compared
    points, results = rows(workdir), json.loads((workdir / "results.json").read_text())
    (uncut,) = results["models"].values()
    full = uncut["selection"]["accuracy"]
    assert len(results["chosen"]) == 2 * (len(DATA_FREE) - 1 + 5 + 1)
    for c in (c for c in results["chosen"] if c["within"] == 1.0):
        own = [p for p in points if (p["method"], int(p["draw"])) == (c["method"], c["draw"])]
        within = [float(p["ratio"]) for p in own if float(p["selection_accuracy"]) >= full - 0.01 - 1e-9]
        assert c["ratio"] == max(within) == float(next(p["ratio"] for p in own if p["chosen"] == "1"))


@pytest.mark.xdist_group("run")
def test_a_stopped_comparison_evaluates_only_what_is_missing(finished, compared, data):
    """After a kill the last evaluations are missing and one line is torn. Only these are evaluated again."""
    workdir, printed = compared
    before, path = rows(workdir), workdir / "evaluations.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    distinct = int(printed.split(" of them distinct")[0].split()[-1])
    path.write_text("".join(lines[: distinct - 5]) + lines[distinct - 5][:20])
    (workdir / "results.csv").unlink()
    printed = call(*comparison(finished, workdir), data=data, workdir=workdir)
    assert f"{distinct} of them distinct, {distinct - 5} evaluated before" in printed
    assert sorted(path.read_text().splitlines(keepends=True)) == sorted(lines)
    assert rows(workdir) == before


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"models": ("zoo",)}, r"no model 'lra_listops_smoke' in the zoo.*seeds to train here: --config.models="),
        ({"models": ("nowhere",)}, "no model file at nowhere"),
        ({"models": ()}, r"models=\(\): expected 1 to 1,000 values, each a seed"),
        ({"models": (1, 1)}, "each once"),
        ({"repetitions": 0}, "repetitions=0"),
        ({"calibrations": 0}, "calibrations=0"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(changes, message, tmp_path):
    config = compare_methods.get_config("smoke")
    config.update(changes)
    with pytest.raises(UserError, match=message):
        check_models(config, tmp_path)


def test_an_unknown_variant_is_named():
    with pytest.raises(UserError, match=r"unknown variant 'tiny': .*before them, a task: one of .*'lra_listops'"):
        compare_methods.get_config("tiny")


def test_the_config_is_that_of_its_task():
    base = compare_methods.get_config("lra_listops,small")
    assert (base.experiment, base.name, base.task_name) == ("compare", "compare_lra_listops_small", "lra_listops_small")
    assert base.models == ("zoo",) and "init" not in base
    assert compare_methods.get_config("").models == (6554595,)


@pytest.mark.parametrize(
    "text,message",
    [
        (None, "expected a Python file"),
        ("import aire\n", "adds no score"),
        ("slowness = abs(modes)", "fails with NameError: name 'modes' is not defined"),
        ("def f(:", "fails with SyntaxError"),
        (OWN_SCORE.replace("slowness", "aire"), "score 'aire' exists already"),
    ],
)
def test_a_wrong_file_of_scores_is_named(text, message, tmp_path):
    path = tmp_path / "own.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_scores(str(path))


def split(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 20, (n, 5)), np.full(n, 5, np.int32), rng.integers(0, 10, n).astype(np.int32))


@pytest.fixture
def evaluator(make_model):
    def make(cache, seed=0, splits=None):
        model = make_model(state_sizes=(4, 4), seed=seed)
        return CutEvaluator(model, splits or {"selection": split()}, make_evaluator(model, 6), cache)

    return make


def test_cuts_evaluate_as_the_cut_model(evaluator):
    """The sweep's masked model predicts the same as the cut model."""
    evaluate = evaluator({})
    result, data = aire.prune(evaluate.model, 0.5, "lamp"), split()
    answers = np.argmax(nnx.jit(lambda model: model(data.x, data.lengths))(result.model), axis=-1)
    assert evaluate(result.cut, "selection").accuracy == pytest.approx(np.mean(answers == data.y))


def test_keys_differ_by_model_mask_and_split(evaluator):
    everything = {"blocks/0/ssm": np.ones(4, bool), "blocks/1/ssm": np.ones(4, bool)}
    other = everything | {"blocks/1/ssm": np.array([True, True, True, False])}
    swapped = {"blocks/0/ssm": other["blocks/1/ssm"], "blocks/1/ssm": everything["blocks/0/ssm"]}
    splits = {"selection": split(), "test": split(seed=1)}
    a, again, b = evaluator({}, splits=splits), evaluator({}), evaluator({}, seed=1)
    keys = [a.key(Cut(keep), "selection") for keep in (everything, other, swapped)]
    keys += [a.key(Cut(everything), "test"), b.key(Cut(everything), "selection")]
    assert len(set(keys)) == 5
    assert a.key(Cut(dict(reversed(everything.items()))), "selection") == keys[0]
    assert again.key(Cut(everything), "selection") == keys[0]


def test_keys_depend_on_what_a_split_decodes_to_not_on_the_object(evaluator):
    """An object's address differs between processes, so a stopped comparison would evaluate everything again."""
    everything = {"blocks/0/ssm": np.ones(4, bool), "blocks/1/ssm": np.ones(4, bool)}

    def key(factor: int) -> str:
        decoded = dataclasses.replace(split(), decode=lambda x: x * np.float32(factor))
        return evaluator({}, splits={"selection": decoded}).key(Cut(everything), "selection")

    assert key(1) == key(1) != key(2)


def test_a_sweep_evaluates_each_distinct_cut_once(evaluator, monkeypatch):
    config = compare_methods.get_config("smoke").prune
    cache, calls = {}, []
    evaluate = evaluator(cache)
    counted = evaluate._evaluate
    monkeypatch.setattr(evaluate, "_evaluate", lambda *args: calls.append(1) or counted(*args))
    runs = [("aire", 0), ("aire_uniform", 0), ("random", 0), ("random", 1)]
    cuts = Cuts(evaluate.model, split(), config)
    points = sweep(evaluate, cuts, runs)
    distinct = {tuple(np.concatenate(list(c.keep.values())).tolist()) for r in runs for _, c in cuts(r)}
    assert [(p.method, p.seed, p.ratio) for p in points] == [(*run, r) for run in runs for r in (0.0, 0.25, 0.5, 0.75)]
    assert len(calls) - 1 == len(cache) == len(distinct) < len(points)  # the first is of the uncut model
    assert sweep(evaluate, cuts, runs) == points and len(calls) - 1 == len(cache)


def test_a_stopped_sweep_goes_on_from_its_file(evaluator, tmp_path, monkeypatch):
    config, trials = compare_methods.get_config("smoke").prune, [("aire", 0)]
    whole = evaluator({})
    expected = sweep(whole, Cuts(whole.model, split(), config), trials)

    def stopping_at(call: int) -> CutEvaluator:
        evaluate, calls = evaluator(EvaluationFile(tmp_path / "evaluations.jsonl")), []
        evaluated = evaluate._evaluate

        def counted(*args):
            calls.append(1)
            if len(calls) == call:
                raise Stopped(15)
            return evaluated(*args)

        monkeypatch.setattr(evaluate, "_evaluate", counted)
        return evaluate

    evaluate = stopping_at(4)  # the first call is for the answers of the uncut model, which are not saved
    with pytest.raises(Stopped) as stopped:
        sweep(evaluate, Cuts(evaluate.model, split(), config), trials)
    done = len(EvaluationFile(tmp_path / "evaluations.jsonl"))
    assert done == 2 and stopped.value.__notes__[-1] == "run the same command again to go on from there"
    evaluate = stopping_at(1 + len(whole.cache) - done + 1)  # it evaluates only what is missing
    assert sweep(evaluate, Cuts(evaluate.model, split(), config), trials) == expected


def test_one_scope_for_all_methods(evaluator):
    config = compare_methods.get_config("smoke").prune
    config.scope = "uniform"
    keep = Cuts(evaluator({}).model, split(), config).at(("aire_unnormalised", 0), 0.5).keep
    assert [int(mask.sum()) for mask in keep.values()] == [2, 2]


def test_the_largest_ratio_within_the_tolerance():
    """It is not the last before the first failure, because accuracy can rise again."""
    points = [Point("aire", 0, r, 0, Evaluation(0.0, a)) for r, a in [(0.0, 0.9), (0.1, 0.88), (0.2, 0.89), (0.3, 0.5)]]
    assert largest_within(points, Evaluation(0.0, 0.9), 1.0).ratio == 0.2


def test_the_error_of_a_change_counts_the_examples_that_changed():
    right, uncut = np.array([1, 1, 0, 0, 1, 0], bool), np.array([1, 1, 1, 1, 0, 0], bool)
    m = Measurement.beside(Answers(0.5, 0.5, right), uncut)
    assert (m.examples, m.lost, m.gained) == (6, 2, 1)
    changes = right.astype(float) - uncut
    assert m.change == pytest.approx(changes.mean()) and m.standard_error == pytest.approx(changes.std() / 6**0.5)


def test_a_method_that_fails_at_a_ratio_does_not_end_the_run(evaluator, monkeypatch, tmp_path):
    """The ratio at which its refit fails has no point. The next start reads the refitted cuts from their files."""

    def refit(model, cut, calibration):
        calls.append(cut.n_states)
        if cut.n_states < 4:
            raise np.linalg.LinAlgError("singular")
        (path, layer), *_ = layers(model).items()
        kept = np.asarray(layer.readout())[..., np.asarray(cut.keep[path])]
        return dataclasses.replace(cut, readouts={path: Readout(2 * kept, np.asarray(layer.D[...]))})

    monkeypatch.setitem(METHODS, "twice", Method("aire", refit=refit))
    config, evaluate, calls = compare_methods.get_config("smoke").prune, evaluator({}), []
    cuts = Cuts(evaluate.model, split(), config, tmp_path)
    points = sweep(evaluate, cuts, [("twice", 0), ("aire", 0)])
    assert [(p.method, p.ratio) for p in points] == [
        *(("twice", r) for r in (0.0, 0.25, 0.5)),
        *(("aire", r) for r in (0.0, 0.25, 0.5, 0.75)),
    ]
    assert cuts.failures == {("twice", 0, 0.75): "LinAlgError: singular"} and calls == [6, 4, 2]
    again = Cuts(evaluate.model, split(), config, tmp_path)
    assert sweep(evaluate, again, [("twice", 0), ("aire", 0)]) == points and calls == [6, 4, 2, 2]
    assert again.at(("twice", 0), 0.5).digest() == cuts.at(("twice", 0), 0.5).digest()
    assert Cuts(evaluate.model, split(), config, tmp_path).at(("twice", 1), 0.5).n_states == 4 and len(calls) == 5


def test_calibration_inputs_may_be_noise():
    tokens = dataclasses.replace(split(40), x=np.where(split(40).x > 9, 7, split(40).x))
    drawn = noise(tokens)
    used = np.arange(5) < drawn.lengths[:, None]
    assert set(np.unique(drawn.x[used])) == set(np.unique(tokens.x)) and drawn.x.dtype == tokens.x.dtype
    values = Split(np.linspace(-1, 3, 2000, dtype=np.float32).reshape(20, 100, 1), np.full(20, 100), np.zeros(20))
    drawn = noise(values).x
    assert drawn.shape == (20, 100, 1) and drawn.mean() == pytest.approx(1, abs=0.1)
    assert drawn.std() == pytest.approx(4 / 12**0.5, abs=0.1)


@pytest.mark.parametrize(
    ("source", "message"), [("nowhere", 'expected "train", "noise"'), ("smnist:smoke", "inputs differ from the task's")]
)
def test_wrong_sources_of_calibration_inputs_are_named(source, message, tmp_path):
    with pytest.raises(UserError, match=message):
        calibration_split(source, Task("", {"train": split()}, 20, 10), tmp_path)


def test_evaluations_survive_a_torn_line(tmp_path):
    path = tmp_path / "runs" / "evaluations.jsonl"
    first = EvaluationFile(path)
    a, b = Measurement(0.1, 2 / 3, examples=3, lost=1, gained=0), Measurement(1e-9, 1.0, examples=3, lost=0, gained=2)
    first["a"], first["b"] = a, b
    complete = path.read_bytes()
    for torn in (complete[:-1], complete + b'{"key": "c", "lo'):
        path.write_bytes(torn)
        again = EvaluationFile(path)
        assert path.read_bytes().endswith(b"\n") and again["a"] == a
        assert set(again) == ({"a"} if torn == complete[:-1] else {"a", "b"})
        again["b"] = b
        assert dict(EvaluationFile(path)) == dict(first)


def test_a_flipped_bit_never_changes_an_evaluation(tmp_path, caplog):
    path = tmp_path / "evaluations.jsonl"
    saved = EvaluationFile(path)
    saved["a"] = Measurement(0.125, 2 / 3, examples=3, lost=1, gained=0)
    saved["b"] = Measurement(1e-9, 1.0, examples=3, lost=0, gained=2)
    content = path.read_bytes()
    silent = 0
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        try:
            read = EvaluationFile(path)
        except UserError as error:
            assert "delete this line" in str(error) and "\n" not in str(error)
            continue
        assert all(saved[key] == evaluation for key, evaluation in read.items()), place
        silent += set(read) == set(saved) and not caplog.records
        caplog.clear()
    assert silent < 10  # white space, or the case of a hexadecimal digit


def test_lines_of_an_older_version_are_read_with_a_warning(tmp_path, caplog):
    path = tmp_path / "evaluations.jsonl"
    path.write_text('{"key": "a", "loss": 1.0, "accuracy": 0.5, "examples": 4, "lost": 1, "gained": 0}\n')
    assert dict(EvaluationFile(path)) == {"a": Measurement(1.0, 0.5, examples=4, lost=1, gained=0)}
    assert ["some lines have no digest" in record.getMessage() for record in caplog.records] == [True]


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    path = tmp_path / "evaluations.jsonl"
    complete = '{"key": "a", "loss": 1.0, "accuracy": 0.5, "examples": 4, "lost": 1, "gained": 0}'
    path.write_text(complete + '\n{"key": "b"}\n')
    with refused(r"evaluations.jsonl, line 2 is not an evaluation; delete this line .* or move the file away"):
        EvaluationFile(path)
    with pytest.raises(UserError, match="cannot write"):
        EvaluationFile(path / "evaluations.jsonl")


def test_mean_and_spread_by_hand():
    assert mean_spread([40.0]) == "40.0"
    assert mean_spread([1.0, 2.0, 3.0], 2) == "2.00 ± 1.00"
