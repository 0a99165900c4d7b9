"""Path-X of the Long Range Arena, Pathfinder at 128×128 pixels: train S5 or S4D, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row Path-X: 98.41 % before, 98.41 % after cutting 70 % of the states
(LAST: 97.95 % after 30 %). Hyperparameters of the S5 reference (its script run_lra_pathx.sh). 75 epochs of 5,000 steps
over 16,384 pixels: days on one accelerator; not measured here. The pictures take 3.3 GB of memory, twice that
while they are read.

    python run.py --config=lra_pathx_prune           full size; draws 200,000 pictures (minutes), trains, prunes
    python run.py --config=lra_pathx_prune:small     the same on 32×32 pixels: trained from scratch, no model ships
    python run.py --config=lra_pathx_prune:smoke     seconds, untrained for all purposes; for tests
    python run.py --config=lra_pathx_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke

S4D's hyperparameters are those of its paper, the warm-up that of its configuration in state-spaces; AIRE-Prune gives
no row for S4D on Path-X.

With the release of the Long Range Arena at hand, read its pictures instead of drawing:
`--config.data.lra_release=FOLDER` (the folder pathfinder128, with curv_contour_length_14 in it).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "prune",
            "name": "lra_pathx",
            "seed": 6429262,
            "init": "scratch",  # or a .safetensors file, or a reference's checkpoint
            "data": {
                "task": "pathfinder",
                "design": "lra128",  # of the pictures: a name in aire/data/contours.py
                "train_examples": 160_000,
                "validation_examples": 20_000,
                "test_examples": 20_000,
                "seed": 0,
                "lra_release": "",
            },
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(depth=6, d_model=128, states=128, bn_momentum=0.9)
    config.model.ssm.update(blocks=16, C_init="complex_normal", dt_min=0.0001)
    config.train.update(batch_size=32, epochs=75, lr=0.0018, ssm_lr=0.0006, weight_decay=0.06, groups="BandCdecay")
    config.prune.batch_size = 32
    for change in common.parse_variants(variants, {"s4d": s4d, "small": small, "smoke": smoke}):
        change(config)
    return config


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 3333
    config.model = common.s4d_model()
    config.model.update(depth=6, d_model=256)
    config.model.ssm.update(dt_min=0.0001, dt_max=0.01)
    config.train.update(epochs=50, lr=0.0005, ssm_lr=0.001, weight_decay=0.05, groups="standard", warmup_epochs=5)


def small(config: ConfigDict) -> None:
    """Pictures of 32×32 (L = 1024), contours of 7 dashes, and a model that one CPU core trains in about 30 minutes."""
    config.name += "_small"
    config.seed = 0
    config.data.update(design="small32", train_examples=50_000, validation_examples=1_000, test_examples=1_000)
    config.model.update(depth=4, d_model=64, states=32)
    config.model.ssm.update(dt_min=0.001, dt_max=0.1)
    common.set_layer(config, s5={"clip_eigs": True})  # keeps every state's energy finite
    config.train.update(batch_size=32, epochs=2, warmup_epochs=1, evaluate_every=500, lr=0.006, ssm_lr=0.001)
    config.prune.ratios = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
    config.prune.batch_size = 50


def smoke(config: ConfigDict) -> None:
    """Every stage in seconds, on few pictures of 16×16; the accuracy means nothing."""
    config.name += "_smoke"
    config.seed = 0
    config.data.update(design="small16", train_examples=256, validation_examples=64, test_examples=64)
    config.model.update(depth=2, d_model=16, states=8)
    common.set_layer(config, s5={"blocks": 2})
    config.train.update(batch_size=16, epochs=2, warmup_epochs=1)
    config.prune.update(ratios=(0.0, 0.25, 0.5, 0.75), batch_size=64)
