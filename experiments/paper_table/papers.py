"""The papers' tasks and numbers, as data.

Sources: the main table of AIRE-Prune (ICLR 2026, arXiv 2602.00534), also for LAST's numbers. For tasks without a row
there: the accuracies of the S5 paper (arXiv 2208.04933), before any cut.
"""

import dataclasses
import importlib

from ml_collections import ConfigDict

LAYERS = {"s5": "S5", "s4d": "S4D", "mamba": "Mamba"}
MODELS = {"uncut": "uncut", "last": "LAST", "aire": "AIRE"}
# Methods of this project, which no paper has. They see calibration inputs; reconstruct also fits the layers.
OURS = {"measured": "ours: measured", "surgeon": "ours: surgeon", "reconstruct": "ours: reconstruct (fitted)"}


@dataclasses.dataclass(frozen=True)
class Task:
    """A row of the tables.

    Attributes:
        title: its name in the papers.
        length: of its sequences, at full size.
        config: the config is configs/CONFIG_prune.py …
        variant: … with this variant.
        model_of: the task whose trained model it uses; "" if it trains its own.
    """

    title: str
    length: int
    config: str
    variant: str = ""
    model_of: str = ""


TASKS = {
    "lra_listops": Task("ListOps", 2048, "lra_listops"),
    "lra_text": Task("Text", 4096, "lra_text"),
    "lra_retrieval": Task("Retrieval", 4000, "lra_retrieval"),
    "lra_image": Task("Image", 1024, "lra_image"),
    "lra_pathfinder": Task("Pathfinder", 1024, "lra_pathfinder"),
    "lra_pathx": Task("Path-X", 16384, "lra_pathx"),
    "speech_commands": Task("Speech", 16000, "speech_commands"),
    "speech_commands_8khz": Task("Speech, 8 kHz", 8000, "speech_commands", "8khz", "speech_commands"),
    "smnist": Task("sMNIST", 784, "smnist"),
    "psmnist": Task("psMNIST", 784, "psmnist"),
    "scifar": Task("sCIFAR", 1024, "scifar"),
    "fashion_mnist": Task("Fashion-MNIST", 784, "fashion_mnist"),
}

# Of the layers that are not in all tasks.
_TASKS_OF = {"mamba": ("lra_listops", "lra_text", "lra_retrieval", "lra_image", "fashion_mnist")}

# 60.8 % and 0.29 points are the means of the main table's LRA rows; with Speech they would be 58.6 % and 0.25 points.
AVERAGED = ("lra_listops", "lra_text", "lra_retrieval", "lra_image", "lra_pathfinder", "lra_pathx")


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Numbers of one model in percent: states cut, test accuracy, points lost by the cut. None if unknown."""

    cut: float | None = None
    test: float | None = None
    lost: float | None = None


def _row(uncut: float, last: tuple[float, float], aire: tuple[float, float]) -> dict[str, Numbers]:
    """A row of the main table: accuracy of the uncut model, then (states cut, accuracy) of LAST and of AIRE."""
    cuts = {"last": last, "aire": aire}
    after = {name: Numbers(cut, test, round(uncut - test, 2)) for name, (cut, test) in cuts.items()}
    return {"uncut": Numbers(test=uncut), **after}


NUMBERS: dict[str, dict[str, dict[str, Numbers]]] = {
    "s5": {
        "lra_listops": _row(61.48, (0, 61.48), (20, 61.48)),
        "lra_text": _row(88.88, (60, 88.52), (80, 88.24)),
        "lra_retrieval": _row(91.20, (50, 90.42), (50, 90.11)),
        "lra_image": _row(87.30, (30, 86.34), (65, 87.30)),
        "lra_pathfinder": _row(95.15, (30, 94.45), (80, 95.15)),
        "lra_pathx": _row(98.41, (30, 97.95), (70, 98.41)),
        "speech_commands": _row(96.43, (20, 96.31), (45, 96.40)),
        "speech_commands_8khz": {"uncut": Numbers(test=94.53)},
        "smnist": {"uncut": Numbers(test=99.65)},
        "psmnist": {"uncut": Numbers(test=98.67)},
        "scifar": {"uncut": Numbers(test=90.1)},
    },
    "s4d": {"lra_text": {"aire": Numbers(cut=90)}, "lra_image": {"aire": Numbers(cut=40)}},
    "mamba": {
        "lra_text": {"aire": Numbers(cut=45)},
        "lra_retrieval": {"aire": Numbers(cut=60)},
        "lra_image": {"aire": Numbers(cut=80)},
    },
}
AVERAGES: dict[str, dict[str, Numbers]] = {
    "s5": {"last": Numbers(cut=33, lost=0.52), "aire": Numbers(cut=60.8, lost=0.29)},
    "s4d": {},
    "mamba": {},
}
LAST_S4D_AVERAGE = Numbers(cut=26.25, lost=0.32)  # LAST (NeurIPS 2024, arXiv 2411.02824), over its own benchmark

# Points of accuracy lost at AIRE's ratios, on average, S5.
LOST_AT_AIRE_RATIOS = {"s5": {"aire": 0.29, "hinf_uniform": 4.32, "hinf_global": 7.51}, "s4d": {}, "mamba": {}}

# Over the paper's tasks, S5, on one H100: times as fast, and percent of the parameters.
SPEEDUPS, PARAMETERS = (1.2, 2.9), (-65, -19)


def tasks_of(layer: str) -> tuple[str, ...]:
    """Return the tasks that have a config with this layer, in the papers' order."""
    return _TASKS_OF.get(layer, tuple(TASKS))


def variants(task: str, layer: str, size: str) -> str:
    """Return what follows the colon in --config=TASK_prune:…"""
    names = (layer * (layer != "s5"), size * (size != "full"), TASKS[task].variant)
    return ",".join(filter(None, names))


def task_config(task: str, layer: str, size: str) -> ConfigDict:
    """Return the config that prunes this task: layer in `LAYERS`, size "full", "small" or "smoke"."""
    module = importlib.import_module(f"configs.{TASKS[task].config}_prune")
    return module.get_config(variants(task, layer, size))
