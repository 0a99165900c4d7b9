"""The settings of a run, checked before anything slow: each section, the methods, the model, the folder, the space."""

import dataclasses
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire import zoo
from aire.convert.dispatch import importer
from aire.data.options import Form, describe
from aire.io.weights import abstract_model, variables_of
from aire.models import Classifier, ModelConfig
from aire.models.config import MAX_LAYERS
from aire.pruning import methods
from aire.pruning.api import UNSTABLE
from aire.pruning.selection import SCOPES
from aire.ssm import KINDS, kind_of, ssm_config
from aire.ssm.base import MAX_STATES
from aire.ssm.hippo import MAX_SIZE
from aire.training.loop import MAX_BATCH, TrainConfig
from aire.utils import devices
from aire.utils.checks import Mistakes, check, choice, compare, integer, make, number, seed, several, text
from aire.utils.errors import MissingFileError, UserError, in_one_line
from aire.utils.files import writing

SEED = seed()
CHECKPOINTS = 4  # on the disk at once: the two newest, the best, and the one that is written


@dataclasses.dataclass(frozen=True)
class CalibrationConfig:
    """Inputs for the methods that need data.

    Attributes:
        examples: number of examples. Their labels are not read.
        source: "train", the training examples; "noise", uniform noise of their form; or another task of the same form,
            a config with its variants, such as "scifar" or "lra_pathfinder:small".
    """

    examples: int = 256
    source: str = "train"

    def __post_init__(self):
        check(self, examples=integer(1, 10**9), source=text())


