"""sMNIST, handwritten digits, one grey value a step: train S5 or S4D, prune it, report.

Full size is the S5 paper's: 99.65 % (its table of pixel-level classification). AIRE-Prune's main table has no such row;
the LAST paper's benchmark has one. 28×28 images read row by row, L = 784. 150 epochs of 1,080 steps: hours on one
accelerator; not measured here.

    python run.py --config=smnist_prune           full size; downloads 12 MB, trains, prunes
    python run.py --config=smnist_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=smnist_prune:small     pooled to 14×14, trained on one CPU core
    python run.py --config=smnist_prune:smoke     seconds, for tests

The S5 paper does not say how C is initialised or which parameter groups are used, so both are its code's defaults.
Without a network: get the four idx files elsewhere, packed or unpacked, and pass `--config.data.folder=FOLDER`.
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "small": common.small_images, "smoke": common.smoke_images},
        name="smnist",
        seed=0,
        data=common.images("mnist", permuted=False),
        model=common.s5(depth=4, d_model=96, states=64, blocks=1, C_init="trunc_standard_normal", dropout=0.1),
        train=TrainConfig(
            batch_size=50, epochs=150, optimizer=OptimizerConfig(lr=0.008, ssm_lr=0.002, weight_decay=0.01)
        ),
        prune=common.pruning(),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, post-norm, as the S4 code's example.py trains it on MNIST, but in two directions.

    The S4D paper has no such task.
    """
    config.name += "_s4d"
    config.model = common.s4d(depth=4, d_model=256, prenorm=False, batchnorm=False, dropout=0.1)
    config.train.update(batch_size=64, epochs=100)
    config.train.optimizer.update(lr=0.01, ssm_lr=0.001, weight_decay=0.0)
