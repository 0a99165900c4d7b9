"""Arrays and NumPy files of CompreSSM: the same logits, or one clear error."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from aire import convert
from aire.models import ModelConfig
from aire.ssm import LRUConfig
from tests.helpers import Bomb, below, forward, golden, nest, refused

LRU_MODELS = golden("lru_models.npz")
LRU_CONFIG = ModelConfig(3, 6, 5, (8, 8), LRUConfig(), activation="full_glu", bn_momentum=0.99)
LINEAR, EMBED = (below(LRU_MODELS[name], "var/") for name in ("linear_enc", "embed"))


def write_npz(folder, arrays):
    np.savez(folder / "model.npz", **arrays)
    return folder / "model.npz"


def test_npz_files_give_compressms_logits(tmp_path):
    case = LRU_MODELS["linear_enc"]
    model = convert.from_file(write_npz(tmp_path, LINEAR), LRU_CONFIG)
    assert model.config == LRU_CONFIG == convert.lru_model(nest(LINEAR)).config
    assert np.abs(forward(model, case["x"]) - case["logits"]).max() <= 1e-6 * np.abs(case["logits"]).max()


@pytest.mark.parametrize(
    "variables,message",
    [
        (LINEAR | {"blocks/1/lru/E": LINEAR["blocks/1/lru/D"]}, "unknown blocks/1/lru/E"),
        (
            {k: v for k, v in LINEAR.items() if "1/norm" not in k},
            "missing blocks/1/norm/ema_first_time; missing blocks/1/norm/ema_mean; missing blocks/1/norm/ema_var",
        ),
        (
            LINEAR | {"blocks/0/glu/w2/weight": np.ones((6, 5), np.float32)},
            r"blocks/0/glu/w2/weight has shape \(6, 5\), expected \(6, 6\)",
        ),
        (
            LINEAR | {"blocks/0/norm/ema_first_time": np.array([False])},
            r"ema_first_time has shape \(1,\), expected \(\)",
        ),
        (LINEAR | {"blocks/1/norm/ema_first_time": np.array(True)}, "the batch norm of blocks/1 was never trained"),
        (
            LINEAR | {"linear_layer/weight": np.ones(5, np.float32)},
            r"linear_layer/weight has shape \(5,\), expected \(d_output, H\)",
        ),
        (
            {k: v for k, v in LINEAR.items() if k != "linear_encoder/bias"},
            r"linear_encoder/weight has shape \(6, 3\), expected \(6, 6\)",
        ),
        (
            EMBED | {"linear_encoder/bias": np.ones(4, np.float32)},
            r"linear_encoder/weight has shape \(11, 4\), expected \(4, 4\)",
        ),
        (
            below(LRU_MODELS["embed_dual"], "var/"),
            "dual_head, CompreSSM's three-layer head for two documents, is not supported",
        ),
        ({"weight": np.ones(2)}, r"missing array 'linear_layer/weight'; given: \['weight'\]"),
    ],
)
def test_compressms_arrays_of_another_architecture(variables, message):
    with refused(message):
        convert.lru_model(variables)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"ssm": LRUConfig(bidirectional=True)}, "ssm.bidirectional is False there, True here"),
        ({"retrieval": True, "activation": "glu"}, "'full_glu' there, 'glu' here; retrieval is False there, True here"),
        ({"state_sizes": (8, 6)}, r"blocks/1/lru/B_im has shape \(8, 6\), expected \(6, 6\)"),
        ({"state_sizes": (8,)}, "unknown blocks/1/glu/w1/bias"),
    ],
)
def test_lru_configs_that_do_not_fit(change, message, tmp_path):
    path = write_npz(tmp_path, LINEAR)
    with refused(message) as error:
        convert.from_file(path, dataclasses.replace(LRU_CONFIG, **change))
    assert str(path) in str(error.value)


def truncated_npz(folder):
    path = write_npz(folder, LINEAR)
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def one_array(folder):
    with open(folder / "model.npz", "wb") as file:
        np.save(file, np.ones(3))
    return folder / "model.npz"


def bomb_npz(folder):
    np.savez_compressed(folder / "model.npz", a=np.zeros(100_000_000, np.uint8))
    return folder / "model.npz"


def doubled_npz(folder):
    path = write_npz(folder, LINEAR)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"")
    return path


@pytest.mark.parametrize(
    "write,message",
    [
        (bomb_npz, "refused, because it unpacks to more than .* bytes, 10 times its own size"),
        (doubled_npz, r"refused, because its member '.*\.npy' occurs twice"),
        (truncated_npz, "is damaged or not an .npz file of numeric arrays: BadZipFile"),
        (one_array, "is damaged or not an .npz file of numeric arrays: "),
        (lambda folder: write_npz(folder, {"a": np.array(Bomb(), object)}), "Object arrays cannot be loaded"),
        (lambda folder: folder / "model.npz", r"no file or folder at .*model.npz: expected a NumPy .npz file"),
    ],
)
def test_invalid_npz_files_are_not_executed(write, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    with refused(message) as error:
        convert.from_file(path, LRU_CONFIG)
    assert str(path) in str(error.value) and not Path("exploded").exists()
