r"""Benchmark: models beside a naive implementation, cut models, growth, the training loop, and pruning itself.

    python run.py --config=speed                                     up to two hours on one CPU core
    python run.py --config=speed --config.sections="('models',)"     one section of experiments/speed/speed_job.py
    python run.py --config=speed:smoke                               seconds, for tests

Beside other implementations, each of which is cloned and named. The minutes are estimates for one core:

    section                 setting of the same name, a clone of             needs                       takes, minutes
    reference               https://github.com/lindermanlab/S5                                           40
    reference_s4d           https://github.com/state-spaces/s4               pip install torch einops    20
    reference_discretax     https://github.com/camail-official/discretax     pip install equinox einops  20
    reference_lru           https://github.com/camail-official/compressm     pip install equinox         20

    git clone https://github.com/lindermanlab/S5
    python run.py --config=speed --config.sections="('reference',)" --config.reference=S5

These sections and "models" measure each row in `processes` new processes, in which theirs and ours are compiled and
called first in turn, and quote the median and the range. discretax asks for Python 3.12, but its layer runs on 3.11.

Medians of interleaved repetitions in one process, after one call of each to warm up. For one core:
`XLA_FLAGS="--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" taskset -c 0 python run.py …`.
"""

from ml_collections import ConfigDict

from configs import common

SECTIONS = (
    "models",
    "cuts",
    "step",
    "odd",
    "growth",
    "scan",
    "selective",
    "selective_cuts",
    "loop",
    "memory",
    "fit",
    "start",
    "pages",
    "pruning",
    "moments",
    "calibrated",
)
TASKS = ("lra_listops", "lra_text", "lra_retrieval", "lra_image", "lra_pathfinder", "lra_pathx", "speech_commands")
TASKS += ("smnist", "psmnist", "scifar")
# (kind, depth, d_model, states, length, batch): two layers of the paper's largest networks, batch reduced.
WIDE = ("s5", 2, 512, 192, 1024, 4)
PATHFINDER = ("s5", 2, 192, 128, 1024, 8)
LONG = ("s5", 2, 128, 128, 16384, 1)
BANK = ("s4d", 2, 128, 32, 1024, 4)
SMALL = ("s5", 4, 64, 32, 100, 32)  # the size of lra_listops_prune:small
S5_MODELS = (("s5", 8, 128, 8, 2048, 8), WIDE, PATHFINDER, LONG, SMALL)

SHARES = (1.0, 0.8, 0.5, 0.35, 0.2, 0.1, 0.0)  # of the states that a cut keeps


def get_config(variants: str = "") -> ConfigDict:
    config = ConfigDict(
        {
            "experiment": "speed",
            "name": "speed",
            "repetitions": 7,
            "sections": SECTIONS,
            # Of the sections that compare with other implementations, and of "moments".
            "processes": 5,
            # Clones of the references, for the sections of these names.
            "reference": "",
            "reference_s4d": "",
            "reference_discretax": "",
            "reference_lru": "",
            "models": (*S5_MODELS, BANK),
            "reference_models": S5_MODELS,
            # (d_model, states per channel, length, batch)
            "s4d_layers": ((128, 32, 1024, 4), (128, 32, 2048, 8), (256, 32, 4096, 2), (64, 32, 16384, 1)),
            # (d_model, states, length, batch): those of S5_MODELS, and of CompreSSM's configs with a smaller batch.
            "s5_layers": tuple(shape[2:] for shape in S5_MODELS),
            "lru_layers": ((128, 256, 2048, 4), (192, 256, 1024, 8), (512, 384, 1024, 4), (8, 256, 784, 50)),
            **cuts(),
            "growth": {
                "base": {"d_model": 64, "length": 1024, "states": 32, "batch": 4},
                "length": tuple(2**k for k in range(10, 18)),
                "states": tuple(2**k for k in range(3, 10)),
                "batch": tuple(2**k for k in range(0, 7)),
            },
            # (batch, length, stored states): ListOps, Image, Pathfinder and Path-X, batch reduced.
            "scan_shapes": ((8, 2048, 8), (4, 1024, 192), (8, 1024, 128), (1, 16384, 128)),
            "memory": (PATHFINDER, BANK),
            "fit": tuple(f"{task}_prune" for task in TASKS),
            **selective(),
            "loop": "small",  # variants of lra_listops_prune; also for the section "start"
            "pages": (WIDE, SMALL, BANK),
            **pruning(),
        }
    )
    for change in common.parse_variants(variants, {"smoke": smoke}):
        change(config)
    return config


