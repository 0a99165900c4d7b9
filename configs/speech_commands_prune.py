"""Speech Commands, 35 words from raw sound: train S5 or S4D, prune it, report; at 16 kHz, or zero-shot at 8 kHz.

Full size is the paper's: AIRE-Prune, main table, row Speech: 96.43 % before, 96.40 % after cutting 45 % of the states
(LAST: 96.31 % after 20 %). Hyperparameters of the S5 reference (its script run_speech35.sh); the S5 paper reports
96.52 %, and 94.53 % zero-shot at 8 kHz. 40 epochs of 5,303 steps at L = 16,000: many hours on one accelerator; not
measured here. AIRE-Prune has no row for S4D; its settings are those of the S4 reference for this task.

    python run.py --config=speech_commands_prune           full size; downloads 2.4 GB, trains, prunes
    python run.py --config=speech_commands_prune:8khz      that model at 8 kHz, without training; also as s4d,8khz
    python run.py --config=speech_commands_prune:s4d       S4D in place of S5, also as s4d,small and s4d,smoke
    python run.py --config=speech_commands_prune:small     at 2 kHz, 8,000 recordings: 16 minutes on one CPU core
    python run.py --config=speech_commands_prune:smoke     seconds, for tests

`8khz` uses every second sample, doubles the time steps (step_rescale = 2), and loads the model that the same command
without `8khz` trained: NAME/model.safetensors next to its own work folder, that is, in $AIRE_WORKDIR or ./runs unless
--workdir says otherwise. To load another model, such as one pruned at 16 kHz: `--config.init=FILE`.

Without a network: get speech_commands_v0.02.tar.gz elsewhere, packed or unpacked, and pass
`--config.data.folder=FOLDER`.
"""

from ml_collections import ConfigDict

from aire.training.loop import TrainConfig
from aire.training.optimizer import OptimizerConfig
from configs import common


def get_config(variants: str = "") -> ConfigDict:
    return common.build(
        variants,
        {"s4d": s4d, "small": small, "smoke": smoke, "8khz": half_rate},
        name="speech_commands",
        seed=4062966,
        data={
            "task": "speech_commands",
            "sample_every": 1,  # 1: 16 kHz, L = 16,000
            "train_examples": 0,  # at most; 0: all, 84,843
            "validation_examples": 0,  # 4,990: half of the list
            "selection_examples": 0,  # the other half, which choose the ratio
            "test_examples": 0,  # 11,005
            "folder": "",  # of the archive, packed or unpacked; empty: download it
        },
        model=common.s5(depth=6, d_model=96, states=64, blocks=16, dropout=0.1),
        train=TrainConfig(
            batch_size=16,
            epochs=40,
            optimizer=OptimizerConfig(lr=0.008, ssm_lr=0.002, weight_decay=0.04, groups="noBCdecay"),
        ),
        prune=common.pruning(batch_size=32),
    )


def s4d(config: ConfigDict) -> None:
    """S4D with N = 64, pre-norm."""
    config.name += "_s4d"
    config.seed = 2222
    config.model = common.s4d(depth=6, d_model=128)
    config.train.optimizer.update(lr=0.01, ssm_lr=0.001, weight_decay=0.05, groups="standard")


def small(config: ConfigDict) -> None:
    """At 2 kHz."""
    common.small(config, sample_every=8)
    config.train.epochs = 4


def smoke(config: ConfigDict) -> None:
    """At 160 Hz."""
    common.smoke(config, sample_every=100)


def half_rate(config: ConfigDict) -> None:
    """Run the model that was trained on all samples on every second one."""
    config.init = f"{{runs}}/{config.name}/model.safetensors"  # {runs}: the folder that contains the work folder
    config.name += "_8khz"
    config.data.sample_every *= 2
    config.model.ssm.step_rescale *= 2
