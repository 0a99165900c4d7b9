"""State dicts and PyTorch files of the S4D reference: the same logits, or one clear error."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from aire import convert
from aire.models import ModelConfig
from aire.ssm import S4DConfig, S5Config
from tests.helpers import Bomb, below, forward, golden, refused

S4D_MODELS = golden("s4d_model.npz")
S4D_CONFIG = ModelConfig(3, 4, 5, (16, 16), S4DConfig(), activation="glu", batchnorm=False)
POSTNORM = below(S4D_MODELS["postnorm"], "state_dict/")


@pytest.mark.parametrize(
    "state_dict,message",
    [
        (POSTNORM | {"s4_layers.1.kernel.B": np.ones((4, 4), np.float32)}, "unknown s4_layers.1.kernel.B"),
        (
            {k: v for k, v in POSTNORM.items() if "norms" not in k},
            "missing norms.0.bias; missing norms.0.weight; .*norms.1",
        ),
        (POSTNORM | {"s4_layers.1.D": np.ones(3, np.float32)}, r"s4_layers.1.D has shape \(3,\), expected \(4,\)"),
        (POSTNORM | {"decoder.weight": np.ones(5, np.float32)}, r"decoder.weight has shape \(5,\), expected \(5, 4\)"),
        (
            POSTNORM | {"encoder.weight": np.ones(4, np.float32)},
            r"encoder.weight has shape \(4,\), expected \(H, d_input\)",
        ),
        ({"conv1.weight": np.ones((2, 2))}, r"missing array 'encoder.weight'; given: \['conv1.weight'\]"),
    ],
)
def test_state_dicts_of_another_architecture(state_dict, message):
    with refused(message):
        convert.s4d_model(state_dict, prenorm=False)


def test_pytorch_files_need_an_s4d_config_and_pytorch(tmp_path, monkeypatch):
    (tmp_path / "model.pth").write_bytes(b"")
    with refused(r"cannot import .*: expected a Flax .msgpack or checkpoint_N file"):
        convert.from_file(tmp_path / "model.pth", ModelConfig(5, 4, 3, (4, 4), S5Config()))
    monkeypatch.setitem(sys.modules, "torch", None)
    with refused(r"needs PyTorch 2\.6 or newer: pip install torch"):
        convert.from_file(tmp_path / "model.pth", S4D_CONFIG)
    old = type(sys)("torch")
    old.__version__ = "2.5.1+cpu"
    monkeypatch.setitem(sys.modules, "torch", old)
    with refused(r"needs PyTorch 2\.6 or newer: .* \(found 2\.5\.1\+cpu\)"):
        convert.from_file(tmp_path / "model.pth", S4D_CONFIG)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def write_torch(torch, folder, saved, **options):
    torch.save(saved, folder / "ckpt.pth", **options)
    return folder / "ckpt.pth"


def tensors(torch, arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.mark.parametrize("alone", [True, False], ids=["state dict", "as example.py saves it"])
@pytest.mark.parametrize("case", S4D_MODELS.values(), ids=S4D_MODELS.keys())
def test_pytorch_files_give_the_same_logits(alone, case, torch, tmp_path):
    state_dict = tensors(torch, below(case, "state_dict/"))
    path = write_torch(torch, tmp_path, state_dict if alone else {"model": state_dict, "acc": 51.2, "epoch": 3})
    model = convert.from_file(path, dataclasses.replace(S4D_CONFIG, prenorm=bool(case["prenorm"])))
    assert np.abs(forward(model, case["x"]) - case["logits"]).max() <= 1e-5 * np.abs(case["logits"]).max()


@pytest.mark.parametrize(
    "change,message",
    [
        ({"ssm": S4DConfig(bidirectional=True)}, "ssm.bidirectional is False there, True here"),
        (
            {"batchnorm": True, "activation": "full_glu"},
            "activation is 'glu' there, 'full_glu' here; batchnorm is False",
        ),
        ({"state_sizes": (12, 16)}, r"s4_layers.0.kernel.C has shape \(4, 4, 2\), expected \(4, 3, 2\)"),
    ],
)
def test_s4d_configs_that_do_not_fit(change, message, torch, tmp_path):
    path = write_torch(torch, tmp_path, tensors(torch, POSTNORM))
    with refused(message) as error:
        convert.from_file(path, dataclasses.replace(S4D_CONFIG, **change))
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    "make,message",
    [
        (
            lambda torch: {"model": {}, "hook": Bomb()},
            "contains more than tensors, or is damaged. It is not loaded, because that could run code",
        ),
        (
            lambda torch: torch.nn.Linear(2, 2),
            "contains more than tensors, or is damaged. It is not loaded, because that could run code",
        ),
        (lambda torch: [torch.ones(2)], "contains a list, not a state dict"),
        (lambda torch: {"model": {}, "optimizer": {}}, r"contains, besides the model, unknown \['optimizer'\]"),
        (
            lambda torch: {"state_dict": {"a": torch.ones(2)}},
            "state_dict has type dict, expected a float32 or float64 tensor",
        ),
        (lambda torch: {"a": torch.ones(2)}, "unknown a; missing decoder.bias; missing decoder.weight"),
    ],
)
def test_pytorch_files_of_something_else(make, message, torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with refused(message):
        convert.from_file(write_torch(torch, tmp_path, make(torch)), S4D_CONFIG)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_pytorch_files(zipped, torch, tmp_path):
    path = write_torch(torch, tmp_path, tensors(torch, POSTNORM), _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-2000])
    with refused(r"ckpt.pth is damaged or not a PyTorch state dict: "):
        convert.from_file(path, S4D_CONFIG)
