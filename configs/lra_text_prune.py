"""LRA Text, IMDB's film reviews by characters: train S5 or S4D, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row Text: 88.88 % before, 88.24 % after cutting 80 % of the states
(LAST: 60 %, 88.52 %); S4D: 90 % cut. Hyperparameters of the S5 reference (its script run_lra_imdb.sh; the S5 paper
reports 89.31 %) and of the S4D paper. 35 epochs of 450 steps at L = 4,096: hours on one accelerator; not measured here.

    python run.py --config=lra_text_prune           full size; downloads 84 MB, trains, prunes
    python run.py --config=lra_text_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=lra_text_prune:small     512 characters of 8,000 reviews: 10 minutes on a CPU core
    python run.py --config=lra_text_prune:smoke     untrained for all purposes; for tests

The references train on all 25,000 training reviews and choose on the test set, `--config.data.validate_on_test=True`;
by default a tenth of the training reviews validates. Without a network: aclImdb_v1.tar.gz by other means, packed or
unpacked, and `--config.data.folder=FOLDER`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "prune",
            "name": "lra_text",
            "seed": 8825365,
            "init": "scratch",  # or a .safetensors file, or a reference's checkpoint
            "data": {
                "task": "imdb",
                "length": 4096,
                "validate_on_test": False,
                "train_examples": 0,  # at most; 0: all, 22,500
                "validation_examples": 0,  # 2,500
                "test_examples": 0,  # 25,000
                "folder": "",  # of the archive, packed or not; empty: the published one
            },
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(d_model=256, states=96, activation="half_glu2", dropout=0.1, pooling="masked_mean")
    config.model.ssm.update(blocks=12)
    config.train.update(epochs=35, warmup_epochs=0, lr=0.004, weight_decay=0.07, dt_global=True)
    config.prune.batch_size = 50
    for change in common.parse_variants(variants, {"s4d": s4d, "small": small, "smoke": smoke}):
        change(config)
    return config


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 2222
    config.model = common.s4d_model()
    config.model.update(d_model=256, pooling="masked_mean")
    config.train.update(
        batch_size=16, epochs=32, warmup_epochs=1, lr=0.01, ssm_lr=0.001, weight_decay=0.05, dt_global=False
    )


def small(config: ConfigDict) -> None:
    """The beginnings of reviews."""
    common.small(config, length=512)
    config.train.batch_size = 32


def smoke(config: ConfigDict) -> None:
    """Few, short sequences."""
    common.smoke(config, length=64)
