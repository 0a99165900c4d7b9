"""Speech Commands, 35 words from raw sound: train S5 or S4D, prune it, report; at 16 kHz, or zero-shot at 8 kHz.

Full size is the paper's: AIRE-Prune, main table, row Speech: 96.43 % before, 96.40 % after cutting 45 % of the states
(LAST: 20 %, 96.31 %). Hyperparameters of the S5 reference (its script run_speech35.sh); the S5 paper reports 96.52 %,
and 94.53 % zero-shot at 8 kHz. 40 epochs of 5,303 steps at L = 16,000: many hours on one accelerator; not measured
here. The paper has no row for S4D; its settings here are those of the S4 reference for this task.

    python run.py --config=speech_commands_prune           full size; downloads 2.4 GB, trains, prunes
    python run.py --config=speech_commands_prune:8khz      that model at 8 kHz, without training; also as s4d,8khz
    python run.py --config=speech_commands_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=speech_commands_prune:small     at 2 kHz, 8,000 recordings: 16 minutes on a CPU core
    python run.py --config=speech_commands_prune:smoke     for tests

`8khz` takes every second sample, doubles the time steps (step_rescale = 2), and loads what the same command without it
trained: NAME/model.safetensors beside its own work folder, so in $AIRE_WORKDIR or ./runs unless --workdir says
otherwise. From elsewhere: `--config.init=FILE`, such as a model that was pruned at 16 kHz.

Without a network: speech_commands_v0.02.tar.gz by other means, packed or unpacked, and `--config.data.folder=FOLDER`.
"""

from ml_collections import ConfigDict

from configs import common


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "prune",
            "name": "speech_commands",
            "seed": 4062966,
            "init": "scratch",  # or a .safetensors file, or a reference's checkpoint
            "data": {
                "task": "speech_commands",
                "sample_every": 1,  # 1: 16 kHz, L = 16,000
                "train_examples": 0,  # at most; 0: all, 84,843
                "validation_examples": 0,  # 9,981
                "test_examples": 0,  # 11,005
                "folder": "",  # of the archive, packed or not; empty: the published one
            },
            "model": common.s5_model(),
            "train": common.training(),
            "prune": common.pruning(),
        }
    )
    config.model.update(d_model=96, states=64, dropout=0.1)
    config.model.ssm.update(blocks=16)
    config.train.update(batch_size=16, lr=0.008, ssm_lr=0.002, weight_decay=0.04, groups="noBCdecay")
    config.prune.batch_size = 32
    known = {"s4d": s4d, "small": small, "smoke": smoke, "8khz": half_rate}
    for change in common.parse_variants(variants, known):
        change(config)
    return config


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 2222
    config.model = common.s4d_model()
    config.train.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05, groups="standard")


def small(config: ConfigDict) -> None:
    """At 2 kHz."""
    common.small(config, sample_every=8)
    config.train.epochs = 4


def smoke(config: ConfigDict) -> None:
    """Few, short sequences."""
    common.smoke(config, sample_every=100)


def half_rate(config: ConfigDict) -> None:
    """Every second sample for the model trained on all of them."""
    config.init = f"{{runs}}/{config.name}/model.safetensors"  # {runs}: the folder that holds the run's own work folder
    config.name += "_8khz"
    config.data.sample_every *= 2
    config.model.ssm.step_rescale *= 2
