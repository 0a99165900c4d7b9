"""Find the largest cut that costs at most a given accuracy."""

import math
from collections.abc import Callable

from flax import nnx

from aire.pruning.selection import NothingLeft
from aire.pruning.surgery import Cut, apply, apply_masked
from aire.utils.arguments import follow, function, numbers
from aire.utils.checks import Rule, number
from aire.utils.errors import UserError

Validate = Callable[[nnx.Module], float]  # the accuracy of a model, higher is better

_PARTS = 100  # ratios k / 100
_ROUNDING = 1e-9  # of differences between accuracies


def check(tolerance: float | None, validate: Validate | None, others: tuple[object, ...]) -> None:
    """Raise UserError unless tolerance and validate come together, and without another size of the cut."""
    if (tolerance is None) != (validate is None):
        raise UserError("pass tolerance=… and validate=fn together: fn(model) returns the accuracy of a model")
    if tolerance is None:
        return
    if any(other is not None for other in others):
        raise UserError("pass one of ratio=…, threshold=… and tolerance=…: the tolerance finds the ratio")
    rule = Rule("the accuracy that may be lost, such as 0.01 for one point", number(0).holds)
    follow("tolerance", tolerance, rule)
    function("validate", validate, "that returns the accuracy of a model")


def largest(model: nnx.Module, find: Callable[[float], Cut], tolerance: float, validate: Validate) -> Cut:
    """Return the cut at the largest ratio k/100 whose accuracy is within the tolerance of the uncut model's.

    Bisects, which assumes that accuracy falls as the ratio rises: where it does not, a larger ratio may pass too. The
    cuts are validated as masked models of one size, at most 7 of them. The smaller model of the result is validated
    last; rounding may put it outside the tolerance, and then the next lower cut that passed is taken.

    Args:
        model: the uncut model.
        find: maps a ratio to its cut.
        tolerance: the accuracy that may be lost.
        validate: as in `prune`.
    Raises:
        UserError: `validate` returns something else than a finite number.
    """
    least = _accuracy(validate, model) - tolerance - _ROUNDING
    passed: list[Cut] = []
    low, high = 0, _PARTS
    while high - low > 1:
        middle = (low + high) // 2
        try:
            cut = find(middle / _PARTS)
        except NothingLeft:
            high = middle
            continue
        if _accuracy(validate, apply_masked(model, cut)) >= least:
            low = middle
            passed.append(cut)
        else:
            high = middle
    for cut in reversed(passed):
        if _accuracy(validate, apply(model, cut)) >= least:
            return cut
    return Cut(find(0.0).keep)  # the uncut model, without a refit


def _accuracy(validate: Validate, model: nnx.Module) -> float:
    given = validate(model)
    try:
        accuracy = float(numbers("the accuracy", given))
    except Exception as error:  # also of a traced value
        raise UserError(f"validate returned a {type(given).__name__}: expected the accuracy, a number") from error
    if not math.isfinite(accuracy):
        raise UserError(f"validate returned {accuracy}: expected a finite accuracy")
    return accuracy
