"""Datasets that are prepared once: a TFDS builder writes the examples of a source, and later runs read them.

A source defines the examples. A builder, one per dataset, defines how an example is stored. TensorFlow is not needed.

The files of examples have checksums of their own. TFDS's index has none, although a changed digit in it drops examples,
so `digests.json` beside it has the digests of its files.
"""

import abc
import contextlib
import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from google.protobuf.json_format import ParseError
from tensorflow_datasets.core.utils import tqdm_utils

from aire.utils import digests
from aire.utils.errors import UserError
from aire.utils.files import locked, reading, write_text, writing
from aire.utils.progress import Progress

SPLITS = ("train", "validation", "test")  # of the datasets
_INDEX, _DIGESTS = ("dataset_info.json", "features.json"), "digests.json"
log = logging.getLogger(__name__)


class Source(Protocol):
    """The origin of a dataset's examples. The methods raise UserError if the examples are not available."""

    def config_name(self) -> str:
        """A folder name that identifies the examples: other examples have another name."""

    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""

    def splits(self) -> Mapping[str, Iterable]:
        """Examples of each split, as arguments of `PreparedOnce.encode`. Splits are read in the order of the dict."""


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """The origin of the examples, identified by `name`."""

    source: Source | None = None


def compact(shape: tuple[int | None, ...], dtype: type = np.uint8) -> tfds.features.Tensor:
    """Store an array as bytes, because TFDS would widen each number to int64 and read more slowly."""
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding="bytes")


class PreparedOnce(tfds.core.GeneratorBasedBuilder):
    """Write the examples of a source in their order. A subclass says what they are and how they are stored."""

    VERSION = tfds.core.Version("1.0.0")  # a subclass increases it when the same source would give different data
    TITLE: ClassVar[str]  # the dataset's name in messages
    DESCRIPTION: ClassVar[str]
    HOMEPAGE: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__(skip_registration=True)  # TFDS has datasets of the same names

    @abc.abstractmethod
    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        """Return how each part of an example is stored, by name."""

    def encode(self, example: Any) -> dict:
        """Name the parts of an example of the source."""
        return dict(zip(self.info.features, example, strict=True))

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.DESCRIPTION,
            homepage=self.HOMEPAGE,
            features=tfds.features.FeaturesDict(self.features()),
            disable_shuffling=True,  # keep the order of the source
        )

    def download_and_prepare(self, **options) -> None:
        total = sum(self.builder_config.source.sizes().values())
        with Progress(f"preparing {self.TITLE}", total, unit="example") as self._progress:
            super().download_and_prepare(**options)

    def _split_generators(self, dl_manager) -> dict:
        return {name: self._generate_examples(split) for name, split in self.builder_config.source.splits().items()}

    def _generate_examples(self, examples: Iterable) -> Iterator[tuple[int, dict]]:
        for key, example in enumerate(examples):
            yield key, self.encode(example)
            self._progress.update()

    # Here TFDS would print that it downloads a dataset of unknown size, but it downloads nothing.
    def _log_download_bytes(self) -> None:
        print(f"preparing {self.TITLE} once, in {self.data_dir}", flush=True)

    def _log_download_done(self) -> None:
        pass


def load(
    dataset: type[PreparedOnce],
    data_dir: str | Path,
    source: Source,
    *,
    train_examples: int = 0,
    validation_examples: int = 0,
    test_examples: int = 0,
) -> dict[str, list[dict]]:
    """Return the examples of the splits "train", "validation" and "test". Prepare them in `data_dir` if missing.

    After a kill during the preparation, the next call starts it again. If several processes need the same data at once,
    one prepares it and the others wait.

    Args:
        train_examples, validation_examples, test_examples: the maximum number of examples; 0 for all.
    Raises:
        UserError: a negative number of examples, a source without such examples, a `data_dir` that cannot be written,
            or damaged prepared data.
    """
    limits = dict(zip(SPLITS, (train_examples, validation_examples, test_examples), strict=True))
    for name, limit in limits.items():
        if limit < 0:
            raise UserError(f"{dataset.TITLE}: {name}_examples={limit}: expected at least 0, which means all")
    with _quiet():
        builder = _prepared(dataset, data_dir, source)
        return {name: _read(builder, name, limit) for name, limit in limits.items()}


