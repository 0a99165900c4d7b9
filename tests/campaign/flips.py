"""A thousand flipped bits in the files that the program writes and reads again."""

import dataclasses
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import aire
from aire import zoo
from aire.data.formats import preparation
from aire.data.listops import ListOps
from aire.io.weights import abstract_model, fill_model, get_arrays, variables_of
from aire.models import Classifier, ModelConfig
from aire.pruning import Cut, Readout
from aire.ssm import ssm_config
from aire.training.checkpoints import Checkpoints
from aire.utils import digests
from experiments.evaluations import EvaluationFile
from experiments.paper_table import papers, saved_runs
from experiments.records import Measurement
from experiments.saved_cuts import SavedCuts
from tests.campaign.attack import Attack, Outcome, attempt
from tests.data.helpers import TINY
from tests.experiments.made_runs import write_prune

FLIPS = 1000
STATE = {"weights": np.arange(2000, dtype=np.float32), "step": np.array([3], np.int32)}


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        write: writes the files to a folder.
        read: reads them as the program does.
        is_right: whether a value is right, given the value of intact files. Equal unless given.
        share: of the flips.
    """

    write: Callable[[Path], Any]
    read: Callable[[Path], Any]
    is_right: Callable[[Any, Any], bool] = lambda value, intact: value == intact
    share: int = 1


def write_models(folder: Path) -> None:
    """One small model of each kind of layer."""
    for ssm in ({"kind": "s5"}, {"kind": "s4d"}, {"kind": "lru"}):
        config = ModelConfig(3, 4, 2, (4,), ssm_config(ssm))
        aire.save(Classifier(config, rngs=nnx.Rngs(0)), folder / f"{ssm['kind']}.safetensors")


def read_models(folder: Path) -> dict[str, tuple[ModelConfig, str]]:
    models = {path.name: aire.load(path) for path in sorted(folder.glob("*.safetensors"))}
    return {name: (model.config, digests.of_arrays(get_arrays(model))) for name, model in models.items()}


def write_zoo(folder: Path) -> None:
    shutil.copy(zoo.path(zoo.names()[0]), folder)


def write_evaluations(folder: Path) -> None:
    saved = EvaluationFile(folder / "evaluations.jsonl")
    for i in range(20):
        saved[digests.of_text(str(i))] = Measurement(1 / (i + 3), i / 21, examples=21, lost=21 - i, gained=i)


def read_evaluations(folder: Path) -> dict[str, Measurement]:
    return dict(EvaluationFile(folder / "evaluations.jsonl"))


def write_results(folder: Path) -> None:
    write_prune(folder / "run", papers.task_config("lra_text", "s5", "full"))


def read_results(folder: Path) -> Any:
    models, damaged = saved_runs.find(folder)
    return "named as damaged" if damaged and not models else (repr(models), damaged)


def saved_cuts(folder: Path) -> SavedCuts:
    config = ModelConfig(3, 4, 2, (4,), ssm_config({"kind": "lru"}))
    arrays = {name: np.ones(v.shape, np.float32) for name, v in variables_of(abstract_model(config)).items()}
    return SavedCuts(folder, fill_model(config, arrays, "ones"), papers.task_config("lra_text", "s5", "full").prune)


def write_cut(folder: Path) -> None:
    readout = Readout(np.arange(8).reshape(1, 4, 2) * 1j, np.arange(4.0))
    cut = Cut({"blocks/0/ssm": np.array([True, False, True, False])}, {"blocks/0/ssm": readout})
    saved_cuts(folder).put(("aire", 0), 0.5, cut)


def read_cut(folder: Path) -> str | None:
    cut = saved_cuts(folder).get(("aire", 0), 0.5)
    return cut and cut.digest()


def write_prepared(folder: Path) -> None:
    preparation.load(ListOps, folder, TINY)


def read_prepared(folder: Path) -> dict[str, list]:
    splits = preparation.load(ListOps, folder, TINY)
    return {name: [(e["tokens"].tolist(), int(e["label"])) for e in split] for name, split in splits.items()}


def write_checkpoints(folder: Path) -> None:
    with Checkpoints(folder, fingerprint={"seed": 0}) as store:
        for step in (1, 2):
            store.save(step, jax.tree.map(lambda x, step=step: x * step, STATE), {"loss": 0.1 * step}, score=0.4 * step)


def read_checkpoints(folder: Path) -> tuple:
    with Checkpoints(folder, fingerprint={"seed": 0}) as store:
        step, state, meta = store.restore_latest(STATE)
    return step, digests.of_arrays(state), meta


def is_a_checkpoint(value: tuple, intact: tuple) -> bool:
    """Whether this is the newest checkpoint, or the one before it, from which training recomputes the newest."""
    state = jax.tree.map(lambda x: x * value[0], STATE)
    return value == (value[0], digests.of_arrays(state), {"loss": 0.1 * value[0]})


KINDS = {
    "model files": Kind(write_models, read_models, share=4),
    "the zoo's": Kind(write_zoo, read_models, share=2),
    "evaluations": Kind(
        write_evaluations, read_evaluations, lambda value, intact: value.items() <= intact.items(), share=4
    ),
    "results": Kind(write_results, read_results, lambda value, intact: value in ("named as damaged", intact), share=4),
    "saved cuts": Kind(write_cut, read_cut, share=2),
    "prepared data": Kind(write_prepared, read_prepared, share=4),
    "checkpoints": Kind(write_checkpoints, read_checkpoints, is_a_checkpoint, share=5),
}


def run(folder: Path) -> Iterator[Outcome]:
    """Flip one bit at a time and restore it. The bits are drawn from a seed."""
    draw = random.Random(0)
    total = sum(kind.share for kind in KINDS.values())
    for name, kind in KINDS.items():
        intact_folder, copy = folder / name / "intact", folder / name / "copy"
        intact_folder.mkdir(parents=True)
        kind.write(intact_folder)
        intact = kind.read(intact_folder)
        files = [
            p.relative_to(intact_folder) for p in sorted(intact_folder.rglob("*")) if p.is_file() and p.stat().st_size
        ]
        for number in range(round(FLIPS * kind.share / total)):
            file = draw.choice(files)
            shutil.copytree(intact_folder, copy)
            content = bytearray((copy / file).read_bytes())
            place = draw.randrange(8 * len(content))
            content[place // 8] ^= 1 << place % 8
            (copy / file).write_bytes(content)
            case = f"{name} {number}: {file}, bit {place}"
            yield attempt(
                case, lambda kind=kind, copy=copy: kind.read(copy), lambda v, k=kind, i=intact: k.is_right(v, i)
            )
            shutil.rmtree(copy)


ATTACK = Attack("one flipped bit", FLIPS, run)
