"""A language model of bytes: train Mamba on the sources of Python's standard library, cut columns, report perplexity.

The text is on every machine with Python, so nothing is downloaded. It is split by module: a tenth of the modules is
held out for the test, a tenth chooses the checkpoint. No paper has this task; the sizes are our choice.

    python run.py --config=stdlib_mamba            trains for about a quarter of an hour on one CPU core
    python run.py --config=stdlib_mamba:smoke      seconds, for tests

The texts of two versions of Python differ, so a table says which one it is of.
"""

import dataclasses

from ml_collections import ConfigDict

from aire.ssm import S6Config
from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs.common import parse_variants
from experiments.lm.lm_settings import LMPruneConfig
from experiments.lm.stdlib_text import TextConfig


def get_config(variants: str = "") -> ConfigDict:
    optimizer = OptimizerConfig(lr=0.003, ssm_lr=0.003, weight_decay=0.05, groups="noBCdecay")
    train = TrainConfig(batch_size=16, epochs=2, warmup_epochs=0, evaluate_every=500, optimizer=optimizer)
    config = ConfigDict(
        {
            "experiment": "lm",
            "name": "stdlib_mamba",
            "seed": 0,
            "data": dataclasses.asdict(TextConfig(256, validation_examples=256, test_examples=1024)),
            "model": {
                "depth": 4,
                "d_model": 64,
                "states": 16,
                "ssm": dataclasses.asdict(S6Config()),
                "tied": True,
                "norm_epsilon": 1e-5,
                "dtype": "float32",
            },
            "train": dataclasses.asdict(train),
            "prune": dataclasses.asdict(LMPruneConfig()),
        }
    )
    for change in parse_variants(variants, {"smoke": smoke}):
        change(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Change the config to run every stage in seconds; the perplexity means nothing."""
    config.name += "_smoke"
    config.data.update(length=32, train_examples=32, validation_examples=16, test_examples=16)
    config.model.update(depth=2, d_model=16, states=4)
    config.train.update(batch_size=8, epochs=1, evaluate_every=2)
    config.prune.update(ratios=(0.5,), seeds=(0, 1), calibration_examples=16)
