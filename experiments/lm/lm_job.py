"""The language-model job: train, cut columns by each method at each ratio, report perplexity on held-out modules."""

import dataclasses
import json
import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire.data.pipeline import Split
from aire.models import MambaLM
from aire.pruning import Calibration, Cut, PruneResult, find_cut, methods
from aire.training.evaluate import make_evaluator
from aire.training.loop import train
from aire.utils.progress import Progress
from experiments.lm import stdlib_text
from experiments.lm.lm_report import Point, write_report
from experiments.lm.lm_settings import LMPruneConfig, Settings, read
from experiments.provenance import provenance
from experiments.settings import check_writable

SAVED = "surgeon", 0.5  # method and ratio of the cut that is saved and described


def run(config: ConfigDict, workdir: Path, data_dir: Path) -> None:
    """Run the job that a config describes; see configs/stdlib_mamba.py."""
    settings, source = read(config), provenance()
    check_writable(workdir)
    splits, described = stdlib_text.load(settings.data)
    for name, d in described.items():
        print(f"{name}: {len(d['modules'])} modules, {d['bytes']:,} bytes, {d['windows']:,} windows", flush=True)
    model, step = _trained(settings, splits, described, workdir)
    points = list(_sweep(model, settings, splits))
    calibration = Calibration(_calibration(splits["train"], settings.prune))
    half = aire.prune(model, SAVED[1], SAVED[0], calibration=calibration)
    aire.save(half.model, workdir / "pruned.safetensors")
    summary = _summary(half, splits["test"])
    print(f"\ncut by {SAVED[0]}, {SAVED[1]:.0%} of the columns:\n{summary}")
    record = {"config": config.to_dict(), "best_step": step, "data": described, "python": platform.python_version()}
    write_report(points, record | source, summary, workdir)


def _trained(
    settings: Settings, splits: dict[str, Split], described: dict[str, dict], workdir: Path
) -> tuple[MambaLM, int]:
    """Train the model, or resume. The checkpoint with the best accuracy on the validation modules is returned."""
    fingerprint = {key: dataclasses.asdict(getattr(settings, key)) for key in ("data", "model", "train")}
    del fingerprint["train"]["checkpoint_minutes"]  # does not change the result
    fingerprint["seed"] = settings.seed
    fingerprint["sha256"] = {name: d["sha256"] for name, d in described.items()}
    trained = train(
        MambaLM(settings.model, rngs=nnx.Rngs(settings.seed)),
        splits,
        settings.train,
        seed=settings.seed,
        folder=workdir / "training",
        fingerprint=json.loads(json.dumps(fingerprint)),
    )
    assert isinstance(trained.model, MambaLM)
    aire.save(trained.model, workdir / "model.safetensors")
    found = trained.validation
    print(f"trained: best at step {trained.step}, validation perplexity {np.exp(found.loss):.3f} a byte", flush=True)
    return trained.model, trained.step


def _calibration(split: Split, config: LMPruneConfig) -> list[dict[str, np.ndarray]]:
    chosen = np.random.default_rng(0).permutation(len(split))[: config.calibration_examples]
    parts = (chosen[start : start + config.batch_size] for start in range(0, len(chosen), config.batch_size))
    return [{"x": split.x[part]} for part in parts]


def _sweep(model: MambaLM, settings: Settings, splits: dict[str, Split]) -> Iterator[Point]:
    """Evaluate the uncut model, then every cut, all on the same windows of the test modules."""
    prune = settings.prune
    evaluate = make_evaluator(model, prune.batch_size)
    loss = evaluate(model, splits["test"]).loss
    yield Point("uncut", 0, 0.0, loss)
    calibration = Calibration(_calibration(splits["train"], prune))
    trials = [(name, seed) for name in prune.methods for seed in (prune.seeds if _is_random(name) else (0,))]
    with Progress("cuts", len(trials) * len(prune.ratios), unit="cut") as progress:
        for name, seed in trials:
            method, moments = methods.get(name), None
            if method.measures(selective=True):
                moments = calibration.moments(model, covariance=method.needs_covariance)
            scores = aire.score(model, name, moments=moments, seed=seed)
            for ratio in prune.ratios:
                cut: Cut = find_cut(model, scores, name, ratio=ratio, calibration=calibration)
                loss = evaluate(aire.mask(model, cut), splits["test"]).loss
                progress.update(1, perplexity=np.exp(loss))
                yield Point(name, seed, ratio, loss)


def _is_random(name: str) -> bool:
    method = methods.get(name)
    return method.draws and not method.needs_calibration


def _summary(half: PruneResult, split: Split) -> str:
    return half.summary(split.x[:1].astype(np.int32))
