"""Find the runs that the papers' tables lack, and run them in new processes of run.py, here or on a cluster."""

import contextlib
import dataclasses
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from aire import zoo
from aire.utils.errors import UserError
from aire.utils.files import locked
from aire.utils.stopping import Stopped
from experiments.paper_table import papers, saved_runs
from experiments.records import PrunedModel, identity

_ROOT = Path(__file__).parents[2]
_CHOICES = {"run": ("none", "missing"), "size": ("full", "small", "smoke"), "cluster": ("none", "local", "slurm")}


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of run.py: its folder, command and config, and the identity of the model it prunes."""

    folder: Path
    command: tuple[str, ...]
    config: ConfigDict
    identity: str


Job = tuple[Run, ...]  # in sequence, because a later run may need the model of an earlier one


def run(config: ConfigDict, root: Path, data_dir: Path) -> dict[str, str]:
    """Train and prune what is missing in `root` if the config asks for it. Both paths are absolute.

    Returns: the reason of each failure, by the folder of the job.
    Raises:
        UserError: a choice is unknown, or the cluster is not available.
    """
    check(config)
    if config.run == "none":
        return {}
    jobs = plan(config, root, data_dir)
    runs = [run for job in jobs for run in job]
    print(f"missing in {root}: {len(runs)} runs, in {len(jobs)} jobs", flush=True)
    for run in runs:
        print(f"  {shlex.join(run.command)}", flush=True)
    if config.cluster == "none" or not jobs:
        reasons = [run_job(job) for job in jobs]
    else:
        reasons = submit(jobs, config, root / "jobs")
    return {job[0].folder.name: reason for job, reason in zip(jobs, reasons, strict=True) if reason}


def check(config: ConfigDict) -> None:
    """Raise UserError for an unknown choice."""
    for key, choices in _CHOICES.items():
        if config[key] not in choices:
            raise UserError(f"{key}={config[key]!r}: expected one of {', '.join(choices)}")
    for key, choices in {"layers": papers.LAYERS, "tasks": papers.TASKS}.items():
        for name in config[key]:
            if name not in choices:
                raise UserError(f"{key}: unknown {name!r}; expected some of {', '.join(choices)}")
    if not all(isinstance(seed, int) for seed in config.seeds):
        raise UserError(f"seeds={config.seeds!r}: expected integers, such as (0, 1, 2)")


def plan(config: ConfigDict, root: Path, data_dir: Path) -> list[Job]:
    """Return the runs not yet finished in `root`, grouped into jobs: a task, and those that use its model."""
    models = saved_runs.find(root)[0]
    jobs: dict[tuple, list[Run]] = {}
    for task in config.tasks:
        for layer in (layer for layer in config.layers if task in papers.tasks_of(layer)):
            for seed in config.seeds or (None,):
                run = planned(task, layer, config.size, seed, config.folders[task], root, data_dir)
                if not is_finished(run, models):
                    jobs.setdefault((papers.TASKS[task].config, layer, seed), []).append(run)
    return [tuple(runs) for runs in jobs.values()]


def planned(task: str, layer: str, size: str, seed: int | None, files: str, root: Path, data_dir: Path) -> Run:
    """Return the run of one task. `seed` None is the config's own; `files` "" is the default folder."""
    config, variants = papers.task_config(task, layer, size), papers.variants(task, layer, size)
    own_seed, model_of = config.seed, papers.TASKS[task].model_of
    config.seed = own_seed if seed is None else seed
    suffix = "" if config.seed == own_seed else f"_seed_{config.seed}"
    options = {"seed": config.seed}
    if model_of:
        trained = papers.task_config(model_of, layer, size).name + suffix
        options["init"] = str(root / trained / "model.safetensors")
    elif config.init == "zoo" and (suffix or config.name not in zoo.names()):
        options["init"] = "scratch"
    config.init = options.get("init", config.init)
    if files:
        options["data.lra_release" if "lra_release" in config.data else "data.folder"] = str(Path(files).resolve())
    folder = root / (config.name + suffix)
    command = (
        *(sys.executable, str(_ROOT / "run.py")),
        f"--config={papers.TASKS[task].config}_prune{':' * bool(variants)}{variants}",
        *(f"--config.{key}={value}" for key, value in options.items()),
        *(f"--workdir={folder}", f"--data_dir={data_dir}"),
    )
    return Run(folder, command, config, identity(config.name, config.init, config.seed))


def is_finished(run: Run, models: Sequence[PrunedModel]) -> bool:
    """Return whether there is a model of the run's config, with the config's own settings."""
    found = saved_runs.entries(models, run.config)
    return any(e.model.identity == run.identity and not e.changes for e in found)


def run_job(job: Job) -> str:
    """Run what is not finished yet; return the last line of the first error, or ""."""
    for run in job:
        try:
            # Another process may run it now: run.py holds this lock while it runs.
            with locked(run.folder, f"runs in {run.folder}"):
                finished = is_finished(run, saved_runs.find(run.folder)[0])
            reason = "" if finished else execute(run.command)
        except UserError as error:
            reason = str(error)
        if reason:
            return reason
    return ""


def execute(command: Sequence[str]) -> str:
    """Run a command and show its output; return its last line if it fails."""
    print(f"\n{shlex.join(command)}", flush=True)
    last = "no error message"
    options = {"stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    try:
        process = subprocess.Popen(command, cwd=_ROOT, **options)
    except OSError as error:
        return f"cannot run {command[0]}: {error.strerror}"
    with process:
        try:
            for line in process.stderr:
                print(line, end="", file=sys.stderr, flush=True)
                last = line.strip() or last
        except Stopped as stop:
            process.send_signal(stop.number)  # leaving the context waits for it
            raise
    return f"{last} (exit code {process.returncode})" if process.returncode else ""


def submit(jobs: Sequence[Job], config: ConfigDict, logs: Path) -> list[str]:
    """Submit the jobs with submitit and wait for them; return the reason of each failure, or "".

    Raises:
        UserError: submitit is not installed, or the cluster is not available.
    """
    try:
        import submitit
    except ImportError as error:
        raise UserError(f"cluster={config.cluster!r} needs submitit: pip install submitit") from error
    requested = {key: value for key, value in config.jobs.items() if value}
    try:
        executor = submitit.AutoExecutor(folder=logs, cluster=config.cluster)
        executor.update_parameters(**requested)
        with contextlib.chdir(_ROOT):  # the job imports this module from here
            handles = [executor.submit(run_job, job) for job in jobs]
    except (OSError, RuntimeError, NameError, subprocess.SubprocessError) as error:
        raise UserError(f"cluster={config.cluster!r}: cannot submit: {error}") from error
    for job, handle in zip(jobs, handles, strict=True):
        print(f"job {handle.job_id}: {job[0].folder.name}, its output: {handle.paths.stdout}", flush=True)
    return [_outcome(handle) for handle in handles]


def _outcome(handle) -> str:
    error = handle.exception()  # waits for the job
    return handle.result() if error is None else str(error).strip().splitlines()[-1]


def report(failures: dict[str, str]) -> None:
    """Print the failures; raise UserError if there are any."""
    for name, reason in failures.items():
        print(f"failed: {name}: {reason}", flush=True)
    if failures:
        raise UserError(f"{len(failures)} jobs failed, see above; run the same command again for what is missing")
