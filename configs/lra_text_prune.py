"""LRA Text, IMDB's film reviews by characters: train S5 or S4D, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row Text: 88.88 % before, 88.24 % after cutting 80 % of the states
(LAST: 88.52 % after 60 %); S4D: 90 % cut. Hyperparameters of the S5 reference (its script run_lra_imdb.sh; the S5 paper
reports 89.31 %) and of the S4D paper. 35 epochs of 450 steps at L = 4,096: hours on one accelerator; not measured here.

    python run.py --config=lra_text_prune           full size; downloads 84 MB, trains, prunes
    python run.py --config=lra_text_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=lra_text_prune:small     512 characters of 8,000 reviews: 10 minutes on one CPU core
    python run.py --config=lra_text_prune:smoke     seconds, for tests
    python run.py --config=lra_text_prune:mamba          Mamba in place of S5; its sizes are our choice

The references train on all 25,000 training reviews and validate on the test set: `--config.data.validate_on_test=True`.
By default, a tenth of the training reviews is the validation split. Without a network: get aclImdb_v1.tar.gz elsewhere,
packed or unpacked, and pass `--config.data.folder=FOLDER`.
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "mamba": common.to_mamba, "small": small, "smoke": smoke},
        name="lra_text",
        seed=8825365,
        data={
            "task": "imdb",
            "length": 4096,
            "validate_on_test": False,
            "train_examples": 0,  # at most; 0: all, 22,500
            "validation_examples": 0,  # 1,250
            "selection_examples": 0,  # 1,250 others, which choose the ratio
            "test_examples": 0,  # 25,000
            "folder": "",  # of the archive, packed or unpacked; empty: download it
        },
        model=common.s5(
            depth=6,
            d_model=256,
            states=96,
            blocks=12,
            activation="half_glu2",
            dropout=0.1,
            pooling="masked_mean",
        ),
        train=TrainConfig(
            batch_size=50,
            epochs=35,
            warmup_epochs=0,
            optimizer=OptimizerConfig(lr=0.004, ssm_lr=0.001, weight_decay=0.07, dt_global=True),
        ),
        prune=common.pruning(batch_size=50),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 2222
    config.model = common.s4d(depth=6, d_model=256, pooling="masked_mean")
    config.train.update(batch_size=16, epochs=32, warmup_epochs=1)
    config.train.optimizer.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05, dt_global=False)


def small(config: ConfigDict) -> None:
    """The first 512 characters of each review."""
    common.small(config, length=512)
    config.train.batch_size = 32


def smoke(config: ConfigDict) -> None:
    """The first 64 characters of each review."""
    common.smoke(config, length=64)
