"""Runs that the papers' tables lack: commands, failures, jobs, and real runs that take seconds."""

import dataclasses
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from aire.utils.errors import UserError
from configs.paper_table import get_config
from experiments.paper_table import missing_runs, papers, saved_runs
from experiments.paper_table.missing_runs import Run
from tests.experiments.made_runs import write_prune

ROOT = Path(__file__).parents[2]


def config(**changes):
    result = get_config()
    result.update(run="missing", size="small", layers=("s5",), tasks=("lra_listops", "lra_text"))
    result.update(changes)
    return result


def options(job):
    """The options in the commands of a job."""
    return [list(run.command[2:-2]) for run in job]


def test_the_commands_in_the_order_of_tasks(tmp_path):
    jobs = missing_runs.plan(config(layers=("s5", "s4d")), tmp_path / "runs", tmp_path / "data")
    assert [options(job) for job in jobs] == [
        [["--config=lra_listops_prune:small", "--config.seed=0"]],
        [["--config=lra_listops_prune:s4d,small", "--config.seed=0"]],
        [["--config=lra_text_prune:small", "--config.seed=0"]],
        [["--config=lra_text_prune:s4d,small", "--config.seed=0"]],
    ]
    assert jobs[0][0].command[:2] == (sys.executable, str(ROOT / "run.py"))
    assert jobs[1][0].command[-2:] == (
        f"--workdir={tmp_path / 'runs' / 'lra_listops_s4d_small'}",
        f"--data_dir={tmp_path / 'data'}",
    )


def test_only_missing_runs_are_planned_and_only_zoo_models_are_not_trained(tmp_path):
    write_prune(tmp_path / "anywhere", papers.task_config("lra_text", "s5", "small"))  # its seed is 0
    changed = papers.task_config("lra_text", "s5", "small")
    changed.seed, changed.train.epochs = 1, 1
    write_prune(tmp_path / "changed", changed)
    jobs = missing_runs.plan(config(seeds=(0, 1)), tmp_path, tmp_path)
    assert [options(job) for job in jobs] == [
        [["--config=lra_listops_prune:small", "--config.seed=0"]],
        [["--config=lra_listops_prune:small", "--config.seed=1", "--config.init=scratch"]],
        [["--config=lra_text_prune:small", "--config.seed=1"]],
    ]
    assert [job[0].folder.name for job in jobs] == [
        "lra_listops_small",
        "lra_listops_small_seed_1",
        "lra_text_small_seed_1",
    ]


def test_eight_kilohertz_uses_the_model_of_its_job(tmp_path):
    wanted = config(size="full", seeds=(5,), tasks=("speech_commands", "speech_commands_8khz"))
    (job,) = missing_runs.plan(wanted, tmp_path, tmp_path)
    trained = tmp_path / "speech_commands_seed_5"
    assert options(job) == [
        ["--config=speech_commands_prune", "--config.seed=5"],
        ["--config=speech_commands_prune:8khz", "--config.seed=5", f"--config.init={trained / 'model.safetensors'}"],
    ]
    assert [run.folder for run in job] == [trained, tmp_path / "speech_commands_8khz_seed_5"]
    for run in job:
        write_prune(run.folder, run.config)
    assert missing_runs.plan(wanted, tmp_path, tmp_path) == []


def test_folders_become_the_option_of_the_task(tmp_path):
    wanted = config()
    wanted.folders.update(lra_listops="/lra", lra_text="/imdb")
    jobs = missing_runs.plan(wanted, tmp_path, tmp_path)
    assert [options(job)[0][-1] for job in jobs] == ["--config.data.lra_release=/lra", "--config.data.folder=/imdb"]


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"run": "all"}, "run='all': expected one of none, missing"),
        ({"size": "medium"}, "size='medium': expected one of full, small, smoke"),
        ({"cluster": "pbs"}, "cluster='pbs': expected one of none, local, slurm"),
        ({"layers": ("s6",)}, "layers: unknown 's6'; expected some of s5, s4d, mamba"),
        ({"tasks": ("listops",)}, "tasks: unknown 'listops'; expected some of lra_listops, "),
        ({"seeds": ("a",)}, "expected integers"),
    ],
)
def test_mistakes_are_found_before_anything_runs(changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        missing_runs.run(config(**changes), tmp_path, tmp_path)


def stub(folder, script, task="lra_text"):
    """A run whose command is a Python script that gets the folder."""
    return Run(folder, (sys.executable, "-c", script, str(folder)), papers.task_config(task, "s5", "small"), "seed 0")


FAILS = "import sys; print('so far'); print('a warning', file=sys.stderr); sys.exit('error: no data')"
WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1], 'ran').write_text('')"
DIES = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def test_failures_are_reported_by_their_last_line_and_the_rest_goes_on(tmp_path, monkeypatch, capfd):
    jobs = [
        (stub(tmp_path / "first", FAILS), stub(tmp_path / "needs_first", WRITES)),
        (stub(tmp_path / "dies", DIES),),
        (stub(tmp_path / "last", WRITES),),
    ]
    monkeypatch.setattr(missing_runs, "plan", lambda *_: jobs)
    failures = missing_runs.run(config(), tmp_path, tmp_path)
    assert failures == {"first": "error: no data (exit code 1)", "dies": "no error message (exit code -9)"}
    assert (tmp_path / "last" / "ran").exists() and not (tmp_path / "needs_first").exists()
    printed = capfd.readouterr()
    assert f"missing in {tmp_path}: 4 runs, in 3 jobs\n" in printed.out and "so far\n" in printed.out
    assert "a warning\n" in printed.err
    with pytest.raises(UserError, match="2 jobs failed"):
        missing_runs.report(failures)
    assert "failed: first: error: no data (exit code 1)\n" in capfd.readouterr().out


