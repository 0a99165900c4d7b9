"""Speech Commands with all 35 words (Warden 2018, arXiv 1804.03209): raw audio at 16 kHz or less.

The archive has 105,829 recordings of one word each: WAV, 16 bits, one channel, at most 16,000 samples. As in the S5
reference, shorter recordings are padded with zeros, and lists in the archive define the validation and test splits
(9,981 and 11,005 recordings). Lower sampling rates use every k-th sample, without a filter.

The reference scales samples to [-1, 1], divides by 2**15 again, subtracts their mean and divides by their standard
deviation + 1e-5, both over the training recordings. After the second division the deviation is below 1e-5, so the
deviation of the inputs is well below 1. This is reproduced here, because models trained with the reference expect it.
"""

import dataclasses
import io
import wave
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from aire.data.formats import preparation
from aire.data.formats.archives import Archive, ArchiveSource
from aire.data.formats.preparation import SPLITS, PreparedOnce, compact
from aire.data.pipeline import Split
from aire.utils.errors import UserError

LENGTH = RATE = 16_000  # samples per recording and per second
EPSILON = 1e-5 * 2**15  # added to the standard deviation of samples in [-1, 1]
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
# In the reference's order, which defines the class numbers.
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


class Recordings(ArchiveSource):
    """The recordings of the archive, ordered by file name and so by speaker.

    Raises:
        UserError: (from methods) the archive is unavailable or damaged, a list is missing, a split is empty, or a
            recording has another format.
    """

    def read(self) -> dict[str, list[Example]]:
        """Read all recordings into memory (3.4 GB), because the lists may come last in the archive."""
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
        raise UserError(f"{ARCHIVE.title}: {file} is missing; {ARCHIVE.how_to_get}")
    return listed[file]


def read_wav(content: bytes, name: str) -> np.ndarray:
    """Read the first second of a recording, padded with zeros, (16000,) int16. `name` is used in error messages.

    Raises:
        UserError: the file is truncated or not a WAV file with 16 bits, one channel and 16 kHz.
    """
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = file.getsampwidth(), file.getnchannels(), file.getframerate()
            frames, data = file.getnframes(), file.readframes(LENGTH)
    except (wave.Error, EOFError) as error:
        reason = str(error) or "truncated"
        raise UserError(f"{ARCHIVE.title}: {name}: not a WAV file ({reason}); get it again") from error
    if form != (2, 1, RATE):
        raise UserError(
            f"{ARCHIVE.title}: {name}: {8 * form[0]} bits, {form[1]} channels, {form[2]} Hz; "
            f"expected 16 bits, 1 channel, {RATE} Hz"
        )
    if len(data) != 2 * min(frames, LENGTH):
        raise UserError(
            f"{ARCHIVE.title}: {name}: has {len(data) // 2} of {frames} samples: it is truncated, get it again"
        )
    return np.pad(np.frombuffer(data, "<i2"), (0, LENGTH - len(data) // 2)).astype(np.int16)


class SpeechCommands(PreparedOnce):
    """Store `samples` (16000,) int16 and `label`."""

    TITLE = ARCHIVE.title
    DESCRIPTION = "One-second recordings of 35 words."
    HOMEPAGE = "https://arxiv.org/abs/1804.03209"

    def features(self) -> dict[str, tfds.features.FeatureConnector]:
        return {"samples": compact((LENGTH,), np.int16), "label": tfds.features.ClassLabel(names=WORDS)}


@dataclasses.dataclass(frozen=True)
class Normalise:
    """Normalise int16 samples (B, L) to float32 (B, L, 1) by mean and scale of samples in [-1, 1]."""

    mean: float
    scale: float

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        unit = samples.astype(np.float32) / np.float32(2**15)
        return ((unit - np.float32(self.mean)) / np.float32(self.scale))[..., None]


def load(data_dir: str | Path, recordings: Recordings, *, sample_every: int = 1, **examples: int) -> dict[str, Split]:
    """Load the splits "train", "validation" and "test". Prepare them on the first call.

    Samples (n, L) int16 stay in memory. Batches are decoded to (B, L, 1) float32.

    Args:
        data_dir: folder of prepared datasets. They do not depend on the options below.
        recordings: the source of the recordings.
        sample_every: use every k-th sample: L = 16000 / k, rounded up. Mean and deviation are those of all samples.
        examples: train_examples, validation_examples, test_examples: use only the first so many; 0 means all.
    Raises:
        UserError: a bad `sample_every` or number of examples; the archive is unavailable; `data_dir` cannot be
            written; the prepared data is damaged.
    """
    if not 1 <= sample_every <= LENGTH:
        raise UserError(f"{ARCHIVE.title}: sample_every={sample_every}: expected 1 to {LENGTH}")
    prepared = preparation.load(SpeechCommands, data_dir, recordings, **examples)
    decode = _fit_normalise([e["samples"] for e in prepared["train"]])
    return {name: _to_split(prepared.pop(name), sample_every, decode) for name in SPLITS}


def _fit_normalise(train: list[np.ndarray]) -> Normalise:
    """Compute mean and scale of the training recordings with exact sums, one recording at a time."""
    total = sum(int(x.sum(dtype=np.int64)) for x in train)
    squares = sum(int(np.vdot(wide, wide)) for wide in (x.astype(np.int64) for x in train))
    mean = total / (n := LENGTH * len(train))
    deviation = ((squares - total * mean) / (n - 1)) ** 0.5
    return Normalise(mean / 2**15, deviation / 2**15 + EPSILON)


def _to_split(examples: list[dict], sample_every: int, decode: Normalise) -> Split:
    x = np.stack([e["samples"][::sample_every] for e in examples])
    return Split(x, np.full(len(x), x.shape[1], np.int32), np.array([e["label"] for e in examples], np.int32), decode)
