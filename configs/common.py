"""Building blocks of the task configs. Defaults come from the dataclasses that the settings are passed to."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from aire.data.synthetic import FOLDER as SYNTHETIC
from aire.models import ModelConfig
from aire.pruning import methods
from aire.ssm import LRUConfig, S4DConfig, S5Config, S6Config
from aire.training.loop import TrainConfig
from aire.utils.errors import UserError
from experiments.settings import PruneConfig

Change = Callable[[ConfigDict], None]
# A training of about ten minutes on one core.
SMALL_MAMBA = {"depth": 3, "d_model": 32, "states": 16}
SMALL_MAMBA_TRAINING = {"epochs": 3, "warmup_epochs": 0}


def build(variants: str, changes: Mapping[str, Change], *, train: TrainConfig, **settings: Any) -> ConfigDict:
    """Build the config of a pruning run.

    Args:
        variants: names in `changes`, joined by commas.
        changes: what each variant changes. They apply in this order, so `small,s4d` is `s4d,small`.
        train: how to train.
        settings: name, seed, data, model and prune.
    Raises:
        UserError: a variant is unknown.
    """
    # init: "scratch", "zoo", a .safetensors file, or a checkpoint of a reference implementation.
    # finetune: train the model of `init` further, with the settings of `train`, before it is pruned.
    # distributed: ("host:port", processes, index), where `aire.utils.processes` does not find them by itself.
    fixed = {"experiment": "prune", "init": "scratch", "finetune": False, "train": dataclasses.asdict(train)}
    fixed["distributed"] = ()
    config = ConfigDict(fixed | settings)
    for change in parse_variants(variants, changes):
        change(config)
    return config


def parse_variants(text: str, known: Mapping[str, Change]) -> list[Change]:
    """Return the changes that a comma-separated list names, in the order of `known`."""
    names = [name for name in (text or "").split(",") if name]
    for name in names:
        if name not in known:
            raise UserError(f"unknown variant {name!r}: expected one of {sorted(known)}, or several joined by commas")
    return [change for name, change in known.items() if name in names]


def model(layer: type, *, depth: int, d_model: int, states: int, **options: Any) -> ConfigDict:
    """Settings of a model with `depth` layers; `options` are those of `ModelConfig` and of the layer's dataclass."""
    own = {field.name for field in dataclasses.fields(layer)} & options.keys()
    ssm = layer(**{name: options.pop(name) for name in own})
    settings = dataclasses.asdict(ModelConfig(1, d_model, 1, (states,), ssm, **options))
    for name in ("d_input", "d_output", "state_sizes"):  # the task gives the first two
        del settings[name]
    return ConfigDict(settings | {"depth": depth, "states": states})


def s5(**options: Any) -> ConfigDict:
    """S5 as in its reference's run scripts. `states` are stored per layer: P/2 under conjugate symmetry."""
    return model(S5Config, bidirectional=True, **options)


def s4d(**options: Any) -> ConfigDict:
    """S4D as in its paper: N = 64, so 32 states are stored per channel, one of each conjugate pair."""
    # PyTorch's default momentum of 0.1 is 0.9 in Flax.
    return model(S4DConfig, bidirectional=True, **{"states": 32, "activation": "glu", "bn_momentum": 0.9, **options})


def lru(**options: Any) -> ConfigDict:
    """LRU as in CompreSSM's experiments, but in two directions. All P states of a layer are stored."""
    fixed = {"activation": "full_glu", "bn_momentum": 0.99, "bidirectional": True}
    return model(LRUConfig, r_min=0.9, r_max=0.999, max_phase=6.28, **fixed, **options)


def mamba(**options: Any) -> ConfigDict:
    """Mamba's blocks in one direction, as in its paper: N = 16 and twice as many channels as features.

    No paper gives sizes or hyperparameters of Mamba on these tasks, so they are our choice.
    """
    fixed = {"activation": "gelu", "batchnorm": False, "states": 16}
    return model(S6Config, **{**fixed, **options})