def test_a_run_that_another_process_finishes_is_not_repeated(tmp_path, capsys):
    job = (stub(tmp_path / "run", FAILS),)
    assert missing_runs.run_job(job)
    with ThreadPoolExecutor() as pool, FileLock(tmp_path / "run" / "lock"):
        waiting = pool.submit(missing_runs.run_job, job)
        while "waiting for another process that runs in" not in capsys.readouterr().out:
            assert not waiting.done()
            time.sleep(0.01)
        write_prune(tmp_path / "run", job[0].config)
    assert waiting.result() == ""


def test_an_unwritable_folder_is_a_failure_like_others(tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in missing_runs.run_job((stub(tmp_path / "file" / "run", WRITES),))


def test_a_command_that_cannot_start_is_not_a_full_disk(tmp_path):
    job = (dataclasses.replace(stub(tmp_path / "run", WRITES), command=(str(tmp_path / "nowhere"),)),)
    reason = f"cannot run {tmp_path / 'nowhere'}: No such file or directory"
    assert missing_runs.run_job(job) == reason


def test_a_cluster_needs_submitit(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"cluster='local' needs submitit: pip install submitit"):
        missing_runs.run(config(cluster="local"), tmp_path, tmp_path)


@pytest.mark.slow
def test_jobs_of_the_local_cluster(tmp_path):
    pytest.importorskip("submitit")
    jobs = [(stub(tmp_path / name, script),) for name, script in (("fails", FAILS), ("writes", WRITES))]
    assert missing_runs.submit(jobs, config(cluster="local"), tmp_path / "jobs") == ["error: no data (exit code 1)", ""]
    assert (tmp_path / "writes" / "ran").exists()


@pytest.mark.slow
def test_a_missing_cluster_is_named(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match="cluster='slurm': cannot submit: "):
        missing_runs.submit([(stub(tmp_path, WRITES),)], config(cluster="slurm"), tmp_path / "jobs")


@pytest.mark.slow
def test_missing_runs_through_the_command_line(tmp_path):
    """ListOps is trained, pruned and found. Retrieval cannot write its folder and is listed with its error."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "lra_retrieval_smoke").write_text("")  # a file in place of the folder
    command = [sys.executable, "run.py", "--config=paper_table", "--config.run=missing", "--config.size=smoke"]
    command += ["--config.tasks=('lra_retrieval', 'lra_listops')", "--config.layers=('s5',)"]
    command += [
        f"--config.runs={tmp_path / 'runs'}",
        f"--workdir={tmp_path / 'tables'}",
        f"--data_dir={tmp_path / 'data'}",
    ]
    first = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert first.returncode == 1 and first.stderr.splitlines()[-1].startswith("error: 1 jobs failed")
    assert "2 runs, in 2 jobs" in first.stdout and "failed: lra_retrieval_smoke: cannot write " in first.stdout
    models, damaged = saved_runs.find(tmp_path / "runs")
    assert [(m.name, m.identity, len(m.cuts)) for m in models] == [("lra_listops_smoke", "seed 0", 13)] and not damaged
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert "1 runs, in 1 jobs" in again.stdout and "failed: lra_retrieval_smoke" in again.stdout
    results = json.loads((tmp_path / "tables" / "results.json").read_text())
    assert results["config"]["size"] == "smoke" and results["commit"]
