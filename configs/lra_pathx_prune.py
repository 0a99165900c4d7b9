"""Path-X of the Long Range Arena, Pathfinder at 128×128 pixels: train S5 or S4D, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row Path-X: 98.41 % before and after cutting 70 % of the states
(LAST: 97.95 % after 30 %). Hyperparameters of the S5 reference (its script run_lra_pathx.sh). 75 epochs of 5,000 steps
over 16,384 pixels: days on one accelerator; not measured here. The images take 3.3 GB of memory, twice that while they
are read.

    python run.py --config=lra_pathx_prune           full size; draws 200,000 images (minutes), trains, prunes
    python run.py --config=lra_pathx_prune:small     32×32 pixels, trained from scratch because no model ships
    python run.py --config=lra_pathx_prune:smoke     seconds, for tests
    python run.py --config=lra_pathx_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke

S4D's hyperparameters are those of its paper, its warm-up that of the configuration in state-spaces. AIRE-Prune gives
no row for S4D on Path-X.

To read the release of the Long Range Arena instead of drawing images: `--config.data.lra_release=FOLDER` (the folder
pathfinder128, which contains curv_contour_length_14).
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common
from configs.lra_pathfinder_prune import smoke


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "small": small, "smoke": smoke},
        name="lra_pathx",
        seed=6429262,
        data={
            "task": "pathfinder",
            "design": "lra128",  # a name in aire/data/contours.py
            "train_examples": 160_000,
            "validation_examples": 20_000,
            "test_examples": 20_000,
            "selection_examples": 20_000,  # other examples, which choose the ratio
            "more_test_examples": 0,  # added to the test examples, without being a setting of the training
            "seed": 0,
            "lra_release": "",
        },
        model=common.s5(
            depth=6, d_model=128, states=128, blocks=16, C_init="complex_normal", dt_min=0.0001, bn_momentum=0.9
        ),
        train=TrainConfig(
            batch_size=32,
            epochs=75,
            optimizer=OptimizerConfig(lr=0.0018, ssm_lr=0.0006, weight_decay=0.06, groups="BandCdecay"),
        ),
        prune=common.pruning(batch_size=32),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 3333
    config.model = common.s4d(depth=6, d_model=256, dt_min=0.0001, dt_max=0.01)
    config.train.update(epochs=50, warmup_epochs=5)
    config.train.optimizer.update(lr=0.0005, ssm_lr=0.001, weight_decay=0.05, groups="standard")


def small(config: ConfigDict) -> None:
    """Images of 32×32 (L = 1024), contours of 7 dashes, and a model that one CPU core trains in about 30 minutes."""
    config.name += "_small"
    config.seed = 0
    config.data.update(design="small32", train_examples=50_000, validation_examples=1_000, test_examples=1_000)
    config.data.selection_examples = 1_000
    config.model.update(depth=4, d_model=64, states=32)
    config.model.ssm.update(dt_min=0.001, dt_max=0.1)
    common.set_layer(config, s5={"clip_eigs": True})  # keeps every state's energy finite
    config.train.update(batch_size=32, epochs=2, warmup_epochs=1, evaluate_every=500)
    config.train.optimizer.update(lr=0.006, ssm_lr=0.001)
    config.prune.update(methods=(), ratios=tuple(i / 10 for i in range(10)), batch_size=50)
