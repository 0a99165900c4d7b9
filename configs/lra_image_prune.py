"""LRA Image, CIFAR-10 in grey, one pixel a step: train S5 or S4D, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row Image: 87.30 % before and after cutting 65 % of the states
(LAST: 86.34 % after 30 %); S4D: 40 % cut. Hyperparameters of the S5 reference (its script run_lra_cifar.sh; the S5
paper reports 88.00 %) and of the S4D paper. 32×32 images read row by row, L = 1,024. 250 epochs of 900 steps: hours on
one accelerator; not measured here.

    python run.py --config=lra_image_prune           full size; downloads 170 MB, trains, prunes
    python run.py --config=lra_image_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=lra_image_prune:small     pooled to 16×16, trained on one CPU core
    python run.py --config=lra_image_prune:smoke     seconds, for tests
    python run.py --config=lra_image_prune:mamba         Mamba in place of S5; its sizes are our choice

Without a network: get cifar-10-binary.tar.gz or cifar-10-python.tar.gz elsewhere, packed or unpacked, and pass
`--config.data.folder=FOLDER`.
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "mamba": common.to_mamba, "small": common.small_images, "smoke": common.smoke_images},
        name="lra_image",
        seed=16416,
        data=common.images("cifar10", grey=True),
        model=common.s5(depth=6, d_model=512, states=192, blocks=3, clip_eigs=True, dropout=0.1),
        train=TrainConfig(
            batch_size=50,
            epochs=250,
            optimizer=OptimizerConfig(lr=0.0045, ssm_lr=0.001, weight_decay=0.07, groups="BfastandCdecay"),
        ),
        prune=common.pruning(batch_size=50),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, layer norm, post-norm."""
    config.name += "_s4d"
    config.seed = 2222
    config.model = common.s4d(depth=6, d_model=512, prenorm=False, batchnorm=False, dropout=0.1)
    config.train.epochs = 200
    config.train.optimizer.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05, groups="standard")
