"""ListOps of the Long Range Arena: train S5, S4D or LRU, prune it, report.

Full size is the paper's: AIRE-Prune, main table, row ListOps: 61.48 % before, 61.48 % after cutting 20 % of the states
(LAST: 0 %). Hyperparameters of the S5 reference (its script run_lra_listops.sh). 40 epochs of 1,920 steps: hours on one
accelerator; not measured here.

    python run.py --config=lra_listops_prune           full size; generates the data, trains, prunes
    python run.py --config=lra_listops_prune:small     a trained model that ships with the code, 2 CPU cores, minutes
    python run.py --config=lra_listops_prune:smoke     seconds, untrained for all purposes; for tests
    python run.py --config=lra_listops_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=lra_listops_prune:lru       LRU in place of S5, also as lru,small and lru,smoke

S4D's hyperparameters are those of its paper, LRU's those of CompreSSM (its configs/paper/listops_baseline.yaml), which
trains it in one direction and pools over the padding, too. AIRE-Prune gives no row for either on ListOps.

With the release of the Long Range Arena at hand, read its files instead of generating:
`--config.data.lra_release=FOLDER` (the folder listops-1000, with basic_train.tsv, basic_val.tsv, basic_test.tsv).
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "prune",
            "name": "lra_listops",
            "seed": 6554595,
            "init": "scratch",  # or "zoo", a .safetensors file, or a reference's checkpoint
            "data": {
                "task": "listops",
                "length": 2048,
                "min_length": 500,
                "max_length": 2000,
                "max_depth": 10,
                "max_args": 10,
                "train_examples": 96_000,
                "validation_examples": 2_000,
                "test_examples": 2_000,
                "seed": 0,
                "lra_release": "",
            },
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(depth=8, d_model=128, states=8, activation="half_glu2", pooling="masked_mean")
    config.model.ssm.update(blocks=8)
    config.train.update(weight_decay=0.04, groups="BfastandCdecay")
    config.prune.ratios = config.prune.ratios[:-1]  # 95 % of a layer's 8 states would be all of them
    for change in common.parse_variants(variants, {"s4d": s4d, "lru": lru, "small": small, "smoke": smoke}):
        change(config)
    return config


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, post-norm."""
    config.name += "_s4d"
    config.seed = 2222
    config.model = common.s4d_model()
    config.model.update(depth=8, d_model=128, prenorm=False, pooling="masked_mean")
    config.train.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05, groups="standard")


def lru(config: ConfigDict) -> None:
    """LRU with N = 256."""
    config.name += "_lru"
    config.model = common.lru_model()
    config.model.update(depth=6, d_model=128, states=256, pooling="masked_mean")
    config.train.update(batch_size=32, epochs=27, warmup_epochs=3)  # 80,000 steps there, a tenth of them to warm up
    config.train.update(lr=0.001, ssm_lr=0.0005, weight_decay=0.05, groups="standard")


def small(config: ConfigDict) -> None:
    """The same task with expressions of 21 to 99 tokens, and a model that 2 CPU cores train in under 30 minutes."""
    config.name += "_small"
    config.init = "zoo"
    config.seed = 0
    config.data.update(length=100, min_length=20, max_length=100)
    config.model.update(depth=4, d_model=64, states=32)
    # Unclipped, one state of 128 left the unit disk in training: no harm over 100 steps, but its energy is infinite.
    # Chosen for these lengths, not by trial: LRU's slowest states, |λ| = 0.99, fall to a third within 100 steps.
    common.set_layer(config, s5={"clip_eigs": True}, lru={"r_min": 0.5, "r_max": 0.99})
    config.train.update(batch_size=32, epochs=6, warmup_epochs=1, evaluate_every=1000)
    # As many as leave every method within three minutes; batches that fit a CPU's cache.
    config.prune.ratios = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    config.prune.batch_size = 50


def smoke(config: ConfigDict) -> None:
    """Every stage in seconds, on expressions of 6 to 29 tokens; the accuracy means nothing."""
    config.name += "_smoke"
    config.seed = 0
    config.data.update(length=30, min_length=5, max_length=30)
    config.data.update(train_examples=256, validation_examples=64, test_examples=64)
    config.model.update(depth=2, d_model=16, states=8)
    common.set_layer(config, s5={"blocks": 2})
    config.train.update(batch_size=16, epochs=2, warmup_epochs=1)
    config.prune.update(ratios=(0.0, 0.25, 0.5, 0.75), batch_size=64)
