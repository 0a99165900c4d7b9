"""Another implementation and ours, side by side in fresh processes."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from aire.utils.errors import UserError
from experiments.speed.speed_process import child
from experiments.speed.table import Table
from experiments.timing import Prepared, interleaved

_UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # compilation is measured


def clone_of(url: str, config: ConfigDict, key: str, file: str) -> str:
    """Return the absolute path of the clone that a setting names.

    Args:
        url: of the cloned repository.
        file: one of the clone, by which it is known.
    Raises:
        UserError: the folder does not have that file.
    """
    folder = Path(config[key])
    if not (folder / file).is_file():
        raise UserError(f"config.{key}={str(folder)!r}: expected a clone of {url}")
    return str(folder.absolute())


def compare(
    config: ConfigDict,
    titles: tuple[str, str, str],
    rows: Mapping[str, Sequence],
    passes: Iterable[str],
    measure: Callable[..., list[float]],
) -> Table:
    """Measure every row and pass in `config.processes` new processes, in which theirs and ours go first in turn.

    Args:
        titles: of the first column, of the other implementation, and of the column on agreement.
        rows: the first arguments of `measure` by the name of the row.
        measure: a module's function that returns the numbers of `side_by_side`. It also takes the pass, whether ours
            goes first, and the repetitions.
    """
    what, other, agreement = titles
    times = f"{other}, ms", "range", "aire, ms", "range", "times as fast", "range"
    table = Table(what, "pass", *times, "compilation, s", "temporary memory, MiB", agreement)
    for row, arguments in rows.items():
        for name in passes:
            runs = [
                child(measure, *arguments, name, i % 2 == 1, config.repetitions, variables=_UNCACHED)
                for i in range(config.processes)
            ]
            cells = _cells(runs)
            table.add(row, name, *cells)
            print(f"{row}, {name}: {cells[4]} ({cells[5]}) times as fast as {other}", flush=True)
    return table


def side_by_side(
    theirs: Callable[[], Prepared],
    ours: Callable[[], Prepared],
    difference: Callable[[Any, Any], float],
    ours_first: bool,
    repetitions: int,
) -> list[float]:
    """Compile the other implementation and ours, compare their results, and call them in turn.

    Returns:
        of theirs and ours: the median seconds, the seconds of compilation, and the bytes of temporary memory. Then the
        largest difference of three calls, because each training step continues from the last.
    """
    prepare = {"ours": ours, "theirs": theirs} if ours_first else {"theirs": theirs, "ours": ours}
    prepared = {name: function() for name, function in prepare.items()}
    calls = {name: call for name, (_, call) in prepared.items()}
    results = ({name: call() for name, call in calls.items()} for _ in range(3))
    differences = [difference(result["theirs"], result["ours"]) for result in results]
    seconds = interleaved(calls, repetitions)
    runs = [prepared[name][0] for name in ("theirs", "ours")]
    times = [seconds["theirs"], seconds["ours"], *(run.seconds for run in runs)]
    return [*times, *(run.temporary for run in runs), float(np.max(differences))]


def relative_difference(a: Any, b: Any) -> float:
    """Return the largest difference of two trees of arrays, each relative to the largest value of b's array."""
    errors = [jnp.abs(x - y).max() / jnp.abs(y).max() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)]
    return float(jnp.stack(errors).max())


def _cells(runs: Sequence[Sequence[float]]) -> tuple[str, ...]:
    """Return the cells of a row from the numbers of its processes."""
    theirs, ours, *rest, difference = np.array(runs).T
    compilation, memory = np.median(rest[:2], axis=1), np.median(rest[2:], axis=1) / 2**20
    times = *_spread(1e3 * theirs, 1), *_spread(1e3 * ours, 1), *_spread(theirs / ours, 2)
    return *times, _change(compilation, 1), _change(memory, 0), f"{difference.max():.0e}"


def _spread(values: np.ndarray, digits: int) -> tuple[str, str]:
    return f"{np.median(values):.{digits}f}", f"{values.min():.{digits}f} to {values.max():.{digits}f}"


def _change(values: Iterable[float], digits: int) -> str:
    """Return "theirs → ours". What is not compiled has nan."""
    return " → ".join("–" if math.isnan(value) else f"{value:.{digits}f}" for value in values)
