"""psMNIST, sMNIST's steps in the order of the bit-reversal permutation: train S5 or S4D, prune it, report.

Full size is the S5 paper's: 98.67 % (its table of pixel-level classification). AIRE-Prune's main table has no such row;
the LAST paper's benchmark has one. L = 784. 150 epochs of 1,080 steps: hours on one accelerator; not measured here.

    python run.py --config=psmnist_prune           full size; downloads 12 MB, trains, prunes
    python run.py --config=psmnist_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=psmnist_prune:small     pooled to 14×14, then permuted; trained on one CPU core
    python run.py --config=psmnist_prune:smoke     seconds, untrained for all purposes; for tests

The permutation is that of the S4 and S5 code; papers before them took others. What the S5 paper leaves open, and data
without a network: as for sMNIST (configs/smnist_prune.py).
"""

from ml_collections import ConfigDict

from configs import common
from configs.smnist_prune import s4d


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "prune",
            "name": "psmnist",
            "seed": 0,
            "init": "scratch",  # or a .safetensors file, or a reference's checkpoint
            "data": common.picture_data("mnist", permuted=True),
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(depth=4, d_model=128, states=64, dropout=0.15)
    config.model.ssm.update(blocks=2, C_init="trunc_standard_normal")
    config.train.update(epochs=150, lr=0.004, ssm_lr=0.001, weight_decay=0.01)
    variants_known = {"s4d": s4d, "small": common.small_pictures, "smoke": common.smoke_pictures}
    for change in common.parse_variants(variants, variants_known):
        change(config)
    return config
