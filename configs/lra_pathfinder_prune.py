"""Pathfinder of the Long Range Arena: train S5 or S4D, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row Pathfinder: 95.15 % before and after cutting 80 % of the states
(LAST: 94.45 % after 30 %). Hyperparameters of the S5 reference (its script run_lra_pathfinder.sh). 200 epochs of
2,500 steps: many hours on one accelerator; not measured here.

    python run.py --config=lra_pathfinder_prune           full size; draws 200,000 images (minutes), trains, prunes
    python run.py --config=lra_pathfinder_prune:small     prunes a trained model that ships with the code, in minutes
    python run.py --config=lra_pathfinder_prune:smoke     seconds, for tests
    python run.py --config=lra_pathfinder_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke

S4D's hyperparameters are those of its paper, its warm-up that of the configuration in state-spaces. AIRE-Prune gives
no row for S4D on Pathfinder.

To read the release of the Long Range Arena instead of drawing images: `--config.data.lra_release=FOLDER` (the folder
pathfinder32, which contains curv_contour_length_14).
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "small": small, "smoke": smoke},
        name="lra_pathfinder",
        seed=8180844,
        data={
            "task": "pathfinder",
            "design": "lra32",  # a name in aire/data/contours.py
            "train_examples": 160_000,
            "validation_examples": 20_000,
            "test_examples": 20_000,
            "selection_examples": 20_000,  # other examples, which choose the ratio
            "more_test_examples": 0,  # added to the test examples, without being a setting of the training
            "seed": 0,
            "lra_release": "",
        },
        model=common.s5(
            depth=6, d_model=192, states=128, blocks=8, C_init="trunc_standard_normal", dropout=0.05, bn_momentum=0.9
        ),
        train=TrainConfig(
            batch_size=64, epochs=200, optimizer=OptimizerConfig(lr=0.0045, ssm_lr=0.0009, weight_decay=0.03)
        ),
        prune=common.pruning(),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 3333
    config.model = common.s4d(depth=6, d_model=256)
    config.train.warmup_epochs = 20
    config.train.optimizer.update(lr=0.004, ssm_lr=0.001, weight_decay=0.05)


def small(config: ConfigDict) -> None:
    """Images of 16×16 (L = 256), contours of 5 dashes, and a model that one CPU core trains in under 30 minutes."""
    config.name += "_small"
    config.init = "zoo"
    config.seed = 0
    config.data.update(design="small16", train_examples=100_000, validation_examples=2_000, test_examples=2_000)
    config.data.selection_examples = 2_000
    config.model.update(depth=4, d_model=64, states=32, dropout=0.0)
    common.set_layer(config, s5={"clip_eigs": True})  # keeps every state's energy finite
    config.train.update(batch_size=32, epochs=3, warmup_epochs=1, evaluate_every=1000)
    config.train.optimizer.lr = 0.006
    config.prune.update(methods=(), ratios=tuple(i / 10 for i in range(10)), batch_size=50)


def smoke(config: ConfigDict) -> None:
    """Images of 16×16."""
    common.smoke(config, design="small16")
