"""The interactive report of a sweep: one HTML file that needs nothing else, drawn by plotly.js.

A slider over the ratio and a button per method move the accuracy, the states of each layer, the eigenvalues and the
output errors together. `page.html` holds its frame and style, `page.js` what it does.
"""

import base64
import dataclasses
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from plotly.offline import get_plotlyjs

from aire.report import eigenvalues, small_multiples
from aire.ssm import Modes

_BITS = 6_000_000  # of the masks in a file: 1 MB


@dataclasses.dataclass(frozen=True)
class MethodSweep:
    """What one method does at each of R ratios.

    Attributes:
        keep: masks of the kept states by layer path, bool (n,); None where the method failed.
        accuracy: accuracy on the selection split, (R,); NaN where the method failed.
        predicted: predicted output error of each layer, (R, layers); NaN where unknown.
        measured: the same, measured.
        chosen: index of the largest ratio within the tolerance.
        test: accuracy on the test split there.
    """

    keep: Sequence[Mapping[str, ArrayLike] | None]
    accuracy: np.ndarray
    predicted: np.ndarray
    measured: np.ndarray
    chosen: int
    test: float


@dataclasses.dataclass(frozen=True)
class Report:
    """What the page shows.

    Attributes:
        title: of the page.
        modes: of the uncut model, by layer path.
        uncut: its accuracy on the selection split.
        tolerance: points of accuracy that a cut may cost.
        baselines: more accuracies on the selection split, by name.
        ratios: shares of states cut, ascending, (R,).
        methods: by name.
    """

    title: str
    modes: Mapping[str, Modes]
    uncut: float
    tolerance: float
    baselines: Mapping[str, float]
    ratios: Sequence[float]
    methods: Mapping[str, MethodSweep]


def html(report: Report) -> str:
    """Return the page, below 6 MB: plotly.js is 5 MB of it.

    It loads nothing, and its content security policy forbids the browser to.
    """
    # In a script, "<" could begin "</script>".
    embedded = json.dumps(data(report), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {"plotly": get_plotlyjs(), "data": embedded, "script": _file("page.js")}
    head, *rest = _file("page.html").split("<!-- part: ")
    named = (part.split(" -->", 1) for part in rest)
    return head + "".join(parts[name] + after for name, after in named)


def data(report: Report) -> dict[str, Any]:
    """Return the page's data as a JSON value. Missing numbers are null.

    The masks of the drawn states at each ratio are the bits, lowest first, of one string in base64, layer after layer.
    """
    drawn = _drawn(report)
    return {
        "title": report.title,
        "uncut": report.uncut,
        "tolerance": report.tolerance,
        "baselines": dict(report.baselines),
        "ratios": list(report.ratios),
        "layers": [_layer(path, m, drawn.get(path)) for path, m in report.modes.items()],
        "colours": _colours(list(report.methods)),
        "methods": [_method(name, sweep, report.modes, drawn) for name, sweep in report.methods.items()],
    }


def _colours(methods: Sequence[str]) -> dict[str, list[str]] | None:
    """The colours of the methods by theme; None if they are too many for colours of their own."""
    if len(methods) > small_multiples.MOST:
        return None
    return {theme: small_multiples.colours(methods, theme) for theme in small_multiples.THEMES}


def _drawn(report: Report) -> dict[str, np.ndarray]:
    """The indices of the states whose eigenvalues are drawn, by layer path: a random sample of large layers."""
    first = dict(list(report.modes.items())[: eigenvalues.MOST])
    cuts = len(report.ratios) * len(report.methods)
    most = _BITS // (cuts * len(first))
    return {path: eigenvalues.sample(m.margin.size, min(most, eigenvalues.STATES)) for path, m in first.items()}


def _layer(path: str, modes: Modes, drawn: np.ndarray | None) -> dict[str, Any]:
    layer: dict[str, Any] = {"name": path or "(model)", "states": modes.n_states}
    if drawn is not None:
        layer["drawn"] = drawn.tolist()
        z = np.asarray(modes.Lambda_bar)[drawn]
        layer["frequency"] = _rounded(eigenvalues.frequency(z))
        layer["steps"] = _rounded(eigenvalues.time_scale(modes)[drawn])
        layer["energy"] = _rounded(eigenvalues.relative_energy(modes)[drawn])
    return layer


def _method(
    name: str, sweep: MethodSweep, modes: Mapping[str, Modes], drawn: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    def bits(keep: Mapping[str, ArrayLike]) -> str:
        return _bits([modes[path].by_mode(keep[path])[index] for path, index in drawn.items()])

    return {
        "name": name,
        "accuracy": _numbers(sweep.accuracy),
        "chosen": sweep.chosen,
        "test": sweep.test,
        "kept": [keep and [int(np.sum(keep[path])) for path in modes] for keep in sweep.keep],
        "masks": [keep and bits(keep) for keep in sweep.keep],
        "predicted": [_rounded(row) for row in sweep.predicted],
        "measured": [_rounded(row) for row in sweep.measured],
    }


def _bits(masks: Sequence[np.ndarray]) -> str:
    return base64.b64encode(np.packbits(np.concatenate(masks), bitorder="little").tobytes()).decode()


def _numbers(values: np.ndarray) -> list[float | None]:
    return [float(x) if np.isfinite(x) else None for x in values]


def _rounded(values: np.ndarray) -> list[float | None]:
    """Four digits, to keep the file small."""
    return [None if x is None else float(f"{x:.4g}") for x in _numbers(values)]


def _file(name: str) -> str:
    return (importlib.resources.files("aire.report") / name).read_text(encoding="utf-8")
