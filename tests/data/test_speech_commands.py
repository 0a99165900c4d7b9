"""Speech Commands: samples, splits and normalisation computed by hand, sampling rates, invalid files."""

from pathlib import Path

import numpy as np
import pytest

from aire.data.formats.archives import Files
from aire.data.speech_commands import ARCHIVE, WORDS, Recordings, load, read_wav
from aire.data.synthetic import recordings, wav, write_tree
from tests.data.helpers import inputs
from tests.helpers import pack_tree, refused

TREE = {
    "validation_list.txt": b"bed/b_nohash_0.wav\n",
    "testing_list.txt": b"bed/c_nohash_1.wav\nzero/c_nohash_0.wav\n",
    "bed/b_nohash_0.wav": wav([5]),
    "bed/c_nohash_1.wav": wav([6]),
    "bed/a_nohash_0.wav": wav([8192, -8192, 16384]),
    "cat/a_nohash_0.wav": wav(range(16_000)),
    "zero/c_nohash_0.wav": wav([7]),
    "_background_noise_/pink_noise.wav": wav(range(20_000)),
    "LICENSE": b"CC BY",
}


def source(folder: Path) -> Recordings:
    return Recordings(Files(ARCHIVE, folder, folder))


def test_words():
    assert len(WORDS) == len(set(WORDS)) == 35
    assert [WORDS.index(word) for word in ("bed", "backward", "zero")] == [0, 17, 34]  # numbered as in the reference


@pytest.mark.parametrize("packed", [True, False])
def test_splits_by_the_lists(tmp_path, packed):
    tree = {f"./{name}": content for name, content in TREE.items()}
    pack_tree(tmp_path / ARCHIVE.name, tree) if packed else write_tree(tmp_path, tree)
    splits = load(tmp_path, source(tmp_path))
    assert [split.y.tolist() for split in splits.values()] == [[0, 1], [0], [34, 0]]
    assert splits["test"].x[:, 0].tolist() == [7, 6]
    assert all(split.x.shape == (len(split), 16_000) and split.x.dtype == np.int16 for split in splits.values())
    assert splits["train"].x[0, :5].tolist() == [8192, -8192, 16384, 0, 0]
    np.testing.assert_array_equal(splits["train"].x[1], np.arange(16_000))
    assert set(splits["train"].lengths.tolist()) == {16_000}


def test_normalisation_of_the_reference(tmp_path):
    """Divide by 2**15 twice, then use mean and deviation of the training recordings, in float64."""
    splits = load(tmp_path, source(write_tree(tmp_path, TREE)))
    twice = {name: split.x / 2.0**30 for name, split in splits.items()}
    mean, deviation = twice["train"].mean(), twice["train"].std(ddof=1)
    for name, split in splits.items():
        x = inputs(split)
        assert x.dtype == np.float32
        np.testing.assert_allclose(x[..., 0], (twice[name] - mean) / (deviation + 1e-5), rtol=1e-5, atol=1e-6)
    assert not splits["train"].holds_tokens


def test_lower_rates(tmp_path):
    write_tree(tmp_path, TREE)
    full, half, coarse = (load(tmp_path, source(tmp_path), sample_every=k) for k in (1, 2, 3))
    for name, split in full.items():
        np.testing.assert_array_equal(inputs(half[name]), inputs(split)[:, ::2])
        assert set(half[name].lengths.tolist()) == {8000}
    assert coarse["test"].x.shape == (2, 5334)


def test_fewer_examples_include_all_words(tmp_path):
    splits = load(tmp_path, source(write_tree(tmp_path, recordings(5))), sample_every=100, train_examples=4)
    assert splits["train"].y.tolist() == [0, 17, 34, 0]


def test_a_longer_recording_is_cut():
    assert read_wav(wav(range(16_010)), "long").tolist() == list(range(16_000))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"not a WAV file \(truncated\)"),
        (b"RIFF....WAVX", r"not a WAV file \(not a WAVE file\)"),
        (wav([1, 2, 3])[:-2], r"has 2 of 3 samples: it is truncated"),
        (wav([1, 2, 3])[:30], r"not a WAV file"),
        (wav([1, 2], channels=2), r"16 bits, 2 channels, 16000 Hz; expected 16 bits, 1 channel, 16000 Hz"),
        (wav([1, 2], rate=8000), r"16 bits, 1 channels, 8000 Hz; expected"),
        (wav([1, 2], width=1), r"8 bits, 1 channels, 16000 Hz; expected"),
    ],
)
def test_invalid_recordings(content, message):
    with refused(f"^Speech Commands: some.wav: {message}"):
        read_wav(content, "some.wav")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"testing_list.txt": None}, "testing_list.txt is missing; needed: speech_commands_v0.02.tar.gz, 2,428.9"),
        ({"testing_list.txt": b""}, "no recordings for test; needed"),
        ({"cat/a_nohash_0.wav": b"RIFF"}, "cat/a_nohash_0.wav: not a WAV file"),
        (dict.fromkeys(TREE), "no files of Speech Commands in it; needed: speech_commands_v0.02.tar.gz"),
    ],
)
def test_invalid_files(tmp_path, changes, message):
    write_tree(tmp_path, {name: content for name, content in (TREE | changes).items() if content is not None})
    with refused(message, tmp_path):
        load(tmp_path, source(tmp_path))


@pytest.mark.parametrize("every", [0, 16_001])
def test_invalid_rate(tmp_path, every):
    with refused(f"sample_every={every}: expected 1 to 16000"):
        load(tmp_path, source(tmp_path), sample_every=every)
