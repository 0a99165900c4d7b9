"""LRA Retrieval, does one paper cite the other, by characters: train S5 or S4D, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row Retrieval: 91.20 % before, 90.11 % after cutting 50 % of the
states (LAST: 90.42 % after 50 %). Hyperparameters of the S5 reference (its script run_lra_aan.sh; the S5 paper reports
91.40 %). AIRE-Prune's script trains for 5 epochs instead of 20: `--config.train.epochs=5`. An epoch is 4,596 steps
on 32 pairs, 64 sequences of L = 4,000: many hours on one accelerator; not measured here. AIRE-Prune has no row for
S4D; its hyperparameters are those of the S4D paper.

    python run.py --config=lra_retrieval_prune --config.data.folder=FOLDER           full size: trains, prunes
    python run.py --config=lra_retrieval_prune:s4d --config.data.folder=FOLDER       also as s4d,small and s4d,smoke
    python run.py --config=lra_retrieval_prune:small --config.data.folder=FOLDER     256 characters, one CPU core
    python run.py --config=lra_retrieval_prune:smoke                                 seconds, for tests
    python run.py --config=lra_retrieval_prune:mamba     Mamba in place of S5; its sizes are our choice

FOLDER is the Long Range Arena's release, unpacked, or its folder tsv_data with new_aan_pairs.train.tsv, .eval.tsv and
.test.tsv: lra_release.gz, 7.7 GB, https://storage.googleapis.com/long-range-arena/lra_release.gz. It is not downloaded
automatically because no checksum is published. `small` uses 8,000 of the pairs: 10 minutes on one CPU core.
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "mamba": common.to_mamba, "small": small, "smoke": smoke},
        name="lra_retrieval",
        seed=5464368,
        data={
            "task": "aan",
            "length": 4000,
            "train_examples": 0,  # at most; 0: all, 147,086
            "validation_examples": 0,  # 9,045: half of the file
            "selection_examples": 0,  # the other half, which choose the ratio
            "test_examples": 0,  # 17,437
            "folder": "",  # the Long Range Arena's release
        },
        model=common.s5(
            depth=6,
            d_model=128,
            states=128,
            blocks=16,
            C_init="trunc_standard_normal",
            pooling="masked_mean",
            retrieval=True,
        ),
        train=TrainConfig(
            batch_size=32,
            epochs=20,
            optimizer=OptimizerConfig(lr=0.002, ssm_lr=0.001, weight_decay=0.05, dt_global=True),
        ),
        prune=common.pruning(batch_size=32),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 2222
    config.model = common.s4d(depth=6, d_model=256, pooling="masked_mean", retrieval=True)
    config.train.batch_size = 64
    config.train.optimizer.update(lr=0.01, ssm_lr=0.001, dt_global=False)


def small(config: ConfigDict) -> None:
    """The first 256 characters of each paper."""
    common.small(config, length=256)
    config.train.batch_size = 32


def smoke(config: ConfigDict) -> None:
    """The first 64 characters of each paper."""
    common.smoke(config, length=64)
