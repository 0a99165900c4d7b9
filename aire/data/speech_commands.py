"""Speech Commands, all 35 words (Warden 2018, arXiv 1804.03209): sound, sample by sample, at 16 kHz or less.

The archive holds 105,829 recordings of a word each: WAV, 16 bits, one channel, 16,000 samples or fewer. As in the S5
reference, shorter ones are filled up with zeros, the lists in the archive say which recordings validate and test (9,981
and 11,005 of them), and every k-th sample is taken, unfiltered, for another sampling rate.

The reference scales samples to [-1, 1], divides by 2**15 once more, subtracts their mean and divides by their standard
deviation + 1e-5, both over the training recordings. The second division leaves a deviation smaller than that 1e-5, so
the inputs' is well below 1; it is kept here, for models trained there expect it.
"""

import dataclasses
import io
import wave
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.archives import Archive, Files
from aire.data.formats.preparation import SPLITS, PreparedOnce
from aire.data.pipeline import Split
from aire.utils.errors import UserError

LENGTH = RATE = 16_000  # samples of a recording, and a second
EPSILON = 1e-5 * 2**15  # added to the deviation of samples in [-1, 1]
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# In the reference's order, which numbers the classes.
# fmt: off
WORDS = (
    "bed", "cat", "down", "five", "forward", "go", "house", "left", "marvin", "no", "on", "right", "sheila", "tree",
    "up", "visual", "yes", "backward", "bird", "dog", "eight", "follow", "four", "happy", "learn", "nine", "off",
    "one", "seven", "six", "stop", "three", "two", "wow", "zero",
)
# fmt: on

ARCHIVE = Archive(
    title="Speech Commands",
    url="http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
    sha256="af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",  # as in TensorFlow Datasets
    size=2_428_923_189,
    pattern=rf"({'|'.join(WORDS)})/[^/]+\.wav|{'|'.join(LISTS.values())}",
)

Example = tuple[np.ndarray, int]  # samples (16000,) int16, and the class


@dataclasses.dataclass(frozen=True)
class Recordings:
    """The recordings of the archive, by file name, so by speaker, the words in turn.

    Raises:
        UserError: (by its methods) the archive cannot be had or is damaged, a list is missing, a split is empty, or a
            recording is not of the format.
    """

    files: Files

    def config_name(self) -> str:
        return self.files.config_name()

    def sizes(self) -> dict[str, int]:
        return {name: len(examples) for name, examples in self._examples.items()}

    def splits(self) -> dict[str, Iterable[Example]]:
        return self._examples

    @cached_property
    def _examples(self) -> dict[str, list[Example]]:
        """3.4 GB in memory: one pass over the archive, in which the lists may come last."""
        listed, found = {}, []
        for name, content in self.files.members():
            if name in LISTS.values():
                listed[name] = content.decode(errors="replace").split()
            else:
                word, _, file = name.partition("/")
                found.append((file, WORDS.index(word), read_wav(content, name)))
        split_of = {name: split for split, file in LISTS.items() for name in _names(listed, file)}
        examples: dict[str, list[Example]] = {split: [] for split in SPLITS}
        for file, label, samples in sorted(found, key=lambda f: f[:2]):
            examples[split_of.get(f"{WORDS[label]}/{file}", "train")].append((samples, label))
        if empty := [split for split, recordings in examples.items() if not recordings]:
            raise UserError(f"{ARCHIVE.title}: no recordings for {', '.join(empty)}; {ARCHIVE.how_to_get}")
        return examples


def _names(listed: dict[str, list[str]], file: str) -> list[str]:
    if file not in listed:
        raise UserError(f"{ARCHIVE.title}: no {file} among the files; {ARCHIVE.how_to_get}")
    return listed[file]


