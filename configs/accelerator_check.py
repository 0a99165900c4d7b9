"""The first hour on a new accelerator: precision, the fastest scans, step times, the hours of the papers' table.

    python run.py --config=accelerator_check                      meant to take under ten minutes on an accelerator
    python run.py --config=accelerator_check --config.sections="('precision', 'scans')"         some sections
    python run.py --config=accelerator_check --config.tasks="('lra_listops',)" --config.layers="('s5',)"
    python run.py --config=accelerator_check:smoke                seconds, for tests

No data is read: inputs are random. After an interruption, run the same command again to go on; what is measured is kept
in the work folder. On a CPU, training steps are timed with `cpu_batch` examples, and the time is scaled to the batch.
"""

from ml_collections import ConfigDict

from configs import common, speed
from configs.paper_table import TASKS

SECTIONS = ("precision", "scans", "training")


def get_config(variants: str = "") -> ConfigDict:
    benchmark = speed.get_config()
    config = ConfigDict(
        {
            "experiment": "accelerator",
            "name": "accelerator_check",
            "sections": SECTIONS,
            # Layers that are compared with NumPy's float64, and their inputs. S4D has so many states per channel.
            "precision": {"kinds": ("s5", "s4d", "lru", "s6"), "d_model": 64, "states": 32, "length": 1024, "batch": 2},
            # Of the largest relative error, by the precision of matmuls: float32, where the rounding of λ̄ may cost
            # 1.2e-7 L (`diagonal_scan`); and the platform's default, which has 10 bits (TF32) on recent GPUs and 8 bits
            # (bfloat16) on TPUs.
            "tolerances": {"float32": 5e-4, "default": 2e-2},
            "scan_shapes": benchmark.scan_shapes,  # (batch, length, states)
            "selective_shapes": benchmark.selective.shapes,  # (batch, length, channels, states)
            "repetitions": 5,
            "tasks": TASKS,
            "layers": ("s5", "s4d", "mamba"),
            "size": "full",
            "seconds": 5.0,  # of timed training steps of each config, at least one step
            "cpu_batch": 2,  # examples of a timed step on a CPU, where the full batch would take too long
        }
    )
    for change in common.parse_variants(variants, {"smoke": smoke}):
        change(config)
    return config


def smoke(config: ConfigDict) -> None:
    """Every section, on tiny shapes."""
    config.name += "_smoke"
    config.precision.update(kinds=("s5",), d_model=4, states=4, length=16, batch=1)
    config.scan_shapes, config.selective_shapes = ((2, 64, 4),), ((1, 8, 4, 2),)
    config.repetitions = 1
    config.tasks, config.layers = ("speech_commands_8khz", "lra_listops"), ("s5",)
    config.size, config.seconds = "smoke", 0.0
