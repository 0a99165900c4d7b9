"""Sequential Fashion-MNIST, one grey value a step: train S5, S4D or LRU, prune it, report.

Not a task of the paper, so there is no number to reach: it is real data that anyone has within a minute, in the place
of LAST's sMNIST. Full size takes the S5 paper's hyperparameters for sMNIST (99.65 % there; MNIST is easier): 28×28
pictures read row by row, L = 784, both directions as in all its tasks, 150 epochs of 1,100 steps: hours on one
accelerator; not measured here.

    python run.py --config=fashion_mnist_prune           full size; downloads 31 MB, trains, prunes
    python run.py --config=fashion_mnist_prune:small     a trained model that ships with the code, 2 CPU cores, minutes
    python run.py --config=fashion_mnist_prune:smoke     seconds, untrained for all purposes; for tests
    python run.py --config=fashion_mnist_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=fashion_mnist_prune:lru       LRU in place of S5, also as lru,small and lru,smoke

Without a network: `apt-get install dataset-fashion-mnist` (Debian, Ubuntu) and the same commands, or the four files by
other means and `--config.data.folder=FOLDER`, each as it is published or unpacked.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "prune",
            "name": "fashion_mnist",
            "seed": 0,
            "init": "scratch",  # or "zoo", a .safetensors file, or a reference's checkpoint
            "data": common.picture_data("fashion_mnist"),
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(depth=4, d_model=96, states=64, dropout=0.1)
    config.model.ssm.update(blocks=1)
    config.train.update(epochs=150, lr=0.008, ssm_lr=0.002, weight_decay=0.01)
    known = {"s4d": s4d, "lru": lru, "small": small, "smoke": common.smoke_pictures}
    for change in common.parse_variants(variants, known):
        change(config)
    return config


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm, with the S4D paper's settings for its image task but for the sizes."""
    config.name += "_s4d"
    config.model = common.s4d_model()
    config.model.update(depth=4, d_model=96, dropout=0.1)
    config.train.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05)


def lru(config: ConfigDict) -> None:
    """LRU with the sizes and the training of S5. That choice is ours, because no paper has LRU on this task."""
    config.name += "_lru"
    config.model = common.lru_model()
    config.model.update(depth=4, d_model=96, states=64, dropout=0.1)


def small(config: ConfigDict) -> None:
    """Pooled to 14×14 (L = 196); the zoo has its trained model."""
    common.small_pictures(config)
    common.set_layer(config, lru={"r_min": 0.5, "r_max": 0.99})  # the slowest fall to a seventh within 196 steps
    config.init = "zoo"
