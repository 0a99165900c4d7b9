"""The settings of the language-model job, checked before anything slow."""

import dataclasses

from ml_collections import ConfigDict

from aire.models import MambaLMConfig
from aire.models.config import MAX_LAYERS
from aire.pruning import methods
from aire.ssm import ssm_config
from aire.ssm.base import MAX_STATES
from aire.training.loop import MAX_BATCH, TrainConfig
from aire.utils.checks import Mistakes, check, integer, make, number, several, text
from experiments.lm.stdlib_text import TextConfig

VOCABULARY = 256  # bytes


@dataclasses.dataclass(frozen=True)
class LMPruneConfig:
    """The sweep.

    Attributes:
        methods: names in `aire.pruning.methods.METHODS`.
        ratios: shares of all columns to cut.
        seeds: of the methods that draw random scores.
        calibration_examples: windows of the training split, without labels.
        batch_size: windows per call.
    """

    methods: tuple[str, ...] = ("random", "magnitude_global", "ghost", "aire", "measured", "measured_output", "surgeon")
    ratios: tuple[float, ...] = (0.25, 0.5, 0.625, 0.75, 0.875)
    seeds: tuple[int, ...] = (0, 1, 2)
    calibration_examples: int = 128
    batch_size: int = 16

    def __post_init__(self):
        check(
            self,
            methods=several(text(), 1, 1000),
            ratios=several(number(above=0, below=1), 1, 1000),
            seeds=several(integer(0, 2**32 - 1), 1, 1000),
            calibration_examples=integer(1, MAX_BATCH),
            batch_size=integer(1, MAX_BATCH),
        )
        with Mistakes() as mistakes:
            for name in self.methods:
                with mistakes.within("methods: "):
                    methods.get(name)


@dataclasses.dataclass(frozen=True)
class Settings:
    """All sections of a config."""

    data: TextConfig
    model: MambaLMConfig
    train: TrainConfig
    prune: LMPruneConfig
    seed: int


def read(config: ConfigDict) -> Settings:
    """Make the settings of a config. Raise UserError with one line for each mistake."""
    check(config, seed=integer(0, 2**32 - 1))
    with Mistakes() as mistakes:
        with mistakes.within("data."):
            data = make(TextConfig, config.data.to_dict())
            sizes = ("train_examples", "validation_examples", "test_examples")
            check(data, length=integer(1, 2**24), **dict.fromkeys(sizes, integer(0, 2**40)))
        with mistakes.within("model."):
            model = _model(config.model)
        with mistakes.within("train."):
            train = TrainConfig.from_dict(config.train.to_dict())
        with mistakes.within("prune."):
            prune = make(LMPruneConfig, config.prune.to_dict())
    return Settings(data, model, train, prune, config.seed)


def _model(section: ConfigDict) -> MambaLMConfig:
    check(section, depth=integer(1, MAX_LAYERS), states=integer(1, MAX_STATES))
    options = section.to_dict()
    depth, states, ssm = options.pop("depth"), options.pop("states"), ssm_config(options.pop("ssm"))
    return make(MambaLMConfig, options | {"vocabulary": VOCABULARY, "state_sizes": (states,) * depth, "ssm": ssm})