def to_mamba(config: ConfigDict, **options: Any) -> None:
    """Change a config to Mamba, trained by AdamW at one rate, as in its reference. Sizes are our choice."""
    config.name += "_mamba"
    kept = {name: config.model[name] for name in ("pooling", "retrieval")}
    config.model = mamba(**{"depth": 6, "d_model": 128, **kept, **options})
    # No weight decay of A_log, the time steps and D.
    config.train.optimizer.update(lr=0.002, ssm_lr=0.002, weight_decay=0.05, groups="noBCdecay", dt_global=False)
    config.prune.methods = ("all",)


def set_model(config: ConfigDict, **by_kind: Mapping[str, Any]) -> None:
    """Set sizes of the model for some kinds of layers: set_model(config, s6={"states": 16})."""
    config.model.update(by_kind.get(config.model.ssm.kind, {}))


def set_training(config: ConfigDict, **by_kind: Mapping[str, Any]) -> None:
    """Set the training for some kinds of layers: set_training(config, s6={"epochs": 3})."""
    config.train.update(by_kind.get(config.model.ssm.kind, {}))


def set_layer(config: ConfigDict, **by_kind: Mapping[str, Any]) -> None:
    """Set layer options that only some kinds have: set_layer(config, s5={"blocks": 2})."""
    config.model.ssm.update(by_kind.get(config.model.ssm.kind, {}))


def pruning(**options: Any) -> ConfigDict:
    """Settings of the sweep (`PruneConfig`): all methods, also those that need data."""
    return ConfigDict(dataclasses.asdict(PruneConfig(**{"methods": tuple(methods.METHODS), **options})))


def images(task: str, **options: Any) -> ConfigDict:
    """Data of an image task, with all images by default."""
    # At most; 0: all, half of the validation images each for validation and selection.
    size = dict.fromkeys(("train_examples", "validation_examples", "selection_examples", "test_examples"), 0)
    size["more_test_examples"] = 0  # added to test_examples, without being a setting of the training
    # pool: side of the squares whose mean is one step, so L = (side of an image / pool)².
    # folder: of the files; empty: download the published ones.
    return ConfigDict({"task": task, **options, "pool": 1, **size, "folder": ""})


def small(config: ConfigDict, **data: int) -> None:
    """Change a config to a model that one CPU core trains in under 30 minutes on 8,000 examples."""
    config.name += "_small"
    config.seed = 0
    config.data.update(train_examples=8_000, validation_examples=1_000, test_examples=1_000, **data)
    config.data.selection_examples = 1_000
    config.model.update(depth=4, d_model=64, states=32)
    set_model(config, s6=SMALL_MAMBA)
    set_layer(config, s5={"blocks": 8, "clip_eigs": True})  # clipped, so every state's energy is finite
    config.train.update(epochs=10, warmup_epochs=1)
    config.prune.update(methods=(), ratios=tuple(i / 10 for i in range(10)))


def small_images(config: ConfigDict) -> None:
    """Pool images to half their side; one CPU core trains the model in about 30 minutes."""
    config.name += "_small"
    config.seed = 0
    # Fewer evaluation examples, so that a sweep takes minutes.
    config.data.update(pool=2, validation_examples=2_000, selection_examples=2_000, test_examples=2_000)
    config.model.update(depth=4, d_model=64, states=32)
    set_model(config, s6=SMALL_MAMBA)
    set_layer(config, s5={"blocks": 1, "clip_eigs": True})  # clipped, so every state's energy is finite
    config.train.update(batch_size=32, epochs=6, evaluate_every=1000)
    set_training(config, s6=SMALL_MAMBA_TRAINING)
    config.prune.update(methods=(), ratios=tuple(i / 10 for i in range(10)), batch_size=50)


def smoke(config: ConfigDict, **data: Any) -> None:
    """Change a config to run every stage in seconds, on synthetic files; the accuracy means nothing."""
    config.name += "_smoke"
    config.seed = 0
    if "folder" in config.data:
        config.data.folder = SYNTHETIC
    config.data.update(train_examples=64, validation_examples=32, test_examples=32, **data)
    config.data.selection_examples = 32
    config.model.update(depth=2, d_model=16, states=8)
    set_layer(config, s5={"blocks": 1})
    config.train.update(batch_size=16, epochs=2, warmup_epochs=1)
    config.prune.update(methods=(), ratios=(0.0, 0.25, 0.5, 0.75), batch_size=32)


def smoke_images(config: ConfigDict) -> None:
    """As `smoke`, with images pooled to a quarter of their side."""
    smoke(config, pool=4)
