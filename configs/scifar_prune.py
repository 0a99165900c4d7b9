"""sCIFAR, CIFAR-10 in colour, one pixel of three values a step: train S5 or S4D, prune it, report.

Full size is the S5 paper's: 90.1 % (its table of pixel-level classification). AIRE-Prune's main table has no such row;
the LAST paper's benchmark has one. 32×32 images read row by row, L = 1,024. 250 epochs of 900 steps: hours on one
accelerator; not measured here.

    python run.py --config=scifar_prune           full size; downloads 170 MB, trains, prunes
    python run.py --config=scifar_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=scifar_prune:small     pooled to 16×16, trained on one CPU core
    python run.py --config=scifar_prune:smoke     seconds, for tests

The S5 paper's hyperparameters are those of Image, so what it leaves open (initialisation of C, clipping, parameter
groups) also comes from Image. S4D's are those of the S4 code's configs/experiment/cifar/s4-cifar.yaml, again the same
as for Image. Without a network: see configs/lra_image_prune.py.
"""

from ml_collections import ConfigDict

from configs import lra_image_prune


def get_config(variants: str = "") -> ConfigDict:
    config = lra_image_prune.get_config(variants)
    config.name = config.name.replace("lra_image", "scifar")
    config.data.grey = False
    return config
