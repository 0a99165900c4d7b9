"""Sequential Fashion-MNIST, one grey value a step: train S5, prune it, report.

Not a task of the paper, so there is no number to reach: it is real data that anyone has within a minute, in the place
of LAST's sMNIST. Full size takes the S5 paper's hyperparameters for sMNIST (99.65 % there; MNIST is easier): 28×28
pictures read row by row, L = 784, both directions as in all its tasks, 150 epochs of 1,100 steps: hours on one
accelerator; not measured here.

    python run.py --config=fashion_mnist_prune           full size; downloads 31 MB, trains, prunes
    python run.py --config=fashion_mnist_prune:small     a trained model that ships with the code, 2 CPU cores, minutes
    python run.py --config=fashion_mnist_prune:smoke     seconds, untrained for all purposes; for tests

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
            "data": {
                "task": "fashion_mnist",
                "pool": 1,  # side of the squares whose mean is one step: L = (28 / pool)²
                "train_examples": 0,  # at most; 0: all, 55,000
                "validation_examples": 0,  # 5,000
                "test_examples": 0,  # 10,000
                "folder": "",  # of the four idx files; empty: the published ones
            },
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(depth=4, d_model=96, states=64, dropout=0.1)
    config.model.ssm.update(blocks=1)
    config.train.update(epochs=150, lr=0.008, ssm_lr=0.002, weight_decay=0.01)
    for change in common.parse_variants(variants, {"s4d": s4d, "small": small, "smoke": smoke}):
        change(config)
    return config


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm, with the S4D paper's settings for its image task but for the sizes."""
    config.name += "_s4d"
    config.model = common.s4d_model()
    config.model.update(depth=4, d_model=96, dropout=0.1)
    config.train.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05)


def small(config: ConfigDict) -> None:
    """All pictures, pooled to 14×14 (L = 196), and a model that one CPU core trains in under 30 minutes."""
    config.name += "_small"
    config.init = "zoo"
    # Fewer pictures and ratios, for every method is to be swept and tested within three minutes.
    config.data.update(pool=2, validation_examples=2_000, test_examples=2_000)
    config.model.update(d_model=64, states=32)
    if config.model.ssm.kind == "s5":
        config.model.ssm.clip_eigs = True  # keeps every state's energy finite
    config.train.update(batch_size=32, epochs=6, evaluate_every=1000)
    config.prune.ratios = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
    config.prune.batch_size = 50


def smoke(config: ConfigDict) -> None:
    """Every stage in seconds, on few pictures, pooled to 7×7; the accuracy means nothing."""
    config.name += "_smoke"
    config.data.update(pool=4, train_examples=256, validation_examples=64, test_examples=64)
    config.model.update(depth=2, d_model=16, states=8)
    config.train.update(batch_size=16, epochs=2)
    config.prune.update(ratios=(0.0, 0.25, 0.5, 0.75), batch_size=64)
