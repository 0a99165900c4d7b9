"""sMNIST, handwritten digits, one grey value a step: train S5 or S4D, prune it, report.

Full size is the S5 paper's: 99.65 % (its table of pixel-level classification). AIRE-Prune's main table has no such row;
the LAST paper's benchmark has one. 28×28 pictures read row by row, L = 784. 150 epochs of 1,080 steps: hours on one
accelerator; not measured here.

    python run.py --config=smnist_prune           full size; downloads 12 MB, trains, prunes
    python run.py --config=smnist_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=smnist_prune:small     pooled to 14×14, trained on one CPU core
    python run.py --config=smnist_prune:smoke     seconds, untrained for all purposes; for tests

The S5 paper gives no initialisation of C and no parameter groups for this task: they are its code's defaults. Without a
network: the four idx files by other means, packed or not, and `--config.data.folder=FOLDER`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "prune",
            "name": "smnist",
            "seed": 0,
            "init": "scratch",  # or a .safetensors file, or a reference's checkpoint
            "data": common.picture_data("mnist", permuted=False),
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(depth=4, d_model=96, states=64, dropout=0.1)
    config.model.ssm.update(blocks=1, C_init="trunc_standard_normal")
    config.train.update(epochs=150, lr=0.008, ssm_lr=0.002, weight_decay=0.01)
    variants_known = {"s4d": s4d, "small": common.small_pictures, "smoke": common.smoke_pictures}
    for change in common.parse_variants(variants, variants_known):
        change(config)
    return config


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, post-norm, as the S4 code's example.py trains it on MNIST, but in two directions.

    The S4D paper has no such task.
    """
    config.name += "_s4d"
    config.model = common.s4d_model()
    config.model.update(depth=4, d_model=256, prenorm=False, batchnorm=False, dropout=0.1)
    config.train.update(batch_size=64, epochs=100, lr=0.01, ssm_lr=0.001, weight_decay=0.0)
