"""psMNIST, sMNIST's steps in the order of the bit-reversal permutation: train S5 or S4D, prune it, report.

Full size is the S5 paper's: 98.67 % (its table of pixel-level classification). AIRE-Prune's main table has no such row;
the LAST paper's benchmark has one. L = 784. 150 epochs of 1,080 steps: hours on one accelerator; not measured here.

    python run.py --config=psmnist_prune           full size; downloads 12 MB, trains, prunes
    python run.py --config=psmnist_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=psmnist_prune:small     pooled to 14×14, then permuted; trained on one CPU core
    python run.py --config=psmnist_prune:smoke     seconds, for tests

The permutation is that of the S4 and S5 code; earlier papers used others. For what the S5 paper leaves open, and for
data without a network, see configs/smnist_prune.py.
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common
from configs.smnist_prune import s4d


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "small": common.small_images, "smoke": common.smoke_images},
        name="psmnist",
        seed=0,
        data=common.images("mnist", permuted=True),
        model=common.s5(depth=4, d_model=128, states=64, blocks=2, C_init="trunc_standard_normal", dropout=0.15),
        train=TrainConfig(
            batch_size=50, epochs=150, optimizer=OptimizerConfig(lr=0.004, ssm_lr=0.001, weight_decay=0.01)
        ),
        prune=common.pruning(),
    )
