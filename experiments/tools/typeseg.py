"""Cut a Mamba that others trained: the segmenter of the PyPI package typeseg, on sources of known languages.

    pip download --no-deps typeseg==0.2.7
    python -m experiments.tools.typeseg typeseg-0.2.7-py3-none-any.whl       writes experiments/results/typeseg

The package (Apache-2.0) labels each byte of a text with one of 35 languages and formats. Here the files' endings give
the labels. Accuracy is over all bytes but white space, of windows that no method has seen.
"""

import io
import json
import sys
import sysconfig
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from flax import nnx
from jax import Array
from numpy.typing import NDArray

import aire
from aire.pruning import Calibration, find_cut, methods
from aire.report import tables
from aire.utils import digests
from aire.utils.errors import MissingFileError, UserError
from aire.utils.files import write_json, write_text
from experiments.provenance import provenance
from experiments.tools.typeseg_model import Typeseg, import_typeseg

RESULTS = Path(__file__).parents[1] / "results" / "typeseg"
_SHA256 = "36c1f318b149d5508fedf127e2ffc0854c6eced79c815677f03fe8c43cb22a44"  # of the weights of version 0.2.7
_ENDINGS = {".py": "python", ".md": "markdown", ".json": "json", ".csv": "csv", ".html": "html", ".yml": "yaml"}
_ENDINGS |= {".js": "javascript_typescript", ".tex": "tex", ".txt": "text", ".sh": "shell", ".xml": "xml"}
_LENGTH = 512  # bytes of a window
_WINDOWS = 12  # of each label and place, half of them to calibrate
_METHODS = ("random", "magnitude_global", "ghost", "aire", "measured", "measured_output", "surgeon_order", "surgeon")
_RATIOS = (0.5, 0.75)
_SEEDS = 3  # of random scores

Windows = dict[str, tuple[NDArray[np.int32], NDArray[np.int32]]]  # by place: tokens (n, L), labels (n,)


def main(wheel: str) -> None:
    model, labels = read(Path(wheel))
    calibration, test = windows(labels)
    counts = {place: len(x) for place, (x, _) in test.items()}
    print(f"test windows of {_LENGTH} bytes: {counts}", flush=True)
    inputs = Calibration([{"x": x} for x, _ in calibration.values()])
    uncut = accuracies(model, test)
    found: dict[str, list[list[dict[str, float]]]] = {}
    for name in _METHODS:
        found[name] = [_draws(model, name, ratio, inputs, test) for ratio in _RATIOS]
        print(tables.text(table(uncut, found)), flush=True)
    rows = table(uncut, found)
    text = f"# typeseg 0.2.7, columns cut\n\nAccuracy in %, of {counts} windows; random: mean ± standard deviation "
    text += f"of {_SEEDS} draws. Nothing is trained; `surgeon` refits the output gates.\n\n{tables.markdown(rows)}\n"
    write_text(RESULTS / "report.md", text)
    write_json(RESULTS / "results.json", {"uncut": uncut, "ratios": _RATIOS, "methods": found, **provenance()})


def read(wheel: Path) -> tuple[Typeseg, list[str]]:
    """The model and the names of its labels, from the package's file. Nothing in it is run.

    Raises:
        UserError: the file is missing, or its weights are not those of version 0.2.7.
    """
    if not wheel.is_file():
        raise MissingFileError(f"no file at {wheel}: get it with pip download --no-deps typeseg==0.2.7")
    try:
        with zipfile.ZipFile(wheel) as archive:
            data, manifest = (archive.read(f"typeseg/data/{name}") for name in ("mamba_al.npz", "manifest.json"))
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{wheel} is not the wheel of typeseg 0.2.7: {error}") from error
    if digests.of_bytes(data) != _SHA256:
        raise UserError(f"{wheel}: its weights are not those of typeseg 0.2.7")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        model = import_typeseg({name: arrays[name] for name in arrays.files})
    return model, json.loads(manifest)["labels"]


