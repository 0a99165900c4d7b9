"""Datasets prepared once: a TFDS builder writes the examples of a source, and later runs read what it wrote.

A source says which examples there are; a builder, one per dataset, how one of them is stored. TensorFlow is not needed.
"""

import abc
import contextlib
import dataclasses
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

import tensorflow_datasets as tfds
from absl import logging
from google.protobuf.json_format import ParseError
from tensorflow_datasets.core.utils import tqdm_utils

from aire.utils.errors import UserError
from aire.utils.files import locked, reading, writing
from aire.utils.progress import Progress

SPLITS = ("train", "validation", "test")


class Source(Protocol):
    """Where a dataset's examples come from; its methods raise UserError where they cannot be had."""

    def config_name(self) -> str:
        """Names the examples, as a folder's name: sources with other examples have other names."""

    def sizes(self) -> dict[str, int]:
        """Number of examples of each split."""

    def splits(self) -> dict[str, Iterable]:
        """Examples of each split, as `PreparedOnce.encode` takes them; they are read in the order of the dict."""


@dataclasses.dataclass(eq=False)
class SourceConfig(tfds.core.BuilderConfig):
    """Where the examples come from; `name` identifies them."""

    source: Source | None = None


class PreparedOnce(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes a source's examples in the order they come. A dataset adds TITLE, VERSION, `_info` and `encode`."""

    TITLE: ClassVar[str]  # the dataset's name in messages

    @abc.abstractmethod
    def encode(self, example: Any) -> dict:
        """One of the source's examples as `_info` describes it."""

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

    # TFDS prints at these two that it downloads a dataset of unknown size; it downloads nothing.
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
    """The stored examples of the splits "train", "validation" and "test"; prepared in `data_dir` if not there yet.

    A preparation that was killed leaves nothing that counts: the next call starts it again. Of several processes that
    need the same data at once, one prepares it and the others wait.

    Args:
        train_examples, validation_examples, test_examples: at most this many, the first ones; 0: all.
    Raises:
        UserError: a negative number of examples; the source has no such examples; `data_dir` cannot be written; what
            was prepared there is damaged.
    """
    limits = dict(zip(SPLITS, (train_examples, validation_examples, test_examples), strict=True))
    for name, limit in limits.items():
        if limit < 0:
            raise UserError(f"{dataset.TITLE}: {name}_examples={limit}: expected at least 0, which means all")
    with _quiet():
        builder = _builder(dataset, data_dir, source)
        if not builder.is_prepared():
            _prepare(builder)
            builder = _builder(dataset, data_dir, source)
        return {name: _read(builder, name, limit) for name, limit in limits.items()}


def _builder(dataset: type[PreparedOnce], data_dir: str | Path, source: Source) -> PreparedOnce:
    """The builder, which knows what is prepared in `data_dir`. Raises UserError where that cannot be read."""
    config = SourceConfig(name=source.config_name(), source=source)
    try:
        with reading(data_dir):
            return dataset(data_dir=str(data_dir), config=config, file_format="array_record")
    except ParseError as error:
        raise _damaged(Path(data_dir, dataset.name, config.name), error) from error


def _prepare(builder: PreparedOnce) -> None:
    """Write the dataset unless another process does; TFDS renames its folder when it is complete."""
    folder = builder.data_path.parent
    with writing(folder), locked(folder, f"prepares {folder}"):
        for leftover in folder.glob("incomplete.*"):  # of a killed process, for we hold the lock
            shutil.rmtree(leftover)
        try:
            # TFDS itself does nothing where the data is there by now.
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
        except RuntimeError as error:  # array_record's way to say OSError
            if failed := re.search(r"(?:open|write|close)\(\) failed: ([^;]+)", str(error)):
                raise OSError(failed[1]) from error
            raise


def _read(builder: PreparedOnce, name: str, limit: int) -> list[dict]:
    """The first `limit` examples of one split; 0: all. Raises UserError where they cannot be read."""
    try:
        source = builder.as_data_source(name)
        n = min(limit or len(source), len(source))
        return source.__getitems__(range(n))  # one call; one by one takes 1.5 times as long
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise _damaged(builder.data_path, error) from error


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"what was prepared in {folder} is damaged ({error}); delete that folder and run again")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's bars, which show paths, and its warning that a builder's configuration is our own."""
    verbosity, bars = logging.get_verbosity(), tqdm_utils._active
    tfds.disable_progress_bar()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.display_progress_bar(bars)