@dataclasses.dataclass(frozen=True)
class PruneConfig:
    """How to prune.

    Attributes:
        methods: names of `aire.pruning.methods`. Empty: `STORY` and the scores in `scores_file`. ("all",): all there
            are. The model cut by the last one is saved.
        scores_file: your own Python file that registers more scores.
        ratios: shares of states to cut; among them 0, the uncut model.
        scope: "global" or "uniform" for all methods; empty: each method's own.
        unstable: "first" keeps states with |λ̄| ≥ 1, whose energy is infinite, first; "error" refuses them.
        tolerance: points of accuracy on the selection split that a cut may cost.
        batch_size: examples per step of the evaluation.
        calibration: inputs for the methods that need data.
    """

    methods: tuple[str, ...] = ()
    scores_file: str = ""
    ratios: tuple[float, ...] = tuple(round(0.05 * i, 2) for i in range(20))
    scope: str = ""
    unstable: str = "first"
    tolerance: float = 1.0
    batch_size: int = 200
    calibration: CalibrationConfig = CalibrationConfig()

    def __post_init__(self):
        check(
            self,
            methods=several(text(), 0, 1000),
            scores_file=text(),
            ratios=several(number(0, below=1), 1, 1000),
            scope=choice(("", *SCOPES)),
            unstable=choice(UNSTABLE),
            tolerance=number(0, high=100),
            batch_size=integer(1, MAX_BATCH),
        )
        if 0.0 not in self.ratios:
            raise UserError(
                f"ratios={self.ratios}: expected 0.0 among them, the uncut model, which is always within the tolerance"
            )
        for name, values in (("methods", self.methods), ("ratios", self.ratios)):
            if twice := sorted({v for v in values if values.count(v) > 1}):
                raise UserError(f"{name} names {', '.join(map(str, twice))} more than once; name each once")

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Invert `dataclasses.asdict`. Raise UserError that names every mistake."""
        with Mistakes() as mistakes:
            calibration = CalibrationConfig()
            with mistakes.within("calibration."):
                calibration = make(CalibrationConfig, fields.get("calibration"))
            with mistakes.within(""):
                return make(cls, {**fields, "calibration": calibration})


def check_sections(config: ConfigDict) -> None:
    """Check the sections data, model, train and prune of a config.

    Raises:
        UserError: one line for each mistake in any of them.
    """
    with Mistakes() as mistakes:
        form = None
        with mistakes.within("data."):
            form = describe(config.data.to_dict())
        with mistakes.within("model."):
            model = new_model(config.model, form or Form(1, 1, 1, retrieval=config.model.retrieval is True))
            if form and model.retrieval != form.retrieval:
                raise UserError(f"retrieval={model.retrieval}: expected {form.retrieval} with this task")
        with mistakes.within("train."):
            train = TrainConfig.from_dict(config.train.to_dict())
            if form and form.train_examples is not None and train.batch_size > form.train_examples:
                raise UserError(
                    f"batch_size={train.batch_size}: expected at most data.train_examples={form.train_examples}"
                )
        with mistakes.within("prune."):
            PruneConfig.from_dict(config.prune.to_dict())


def new_model(section: ConfigDict, form: Form) -> ModelConfig:
    """Return the config of a new model, from a config's section `model` and the form of the data.

    Raises:
        UserError: one line for each mistake.
    """
    options = section.to_dict()
    with Mistakes() as mistakes:
        ssm, sizes = None, {"depth": integer(1, MAX_LAYERS), "states": integer(0, MAX_STATES)}
        mistakes.lines += compare(options, sizes)
        wrong = bool(mistakes.lines)
        depth, states = options.pop("depth"), options.pop("states")
        with mistakes.within("ssm."):
            ssm = ssm_config(options.pop("ssm"))
        with mistakes.within(""):
            options |= {"d_input": form.d_input, "d_output": form.n_classes, "ssm": ssm or ssm_config({})}
            model = make(ModelConfig, options | {"state_sizes": (0,)})
            if ssm is not None and not wrong:
                n_states = kind_of(ssm).n_states(states, model.d_model)
                return dataclasses.replace(model, state_sizes=(n_states,) * depth)


def check_names(config: ConfigDict) -> list[str]:
    """Return the methods to sweep. Raise UserError that names every unknown one."""
    kind = KINDS.get(config.model.ssm.get("kind"))  # another check names an unknown kind and wrong options
    names = _named(tuple(config.prune.methods or ()), kind is not None and kind.selective)
    with Mistakes() as mistakes:
        for name in names:
            with mistakes.within("prune.methods: "):
                methods.get(name)
    return names


def check_methods(config: ConfigDict) -> list[str]:
    """Return the methods to sweep, after their check with the model of the config.

    Raises:
        UserError: a method is unknown, fails on a tiny model, or keeps no state at the largest ratio.
    """
    prune, model = config.prune, config.model
    names = check_names(config)
    states = kind_of(model.ssm).n_states(model.states, model.d_model)
    scopes: dict[str, str] = {}
    for name in names:
        scopes.setdefault(prune.scope or methods.get(name).scope, name)
    with Mistakes() as mistakes:
        for scope, name in scopes.items():
            with mistakes.within("prune.ratios: "):
                _check_some_are_kept(name, max(prune.ratios), scope, states, model.depth)
    if prune.scores_file:
        try_methods([name for name in names if name not in _BUILT_IN], config)
    return names


_BUILT_IN = frozenset(methods.names())
# What a reader should see first, for linear layers and for selective ones.
STORY = ("random", "magnitude_global", "last", "aire", "measured", "surgeon")
SELECTIVE_STORY = ("random", "magnitude_global", "ghost", "aire", "measured", "surgeon")


def _named(names: Sequence[str], selective: bool) -> list[str]:
    """Return the methods that a config's `prune.methods` means, for a model whose layers may be selective."""
    if names == ("all",):
        return methods.names()
    return list(names) or [
        *(SELECTIVE_STORY if selective else STORY),
        *(name for name in methods.names() if name not in _BUILT_IN),
    ]


def _check_some_are_kept(method: str, ratio: float, scope: str, states: int, depth: int) -> None:
    n = states if scope == "uniform" else states * depth
    if not round((1 - ratio) * n):
        of = f"{n} states of a layer" if scope == "uniform" else f"{n} states"
        raise UserError(f"{ratio} would keep none of the {of}, with method {method!r}; leave it out")


