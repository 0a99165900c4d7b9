"""Obtain a trained model: from the zoo, from a file, or by training."""

import dataclasses
from pathlib import Path
from typing import Any

from flax import nnx
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

import aire
from aire import convert, zoo
from aire.data.tasks import Task
from aire.io.weights import get_arrays, run_as
from aire.models import Classifier, ModelConfig
from aire.ssm import kind_of, ssm_config
from aire.training.loop import TrainConfig, train
from aire.utils import devices, digests
from aire.utils.errors import UserError, differences
from aire.utils.files import write_json
from experiments.provenance import provenance

UNCHANGING = {"train": ("checkpoint_minutes", "max_minutes", "fsdp"), "model": ("remat",)}  # settings of no effect
UNREAD = ("selection_examples", "more_test_examples")  # sizes of data that training does not read


def model_config(config: ConfigDict, task: Task) -> ModelConfig:
    """Return the `ModelConfig` of a config for the inputs and classes of a task."""
    options = config.to_dict()
    states, depth, ssm = options.pop("states"), options.pop("depth"), ssm_config(options.pop("ssm"))
    sizes = (kind_of(ssm).n_states(states, options["d_model"]),) * depth
    return ModelConfig(d_input=task.d_input, d_output=task.n_classes, state_sizes=sizes, ssm=ssm, **options)


def data_options(config: ConfigDict) -> dict[str, Any]:
    """Return the options of the data that a pruning run reads.

    Without a training, only the calibration inputs of the training examples are prepared and read.
    """
    options = config.data.to_dict()
    if config.init != "scratch" and not config.finetune:
        n = config.prune.calibration.examples
        options["train_examples"] = min(options["train_examples"] or n, n)
    return options


def obtain_model(config: ConfigDict, task: Task, workdir: Path) -> tuple[Classifier, str]:
    """Return the model to prune, in evaluation mode, and its origin in words.

    Args:
        config: of the run; `config.init` is "scratch", "zoo", a `.safetensors` file of `aire.save`, or a checkpoint of
            a reference implementation (`aire.convert.from_file`). With `config.finetune` it is trained further.
        task: its data.
        workdir: folder for checkpoints and metrics.
    Raises:
        UserError: the model does not exist or does not fit the config; all differences are listed.
    """
    expected = model_config(config.model, task)
    if config.init == "scratch":
        return _train(config, Classifier(expected, rngs=nnx.Rngs(config.seed)), task, workdir, "trained here")
    model, origin = _load(config, expected, workdir)
    return _train(config, model, task, workdir, f"{origin}, fine-tuned here") if config.finetune else (model, origin)


def _load(config: ConfigDict, expected: ModelConfig, workdir: Path) -> tuple[Classifier, str]:
    path = zoo.path(config.name) if config.init == "zoo" else Path(config.init.replace("{runs}", str(workdir.parent)))
    if path.suffix != ".safetensors":
        return convert.from_file(path, expected), f"imported from {path}"
    model = aire.load(path)
    if not isinstance(model, Classifier):
        raise UserError(f"{path} holds a {type(model).__name__}: expected a Classifier")
    model = run_as(model, as_configured(model.config, expected))
    _check_fit(path, model.config, expected)
    return model, f"loaded from {'the zoo' if config.init == 'zoo' else path} ({path.name})"


def _train(config: ConfigDict, model: Classifier, task: Task, workdir: Path, origin: str) -> tuple[Classifier, str]:
    source = provenance()  # before hours of training, in which the code may change
    fingerprint = {key: config[key].to_dict() for key in ("data", "model", "train")} | {"seed": config.seed}
    for size in UNREAD:
        fingerprint["data"].pop(size, None)
    for section, names in UNCHANGING.items():
        for name in names:
            del fingerprint[section][name]
    if config.finetune:
        fingerprint["initial"] = digests.of_arrays(get_arrays(model))
    trained = train(
        model,
        task.splits,
        TrainConfig.from_dict(config.train.to_dict()),
        seed=config.seed,
        folder=workdir / "training",
        fingerprint=fingerprint,
    )
    record = {"config": config.to_dict(), "seed": config.seed, "best_step": trained.step, **source}
    record["validation"] = vars(trained.validation)
    if devices.is_first():
        aire.save(trained.model, workdir / "model.safetensors")
        write_json(workdir / "model.json", record)
    accuracy = f"validation accuracy {trained.validation.accuracy:.2%}"
    return trained.model, f"{origin} with seed {config.seed}, best at step {trained.step} ({accuracy})"


def as_configured(found: ModelConfig, expected: ModelConfig) -> ModelConfig:
    """Return a model's config with the options that do not depend on training: the precision of the activations, what
    the gradient stores, and layer options such as the factor on the time steps (2 for every second sample)."""
    options = kind_of(found.ssm).layer.RUN_OPTIONS
    chosen = {name: getattr(expected.ssm, name) for name in options if hasattr(expected.ssm, name)}
    running = {"dtype": expected.dtype, "remat": expected.remat}
    return dataclasses.replace(found, ssm=dataclasses.replace(found.ssm, **chosen), **running)


def _check_fit(path: Path, found: ModelConfig, expected: ModelConfig) -> None:
    """Raise UserError if a model differs from the config. It may have fewer states, because it may have been cut."""
    a, b = (dataclasses.asdict(c) | {"layers": len(c.state_sizes), "state_sizes": None} for c in (found, expected))
    if words := differences(*(flatten_dict(c, sep=".") for c in (a, b))):
        raise UserError(f"{path} does not fit the config: {words}; change the config, or use --config.init=scratch")