@dataclasses.dataclass(frozen=True)
class OneSplit:
    """For a source of further examples: one split, prepared apart from the others, which do not change.

    Attributes:
        split: its name, a part of its seed.
        examples: its size. A smaller split is the beginning of a larger one.
    """

    split: str = "selection"
    examples: int = 2_000

    def sizes(self) -> dict[str, int]:
        return {self.split: self.examples}


def load_split(dataset: type[PreparedOnce], data_dir: str | Path, source: Source, name: str) -> list[dict]:
    """Return all examples of one split. Prepare the source in `data_dir` if it is missing.

    Raises:
        UserError: as `load`.
    """
    with _quiet():
        return _read(_prepared(dataset, data_dir, source), name, 0)


def _prepared(dataset: type[PreparedOnce], data_dir: str | Path, source: Source) -> PreparedOnce:
    """Return the builder of a prepared source. Prepare it first if it is missing."""
    builder = _builder(dataset, data_dir, source)
    if not builder.info.splits:  # it was missing when the builder was made
        _prepare(builder)
        builder = _builder(dataset, data_dir, source)
    return builder


def _builder(dataset: type[PreparedOnce], data_dir: str | Path, source: Source) -> PreparedOnce:
    """Make the builder, which checks what is prepared in `data_dir`. Raise UserError if that is damaged."""
    config = SourceConfig(name=source.config_name(), source=source)
    folder = Path(data_dir, dataset.name, config.name)
    try:
        with reading(data_dir):
            _check_index(folder / str(dataset.VERSION))
            return dataset(data_dir=str(data_dir), config=config, file_format="array_record")
    except (ParseError, UnicodeDecodeError, UserError) as error:
        raise _damaged(folder, error) from error


def _check_index(folder: Path) -> None:
    """Compare the index of prepared data with its digests. Raise UserError if it has changed.

    There are none if an older version prepared the data, or if the preparation was killed at its very end.
    """
    if not folder.is_dir():
        return
    if not (record := folder / _DIGESTS).exists():
        log.warning("%s has no %s: damage to its index cannot be found; prepare it again", folder, _DIGESTS)
        return
    sealed = digests.unseal(digests.parse_json(record.read_bytes(), _DIGESTS), _DIGESTS, required=True)
    if changed := [name for name in _INDEX if digests.of_file(folder / name) != sealed.get(name)]:
        raise digests.DamagedError(f"different from what was written: {', '.join(changed)}")


def _write_digests(folder: Path) -> None:
    record = digests.seal({name: digests.of_file(folder / name) for name in _INDEX})
    write_text(folder / _DIGESTS, json.dumps(record, indent=1))


def _prepare(builder: PreparedOnce) -> None:
    """Write the dataset, unless another process does. TFDS renames the folder when it is complete."""
    folder = builder.data_path.parent
    with writing(folder), locked(folder, f"prepares {folder}"):
        for leftover in folder.glob("incomplete.*"):  # from a killed process, because this one holds the lock
            shutil.rmtree(leftover)
        try:
            # TFDS does nothing if another process has prepared the data in the meantime.
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
            if not (builder.data_path / _DIGESTS).exists():
                _write_digests(builder.data_path)
        except RuntimeError as error:  # array_record raises this for an OSError
            if failed := re.search(r"(?:open|write|close)\(\) failed: ([^;]+)", str(error)):
                raise OSError(failed[1]) from error
            raise


def _read(builder: PreparedOnce, name: str, limit: int) -> list[dict]:
    """Read the first `limit` examples of a split, or all for 0. Raise UserError if they cannot be read."""
    try:
        source = builder.as_data_source(name)
        n = min(limit or len(source), len(source))
        return source.__getitems__(range(n))  # one call, because single reads take 1.5 times as long
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _damaged(builder.data_path, error) from error


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"the prepared data in {folder} is damaged ({error}); delete that folder and run again")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence TFDS's progress bars, which show paths, and its warning about custom builder configurations."""
    verbosity, bars = absl_logging.get_verbosity(), tqdm_utils._active
    tfds.disable_progress_bar()
    absl_logging.set_verbosity(absl_logging.ERROR)
    try:
        yield
    finally:
        absl_logging.set_verbosity(verbosity)
        tfds.display_progress_bar(bars)