def try_methods(names: Sequence[str], config: ConfigDict) -> None:
    """Prune a tiny model with each method, because a user's score may fail.

    Raises:
        UserError: the methods that fail, and how.
    """
    ssm = ssm_config(config.model.ssm.to_dict())
    if hasattr(ssm, "blocks"):
        ssm = dataclasses.replace(ssm, blocks=1)
    tiny = Classifier(ModelConfig(1, 2, 2, (4, 4), ssm), rngs=nnx.Rngs(0))
    tiny.eval()
    x = np.random.default_rng(0).normal(size=(2, 8, 1)).astype(np.float32)
    with Mistakes() as mistakes:
        for name in names:
            with mistakes.within("prune.scores_file: "):
                sees_inputs = methods.get(name).sees_inputs(selective=kind_of(ssm).selective)
                calibration = [{"x": x}] if sees_inputs else None
                try:
                    aire.prune(tiny, 0.5, name, calibration=calibration, unstable=config.prune.unstable)
                except UserError:
                    raise
                except Exception as error:  # whatever a user's function raises
                    raise UserError(f"{name!r} fails on a tiny model with {in_one_line(error)}") from error


def check_room(config: ConfigDict, data: Mapping[str, Any], workdir: Path, data_dir: Path) -> None:
    """Raise UserError if a new model has no room in the memory or on the disk, or the data none on the disk.

    Or if the batches of a training do not divide over the devices.

    Args:
        data: the options of the data that the run reads.
    """
    form = describe(data)
    if config.init == "scratch" or config.finetune:
        devices.check_batch("train.batch_size", config.train.batch_size, config.train.accumulate)
    if config.init == "scratch":
        _check_room(new_model(config.model, form), config, form, workdir)
    if missing := form.missing_bytes(data_dir):
        check_space(data_dir, missing)


def check_init(config: ConfigDict, workdir: Path) -> None:
    """Raise UserError if the model to prune is not there."""
    if config.init == "scratch":
        return
    if config.init == "zoo":
        zoo.path(config.name)
    elif not (path := Path(config.init.replace("{runs}", str(workdir.parent)))).exists():
        kind = "model file" if path.suffix == ".safetensors" else "file or folder"
        raise MissingFileError(
            f"no {kind} at {path}: expected a .safetensors file of aire.save or a reference's checkpoint"
        )
    elif path.suffix != ".safetensors":
        importer(path, ssm_config(config.model.ssm.to_dict()))


def _check_room(model: ModelConfig, config: ConfigDict, form: Form, workdir: Path) -> None:
    """Raise UserError if a training needs more memory than the machine has, or more disk than is free."""
    largest = kind_of(model.ssm).initial_size(model.ssm, max(model.state_sizes), model.d_model)
    if largest > MAX_SIZE:
        raise UserError(
            f"model.states={config.model.states}: expected at most {MAX_SIZE:,} in the matrix of HiPPO, not {largest:,}"
        )
    parameters = sum(math.prod(v.shape) for v in variables_of(abstract_model(model)).values())
    optimizer = 4 * 4 * parameters  # values, gradients and two moments, in float32
    one_batch = 4 * config.train.batch_size * form.length * model.d_model * (1 + form.retrieval)
    needed = optimizer + one_batch + 16 * largest**2
    if needed > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise UserError(
            f"model of {parameters:,} parameters, train.batch_size={config.train.batch_size}: training needs more than "
            f"{_gigabytes(needed)} of memory, this machine has {_gigabytes(memory)}"
        )
    check_space(workdir, 12 * CHECKPOINTS * parameters + 2**26)


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError unless so many bytes are free where a folder is or will be."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    if needed > (free := shutil.disk_usage(there).free):
        raise UserError(
            f"{folder}: about {_gigabytes(needed)} will be written, {_gigabytes(free)} are free; "
            "free some space there or choose another folder"
        )


def check_writable(folder: Path) -> None:
    """Raise UserError unless files can be made in a folder."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _gigabytes(n: int) -> str:
    return f"{n / 1e9:,.1f} GB"
