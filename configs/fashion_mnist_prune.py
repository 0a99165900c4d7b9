"""Sequential Fashion-MNIST, one grey value a step: train S5, S4D or LRU, prune it, report.

Not a task of the paper, so there is no number to reach. It takes the place of LAST's sMNIST because anyone can get the
data within a minute. Full size uses the S5 paper's hyperparameters for sMNIST (99.65 % there; MNIST is easier): 28×28
images read row by row, L = 784, both directions as in all its tasks, 150 epochs of 1,100 steps: hours on one
accelerator; not measured here.

    python run.py --config=fashion_mnist_prune           full size; downloads 31 MB, trains, prunes
    python run.py --config=fashion_mnist_prune:small     prunes a trained model that ships with the code, in minutes
    python run.py --config=fashion_mnist_prune:smoke     seconds, for tests
    python run.py --config=fashion_mnist_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=fashion_mnist_prune:lru       LRU in place of S5; lru,small needs --config.init=scratch
    python run.py --config=fashion_mnist_prune:mamba     Mamba in place of S5; its sizes are our choice

Without a network: `apt-get install dataset-fashion-mnist` (Debian, Ubuntu) and the same commands, or get the four files
elsewhere and pass `--config.data.folder=FOLDER`. They may be compressed or not.
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "lru": lru, "mamba": common.to_mamba, "small": small, "smoke": common.smoke_images},
        name="fashion_mnist",
        seed=0,
        data=common.images("fashion_mnist"),
        model=common.s5(depth=4, d_model=96, states=64, blocks=1, dropout=0.1),
        train=TrainConfig(
            batch_size=50, epochs=150, optimizer=OptimizerConfig(lr=0.008, ssm_lr=0.002, weight_decay=0.01)
        ),
        prune=common.pruning(),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm; the S4D paper's settings for its image task, except for the sizes."""
    config.name += "_s4d"
    config.model = common.s4d(depth=4, d_model=96, dropout=0.1)
    config.train.optimizer.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05)


def lru(config: ConfigDict) -> None:
    """LRU with the sizes and the training of S5. The choice is ours because no paper has LRU on this task."""
    config.name += "_lru"
    config.model = common.lru(depth=4, d_model=96, states=64, dropout=0.1)


def small(config: ConfigDict) -> None:
    """Pooled to 14×14 (L = 196); the zoo has its trained model."""
    common.small_images(config)
    common.set_layer(config, lru={"r_min": 0.5, "r_max": 0.99})  # 0.99¹⁹⁶ is about a seventh
    config.init = "zoo"