def windows(labels: Sequence[str]) -> tuple[Windows, Windows]:
    """Windows of files of known languages, to calibrate and to test, from different files where there are several."""
    root = Path(__file__).parents[2]
    places = {
        "this repository": [root / name for name in ("aire", "configs", "docs", "experiments", "tests")],
        "standard library": [Path(sysconfig.get_paths()["stdlib"])],
    }
    parts: tuple[Windows, Windows] = ({}, {})
    for place, folders in places.items():
        drawn: tuple[list, list] = ([], [])
        for ending, label in _ENDINGS.items():
            texts = _texts(folders, ending)
            half = len(texts) // 2 if len(texts) > 1 else 0
            for part, own in enumerate((texts[:half], texts[half:])):
                drawn[part].extend((text, labels.index(label)) for text in own[: _WINDOWS // 2])
        for part, chosen in zip(parts, drawn, strict=True):
            x = np.array([tokens(text) for text, _ in chosen])
            part[place] = x, np.array([label for _, label in chosen], np.int32)
    return parts


def _texts(folders: Sequence[Path], ending: str) -> list[bytes]:
    """A window from the middle of each of some files of an ending, in an order that looks random."""
    skipped = {"site-packages", "test", "golden", RESULTS.name}
    paths = {p.relative_to(root.parent): p for root in folders for p in root.rglob(f"*{ending}")}
    kept = [name for name in paths if not skipped & set(name.parts)]
    found = []
    for name in sorted(kept, key=lambda name: digests.of_text(str(name)))[: 4 * _WINDOWS]:
        text = paths[name].read_bytes()
        start = max(0, (len(text) - _LENGTH) // 2)
        if len(text) >= _LENGTH and len(found) < _WINDOWS:
            found.append(text[start : start + _LENGTH])
    return found


def tokens(text: bytes) -> NDArray[np.int32]:
    """The package's tokens: ASCII, and 128 for each byte that is not printable."""
    raw = np.frombuffer(text, np.uint8)
    printable = ((raw >= 0x20) & (raw < 0x7F)) | np.isin(raw, [0x09, 0x0A, 0x0D])
    return np.where(printable, raw, 128).astype(np.int32)


def accuracies(model: Typeseg, test: Windows) -> dict[str, float]:
    """The share of right bytes by place, without white space."""
    found = {}
    for place, (x, y) in test.items():
        right = np.asarray(_labels(model, x)) == y[:, None]
        found[place] = float(right[~np.isin(x, [0x20, 0x09, 0x0A, 0x0D])].mean())
    return found


@nnx.jit
def _labels(model: Typeseg, x: Array) -> Array:
    """The label of each byte. Masked models share a compilation."""
    return model(x).argmax(axis=-1)


def _draws(model: Typeseg, name: str, ratio: float, inputs: Calibration, test: Windows) -> list[dict[str, float]]:
    """The accuracies after a cut, for each seed if the method is random."""
    method, moments = methods.get(name), None
    if method.measures(selective=True):
        moments = inputs.moments(model, covariance=method.needs_covariance)
    result = []
    for seed in range(_SEEDS if name == "random" else 1):
        scores = aire.score(model, name, moments=moments, seed=seed)
        cut = find_cut(model, scores, name, ratio=ratio, calibration=inputs)
        result.append(accuracies(aire.mask(model, cut), test))
    return result


def table(uncut: Mapping[str, float], found: Mapping[str, Sequence[Sequence[Mapping[str, float]]]]) -> list[list[str]]:
    """Accuracy in per cent by method, place and share of columns cut."""
    rows = [["", *(f"{place}, {100 * ratio:g} % cut" for place in uncut for ratio in _RATIOS)]]
    rows.append(["uncut", *(f"{100 * uncut[place]:.1f}" for place in uncut for _ in _RATIOS)])
    for name, by_ratio in found.items():
        cells = [[100 * draw[place] for draw in draws] for place in uncut for draws in by_ratio]
        rows.append([name, *(tables.mean_spread(values) for values in cells)])
    return rows


if __name__ == "__main__":
    main(*sys.argv[1:])
