"""What the configs share: the defaults of the main job, and variants."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from aire.data.synthetic import FOLDER as MADE_UP
from aire.utils.errors import UserError

Change = Callable[[ConfigDict], None]


def parse_variants(text: str, known: Mapping[str, Change]) -> list[Change]:
    """The changes that a comma-separated list of variants names, in the order of `known` whatever the order given.

    So a config can say what kind of model it is before how large, and `small,s4d` is `s4d,small`.

    Raises:
        UserError: an unknown variant; the known ones are listed.
    """
    names = [name for name in (text or "").split(",") if name]
    for name in names:
        if name not in known:
            raise UserError(f"unknown variant {name!r}: expected one of {sorted(known)}, or several joined by commas")
    return [change for name, change in known.items() if name in names]


def set_layer(config: ConfigDict, **by_kind: Mapping[str, Any]) -> None:
    """Set options of the state space layers that only some kinds have: set_layer(config, s5={"blocks": 2})."""
    config.model.ssm.update(by_kind.get(config.model.ssm.kind, {}))


def small(config: ConfigDict, **data: int) -> None:
    """Change a config to a model that one CPU core trains in under 30 minutes, on 8,000 examples of these `data`."""
    config.name += "_small"
    config.seed = 0
    config.data.update(train_examples=8_000, validation_examples=1_000, test_examples=1_000, **data)
    config.model.update(depth=4, d_model=64, states=32)
    set_layer(config, s5={"blocks": 8, "clip_eigs": True})  # clipped, every state's energy is finite
    config.train.update(epochs=10, warmup_epochs=1)
    config.prune.ratios = tuple(i / 10 for i in range(10))


def smoke(config: ConfigDict, **data: int) -> None:
    """Change a config to do every stage in seconds, on made-up files; the accuracy means nothing."""
    config.data.folder = MADE_UP
    config.name += "_smoke"
    config.seed = 0
    config.data.update(train_examples=64, validation_examples=32, test_examples=32, **data)
    config.model.update(depth=2, d_model=16, states=8)
    set_layer(config, s5={"blocks": 2})
    config.train.update(batch_size=8, epochs=2)
    config.prune.update(ratios=(0.0, 0.5), batch_size=32)


def s5_model() -> ConfigDict:
    """Options of `aire.models.ModelConfig` with an S5 layer, as in the S5 reference's run scripts."""
    return ConfigDict(
        {
            "d_model": 128,
            "depth": 6,
            "states": 64,  # stored per layer: P/2 under conjugate symmetry
            "activation": "half_glu1",
            "prenorm": True,
            "batchnorm": True,
            "bn_momentum": 0.95,
            "dropout": 0.0,
            "pooling": "mean",
            "retrieval": False,
            "dtype": "float32",  # of the activations: or "bfloat16"
            "ssm": {
                "kind": "s5",
                "blocks": 8,
                "C_init": "lecun_normal",
                "dt_min": 0.001,
                "dt_max": 0.1,
                "conj_sym": True,
                "bidirectional": True,
                "discretization": "zoh",
                "clip_eigs": False,
                "step_rescale": 1.0,
            },
        }
    )


def s4d_model() -> ConfigDict:
    """Options of `aire.models.ModelConfig` with an S4D layer, as in the S4D paper's experiments (N = 64)."""
    return ConfigDict(
        {
            "d_model": 128,
            "depth": 6,
            "states": 32,  # stored per channel: N/2, one of each conjugate pair
            "activation": "glu",
            "prenorm": True,
            "batchnorm": True,
            "bn_momentum": 0.9,  # PyTorch's default, which it counts from the other end
            "dropout": 0.0,
            "pooling": "mean",
            "retrieval": False,
            "dtype": "float32",  # of the activations: or "bfloat16"
            "ssm": {
                "kind": "s4d",
                "init": "legs",
                "dt_min": 0.001,
                "dt_max": 0.1,
                "bidirectional": True,
                "discretization": "zoh",
                "step_rescale": 1.0,
            },
        }
    )


def lru_model() -> ConfigDict:
    """Options of `aire.models.ModelConfig` with an LRU layer, as in CompreSSM's experiments, but in two directions."""
    return ConfigDict(
        {
            "d_model": 128,
            "depth": 6,
            "states": 256,  # stored per layer: all P, because there are no conjugate pairs
            "activation": "full_glu",
            "prenorm": True,
            "batchnorm": True,
            "bn_momentum": 0.99,
            "dropout": 0.0,
            "pooling": "mean",
            "retrieval": False,
            "dtype": "float32",  # of the activations: or "bfloat16"
            "ssm": {
                "kind": "lru",
                "r_min": 0.9,
                "r_max": 0.999,
                "max_phase": 6.28,
                "bidirectional": True,
            },
        }
    )


def training() -> ConfigDict:
    """Options of `aire.training.loop.TrainConfig`."""
    return ConfigDict(
        {
            "batch_size": 50,
            "epochs": 40,
            "warmup_epochs": 1,
            "evaluate_every": 0,  # steps; 0: once an epoch
            "lr": 0.003,
            "ssm_lr": 0.001,
            "weight_decay": 0.05,
            "groups": "standard",
            "dt_global": False,
        }
    )


def pruning() -> ConfigDict:
    """Options of the sweep in `experiments/prune/prune_job.py`."""
    return ConfigDict(
        {
            # Names of aire.pruning.methods; empty: all that see no data. The cut model of the first is saved.
            "methods": (),
            "scores_file": "",  # a Python file of yours that registers more scores
            "ratios": tuple(round(0.05 * i, 2) for i in range(20)),
            "scope": "",  # "global" or "uniform" for all methods; empty: each its own
            "unstable": "first",  # states with |λ̄| >= 1, of infinite energy, are kept first; or "error"
            "tolerance": 1.0,  # points of validation accuracy that a cut may cost
            "batch_size": 200,
            "calibration": {"examples": 256},  # training inputs, without labels, for methods that see data
        }
    )


def picture_data(task: str, **options: Any) -> ConfigDict:
    """Options of a task of pictures, all of which are taken."""
    return ConfigDict(
        {
            "task": task,
            **options,
            "pool": 1,  # side of the squares whose mean is one step: L = (side of a picture / pool)²
            "train_examples": 0,  # at most; 0: all
            "validation_examples": 0,
            "test_examples": 0,
            "folder": "",  # of the files; empty: the published ones
        }
    )


def small_pictures(config: ConfigDict) -> None:
    """All pictures, pooled to half their side, and a model that one CPU core trains in about 30 minutes."""
    config.name += "_small"
    config.seed = 0
    # Fewer pictures and ratios, for every method is to be swept and tested within three minutes.
    config.data.update(pool=2, validation_examples=2_000, test_examples=2_000)
    config.model.update(depth=4, d_model=64, states=32)
    set_layer(config, s5={"blocks": 1, "clip_eigs": True})  # clipped, every state's energy is finite
    config.train.update(batch_size=32, epochs=6, evaluate_every=1000)
    config.prune.ratios = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
    config.prune.batch_size = 50


def smoke_pictures(config: ConfigDict) -> None:
    """Every stage in seconds, on a few made-up pictures, pooled to a quarter of their side; accuracy means nothing."""
    config.data.folder = MADE_UP
    config.name += "_smoke"
    config.seed = 0
    config.data.update(pool=4, train_examples=256, validation_examples=64, test_examples=64)
    config.model.update(depth=2, d_model=16, states=8)
    set_layer(config, s5={"blocks": 1})
    config.train.update(batch_size=16, epochs=2)
    config.prune.update(ratios=(0.0, 0.25, 0.5, 0.75), batch_size=64)
