"""Cuts on disk, so that a stopped run does not refit them again."""

import io
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from aire.io.weights import get_arrays
from aire.models import Classifier
from aire.pruning import Cut, Readout, methods
from aire.utils import devices, digests
from aire.utils.errors import UserError
from aire.utils.files import reading, write_bytes


class SavedCuts:
    """The cuts of one model, one file each.

    Args:
        folder: of the files; None to keep none.
        model: the uncut model.
        config: a config's `prune`.
    """

    def __init__(self, folder: Path | None, model: Classifier, config: ConfigDict):
        self._folder, self._model, self._config = folder, model, config
        self._source = ""

    def get(self, trial: tuple[str, int], ratio: float) -> Cut | None:
        """Return a saved cut, or None. Raise UserError if its file is damaged."""
        if self._folder is None or not (path := self._path(trial, ratio)).exists():
            return None
        try:
            with reading(path), np.load(path) as arrays:
                return from_arrays(dict(arrays))
        except UserError:
            raise
        except Exception as error:  # of many types; zip archives have checksums
            raise UserError(f"{path} is damaged ({error}); remove it to fit its cut again") from error

    def put(self, trial: tuple[str, int], ratio: float, cut: Cut) -> None:
        """Save a cut."""
        if self._folder is not None and devices.is_first():
            file = io.BytesIO()
            np.savez(file, **cut.arrays())
            write_bytes(self._path(trial, ratio), file.getvalue())

    def _path(self, trial: tuple[str, int], ratio: float) -> Path:
        """Return the file named by all that a cut depends on except the code."""
        if not self._source:
            settings = {name: self._config[name] for name in ("batch_size", "scope", "unstable")}
            self._source = (
                f"{digests.of_arrays(get_arrays(self._model))} {settings} {self._config.calibration.to_json()}"
            )
        method = methods.get(trial[0])
        named = f"{self._source} {trial} {method.score} {method.normalize} {method.scope} {ratio}"
        return self._folder / f"{digests.of_text(named)}.npz"


def from_arrays(arrays: dict[str, np.ndarray]) -> Cut:
    """Return the cut with these arrays, the inverse of `Cut.arrays`."""
    keep, readouts, fitted = {}, {}, {}
    for name, array in arrays.items():
        path, _, part = name.partition("~")
        if not part:
            keep[path] = array
        elif part.startswith("fitted/"):
            fitted.setdefault(path, {})[part.removeprefix("fitted/")] = array
        else:
            readouts.setdefault(path, {})[part] = array
    return Cut(keep, {path: Readout(**fields) for path, fields in readouts.items()}, fitted)
