"""Models beside naive ones with the same parameters."""

import functools
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.speed.naive import naive_twin
from experiments.speed.side_by_side import compare, side_by_side
from experiments.speed.speed_models import PASSES, Shape, difference, make
from experiments.speed.table import Table


def model_table(config: ConfigDict) -> Table:
    """Compare our models with the naive ones."""
    rows = {str(Shape(*shape)): (shape,) for shape in config.models}
    return compare(config, ("model", "naive", "agree to"), rows, PASSES, naive_numbers)


def naive_numbers(shape: Sequence, name: str, ours_first: bool, repetitions: int) -> list[float]:
    """Measure a pass of a model and of its naive twin in this process."""
    model, batch = make(Shape(*shape))
    theirs, ours = (functools.partial(PASSES[name], m, batch) for m in (naive_twin(model), model))
    return side_by_side(theirs, ours, difference, ours_first, repetitions)