def cuts() -> dict:
    """Return the settings of the sections on models and layers that a cut has made smaller."""
    return {
        "cut": {
            # At batch 1, and large; the long sequence has 16,384 steps in one.
            "models": (
                *((*WIDE[:-1], batch) for batch in (1, 16)),
                *((*PATHFINDER[:-1], batch) for batch in (1, 32)),
                LONG,
                *((*BANK[:-1], batch) for batch in (1, 4, 32)),
            ),
            "shares": SHARES,
        },
        "step": {
            "d_model": 512,
            "states": 192,
            "states_per_channel": 32,
            "batches": (1, 64),
            "shares": SHARES,
            "length": 1024,
        },
        "odd": {
            "d_model": 128,
            "batch": 4,
            "length": 1024,
            "states": (*range(1, 10), 11, 13, 15, 16, 17, 20, 23, 24, 25, 31, 32, 33, 40, 47, 48, 49, 63, 64),
        },
    }


def selective() -> dict:
    """Return the settings of the sections on S6."""
    return {
        "selective": {
            # (batch, length, channels, states); naive gradients of the largest shape would need 26 GiB.
            "shapes": ((1, 1024, 512, 16), (4, 1024, 128, 16), (1, 4096, 256, 16)),
            "compiled": (16, 4096, 512, 16),
            "cuts": {
                "d_model": 256,
                "states": 16,
                "length": 1024,
                "batch": 4,
                "shares": SHARES,
                "step_batches": (1, 64),
            },
        },
    }


def pruning() -> dict:
    """Return the settings of the sections on the time that pruning takes."""
    return {
        # The largest network of the paper (Image, sCIFAR): 6 layers of P = 384, H = 512.
        "network": {"layers": 6, "states": 192, "d_model": 512},
        "moments": {
            # A layer of the paper's largest network, and the networks of the zoo.
            "models": (
                ("s5", 1, 512, 192, 1024, 4),
                *(("s5", 4, 64, 32, length, 32) for length in (100, 784, 1024)),
                ("s4d", 4, 64, 64, 100, 32),
            ),
        },
        # Pathfinder's full-size network, 256 sequences.
        "calibrated": {"model": ("s5", 6, 192, 128, 1024, 16), "batches": 16, "methods": ("measured", "surgeon")},
        "state_counts": (1_000, 10_000, 100_000, 1_000_000, 10_000_000),
    }


def smoke(config: ConfigDict) -> None:
    """Every section that starts no processes, once, on tiny shapes."""
    config.repetitions = config.processes = 1
    config.sections = tuple(name for name in config.sections if name not in ("models", "start", "pages", "moments"))
    config.models = config.reference_models = (("s5", 1, 4, 4, 32, 2),)
    config.s4d_layers = config.s5_layers = config.lru_layers = ((4, 4, 32, 2),)
    config.cut.update(models=(("s4d", 1, 4, 4, 32, 2),), shares=(1.0, 0.0))
    config.step.update(d_model=4, states=4, states_per_channel=4, batches=(1,), shares=(1.0, 0.0), length=32)
    config.odd.update(d_model=4, batch=1, length=32, states=(1, 2))
    config.growth.update(length=(16, 32), states=(4, 8), batch=(1, 2))
    config.growth.base.update(d_model=4, length=32, states=4, batch=1)
    config.scan_shapes = ((2, 64, 4),)
    config.memory = (("s5", 1, 4, 4, 32, 4),)
    config.fit = ("lra_retrieval_prune:smoke", "scifar_prune:smoke,s4d")
    config.selective.update(shapes=((1, 8, 4, 2),), compiled=(2, 8, 4, 2))
    config.selective.cuts.update(d_model=4, states=4, length=8, batch=1, shares=(1.0, 0.0), step_batches=(1,))
    config.loop = "smoke"
    config.pages = (("s5", 1, 4, 4, 32, 2),)
    config.network.update(layers=2, states=4, d_model=8)
    config.moments.models = (("s5", 1, 4, 4, 32, 2),)
    config.calibrated.update(model=("s5", 1, 4, 4, 32, 2), batches=1)
    config.state_counts = (100,)