def read_wav(content: bytes, name: str) -> np.ndarray:
    """Samples (16000,) int16: the first second of a recording, filled up with zeros.

    Raises:
        UserError: no WAV file of 16 bits, one channel and 16 kHz, or a truncated one; `name` is its name in messages.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames, data = file.getnframes(), file.readframes(LENGTH)
    except (wave.Error, EOFError) as error:
        raise UserError(f"{ARCHIVE.title}: {name}: no WAV file ({str(error) or 'truncated'}); get it again") from error
    if form != (2, 1, RATE):
        raise UserError(
            f"{ARCHIVE.title}: {name}: {8 * form[0]} bits, {form[1]} channels, {form[2]} Hz; "
            f"expected 16 bits, 1 channel, {RATE} Hz"
        )
    if len(data) != 2 * min(frames, LENGTH):
        raise UserError(
            f"{ARCHIVE.title}: {name}: {len(data) // 2} of {frames} samples there: it is truncated, get it again"
        )
    return np.pad(np.frombuffer(data, "<i2"), (0, LENGTH - len(data) // 2)).astype(np.int16)


class SpeechCommands(PreparedOnce, skip_registration=True):  # TFDS has one of this name, which needs TensorFlow
    """Stores `samples` (16000,) int16 and `label`."""

    TITLE = ARCHIVE.title
    VERSION = tfds.core.Version("1.0.0")  # raise it whenever the same files would give other data

    def _info(self) -> tfds.core.DatasetInfo:
        features = {
            "samples": tfds.features.Tensor(shape=(LENGTH,), dtype=np.int16, encoding="bytes"),
            "label": tfds.features.ClassLabel(names=WORDS),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Recordings of 35 words, a second each.",
            homepage="https://arxiv.org/abs/1804.03209",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # words in turn already
        )

    def encode(self, example: Example) -> dict:
        return dict(zip(("samples", "label"), example, strict=True))


@dataclasses.dataclass(frozen=True)
class Normalise:
    """int16 samples (B, L) to float32 (B, L, 1), by the mean and scale of samples in [-1, 1]."""

    mean: float
    scale: float

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        unit = samples.astype(np.float32) / np.float32(2**15)
        return ((unit - np.float32(self.mean)) / np.float32(self.scale))[..., None]


def load(data_dir: str | Path, recordings: Recordings, *, sample_every: int = 1, **examples: int) -> dict[str, Split]:
    """The splits "train", "validation" and "test", int16 (n, L) in memory, float32 (B, L, 1) in batches; prepared in
    `data_dir` if need be.

    Args:
        data_dir: folder of prepared datasets; what is kept there depends on the recordings alone.
        recordings: where they come from.
        sample_every: k takes every k-th sample, L = 16000 / k rounded up. Mean and deviation are those of all samples.
        examples: train_examples, validation_examples, test_examples: at most this many, the first ones; 0: all.
    Raises:
        UserError: a bad `sample_every` or number of examples; the archive cannot be had; `data_dir` cannot be written;
            what was prepared there is damaged.
    """
    if not 1 <= sample_every <= LENGTH:
        raise UserError(f"{ARCHIVE.title}: sample_every={sample_every}: expected 1 to {LENGTH}")
    prepared = preparation.load(SpeechCommands, data_dir, recordings, **examples)
    decode = _normalise([e["samples"] for e in prepared["train"]])
    return {name: _as_split(prepared.pop(name), sample_every, decode) for name in SPLITS}


def _normalise(train: list[np.ndarray]) -> Normalise:
    """From the training recordings; exact sums, one recording at a time."""
    total = sum(int(x.sum(dtype=np.int64)) for x in train)
    squares = sum(int(np.vdot(wide, wide)) for wide in (x.astype(np.int64) for x in train))
    mean = total / (n := LENGTH * len(train))
    deviation = ((squares - total * mean) / (n - 1)) ** 0.5
    return Normalise(mean / 2**15, deviation / 2**15 + EPSILON)


def _as_split(examples: list[dict], sample_every: int, decode: Normalise) -> Split:
    x = np.stack([e["samples"][::sample_every] for e in examples])
    return Split(x, np.full(len(x), x.shape[1], np.int32), np.array([e["label"] for e in examples], np.int32), decode)
