"""Model files, and errors of the importers of single layers."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import aire
from aire import convert, zoo
from aire.io.weights import get_arrays, run_as
from tests.helpers import below, forward, golden, nest, refused

TOKENS = np.random.default_rng(0).integers(0, 20, (2, 9))


def saved_and_loaded(model, tmp_path):
    """Return the model from its file, in evaluation mode: dropout would need a key."""
    aire.save(model, tmp_path / "model.safetensors")
    loaded = aire.load(tmp_path / "model.safetensors")
    assert loaded.config == model.config
    np.testing.assert_array_equal(forward(loaded, TOKENS), forward(model, TOKENS))
    return loaded


@pytest.mark.parametrize("ssm", [{}, {"kind": "lru", "r_min": 0.2}], ids=["s5", "lru"])
def test_pruned_models(make_model, tmp_path, ssm):
    model = aire.prune(make_model((6, 0, 4), dropout=0.3, ssm=ssm), 0.6).model
    loaded = saved_and_loaded(model, tmp_path)
    assert aire.prune(loaded, 0.5).states[1] == round(0.5 * sum(model.config.state_sizes))


def test_an_s4d_model_with_ragged_and_empty_channels(make_model, tmp_path):
    """Keep 9 of 20 states, in channels of 4, 0, 3, 2 and 0, in the first layer and none in the second."""
    model = make_model((20, 20), d_model=5, ssm={"kind": "s4d"})
    keep = np.concatenate([np.arange(4) < count for count in (4, 0, 3, 2, 0)])
    model = aire.cut(model, {"blocks/0/ssm": keep, "blocks/1/ssm": np.zeros(20, bool)})
    loaded = saved_and_loaded(model, tmp_path)
    assert loaded.config.state_sizes == (9, 0)
    np.testing.assert_array_equal(loaded.blocks[0].ssm.channel[...], [0, 0, 0, 0, 2, 2, 2, 3, 3])
    assert aire.prune(loaded, 0.5).model.config.state_sizes == (4, 0)


def read(path):
    """Return the arrays of a file, and its config as metadata of the first version, which had no digests."""
    with safetensors.safe_open(path, "numpy") as file:
        config = json.loads(file.metadata()["aire.model.2"])["config"]
        return {name: file.get_tensor(name) for name in file.keys()}, {"aire.ModelConfig.1": json.dumps(config)}  # noqa: SIM118


@pytest.mark.parametrize(
    "channel,message",
    [
        ([0, 1, 2, 3, 4, 8], "blocks/0/ssm/channel is not ascending from 0 to 7"),
        ([-1, 1, 2, 3, 4, 5], "blocks/0/ssm/channel is not ascending from 0 to 7"),
        ([0, 1, 3, 2, 4, 5], "blocks/0/ssm/channel is not ascending from 0 to 7"),
        ([0.0, 1, 2, 3, 4, 5], "blocks/0/ssm/channel has dtype float64, expected int32"),
        ([0, 1, 2], r"blocks/0/ssm/channel has shape \(3,\), expected \(6,\)"),
    ],
)
def test_invalid_channels(make_model, tmp_path, channel, message):
    path = tmp_path / "model.safetensors"
    aire.save(make_model((6,), ssm={"kind": "s4d"}), path)
    arrays, metadata = read(path)
    arrays["blocks/0/ssm/channel"] = np.array(channel, None if isinstance(channel[0], float) else np.int32)
    path.write_bytes(safetensors.numpy.save(arrays, metadata))
    with refused(message):
        aire.load(path)


@pytest.mark.parametrize("name", ["fashion_mnist_small", "fashion_mnist_s4d_small"])
def test_at_another_rate_two_steps_are_one(name):
    def rescaled(model, factor):
        ssm = dataclasses.replace(model.config.ssm, step_rescale=factor)
        return run_as(model, dataclasses.replace(model.config, ssm=ssm))

    model = aire.load(zoo.path(name))
    half = rescaled(model, 2.0)
    once, twice = (jax.jit(lambda s: s.modes().Lambda_bar)(m.blocks[0].ssm) for m in (model, half))
    np.testing.assert_allclose(twice, once**2, rtol=1e-4, atol=1e-6)
    assert model.config.ssm.step_rescale == 1 and half.config.ssm.step_rescale == 2
    back = get_arrays(rescaled(half, 1.0))
    assert all(np.array_equal(array, back[path]) for path, array in get_arrays(model).items())


def damage(path, kind):
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "not safetensors":
        path.write_bytes(b"\x80\x04pickled")
    else:
        arrays, metadata = read(path)
        if kind == "foreign":
            metadata = {"format": "pt"}
        if kind == "nan":
            arrays["blocks/0/ssm/D"][2] = np.nan
        if kind == "other shape":
            arrays["blocks/0/ssm/D"] = arrays["blocks/0/ssm/D"][:3]
        if kind == "other names":
            arrays["blocks/0/ssm/E"] = arrays.pop("blocks/0/ssm/D")
        if kind == "other dtype":
            arrays["blocks/0/ssm/D"] = arrays["blocks/0/ssm/D"].astype(np.int32)
        if kind == "other config":
            metadata = {key: value.replace("d_model", "width") for key, value in metadata.items()}
        path.write_bytes(safetensors.numpy.save(arrays, metadata))


@pytest.mark.parametrize(
    "kind,message",
    [
        ("truncated", "is damaged or not a safetensors file"),
        ("not safetensors", "is damaged or not a safetensors file"),
        ("foreign", "is not a model written by aire.save"),
        ("nan", "blocks/0/ssm/D has 1 NaN or infinite values"),
        ("other shape", r"blocks/0/ssm/D has shape \(3,\), expected \(8,\)"),
        ("other names", "unknown blocks/0/ssm/E; missing blocks/0/ssm/D"),
        ("other dtype", "blocks/0/ssm/D has dtype int32"),
        ("other config", "has a config that this version does not support"),
    ],
)
def test_invalid_files(make_model, tmp_path, kind, message):
    path = tmp_path / "model.safetensors"
    aire.save(make_model((2,)), path)
    damage(path, kind)
    with refused(message) as error:
        aire.load(path)
    assert str(path) in str(error.value)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model file at .*nowhere"):
        aire.load(tmp_path / "nowhere.safetensors")


def test_paths_that_cannot_be_written(make_model, tmp_path):
    (tmp_path / "file").write_text("")
    with refused(r"cannot write .*model\.safetensors"):
        aire.save(make_model((2,)), tmp_path / "file" / "model.safetensors")


def test_only_models_with_a_config_can_be_saved(make_layer, make_model, tmp_path):
    with refused("cannot save a S5"):
        aire.save(make_layer(), tmp_path / "layer.safetensors")
    with refused("cannot save a Block"):
        aire.save(make_model((2,)).blocks[0], tmp_path / "block.safetensors")


LAYER = below(golden("s5_layers.npz")["bi_zoh"], "param/")
OPTIONS = {"conj_sym": True, "bidirectional": True, "discretization": "zoh"}


@pytest.mark.parametrize(
    "params,message",
    [
        ({k: v for k, v in LAYER.items() if k != "D"}, "missing D"),
        ({k: v for k, v in LAYER.items() if k != "C2"}, "missing C2"),
        ({k: v for k, v in LAYER.items() if k != "B"}, "missing array 'B'"),
        (LAYER | {"E": LAYER["D"]}, "unknown E"),
        (LAYER | {"Lambda_im": LAYER["Lambda_im"][:2]}, r"Lambda_im has shape \(2,\), expected \(4,\)"),
        ({}, "missing array 'Lambda_re'"),
    ],
)
def test_importing_invalid_s5_layers(params, message):
    with refused(message):
        convert.s5_layer(params, **OPTIONS)


def test_importing_the_wrong_directions():
    with refused(r"C holds 2 direction\(s\), but bidirectional=False"):
        convert.s5_layer(LAYER, **OPTIONS | {"bidirectional": False})


BANK = below(golden("s4d_layers.npz")["small"], "state_dict/")


@pytest.mark.parametrize(
    "state_dict,message",
    [
        ({k: v for k, v in BANK.items() if k not in ("D", "kernel.C")}, "missing D; missing kernel.C"),
        ({k: v for k, v in BANK.items() if k != "kernel.log_A_real"}, "missing array 'kernel.log_A_real'"),
        (BANK | {"kernel.B": BANK["D"]}, "unknown kernel.B"),
        (BANK | {"kernel.log_dt": BANK["D"][:2]}, r"kernel.log_dt has shape \(2,\), expected \(4,\)"),
        (BANK | {"kernel.C": BANK["kernel.C"][..., 0]}, r"kernel.C has shape \(4, 4\), expected \(4, 4, 2\)"),
        (BANK | {"kernel.log_A_real": BANK["D"]}, r"kernel.log_A_real has shape \(4,\), expected \(H, N/2\)"),
        (BANK | {"D": np.full(4, np.nan, np.float32)}, "D has 4 NaN or infinite values"),
        (LAYER, "missing array 'kernel.log_A_real'"),
    ],
)
def test_importing_invalid_s4d_layers(state_dict, message):
    with refused(message):
        convert.s4d_layer(state_dict)


LRU = below(golden("lru_layers.npz")["perturbed_N_lt_H"], "param/")


@pytest.mark.parametrize(
    "params,message",
    [
        ({k: v for k, v in LRU.items() if k not in ("D", "gamma_log")}, "missing D; missing gamma_log"),
        ({k: v for k, v in LRU.items() if k != "B_re"}, "missing array 'B_re'"),
        (LRU | {"E": LRU["D"]}, "unknown E"),
        (LRU | {"nu_log": LRU["nu_log"][:2]}, r"nu_log has shape \(2,\), expected \(3,\)"),
        (LRU | {"C_im": LRU["C_im"].T}, r"C_im has shape \(3, 7\), expected \(7, 3\)"),
        (LRU | {"B_re": LRU["D"]}, r"B_re has shape \(7,\), expected \(N, H\)"),
        (LRU | {"theta_log": np.full(3, -np.inf, np.float32)}, "theta_log has 3 NaN or infinite values"),
        (LAYER, "missing array 'B_re'"),
    ],
)
def test_importing_invalid_lru_layers(params, message):
    with refused(message):
        convert.lru_layer(params)


def test_nested_and_flat_state_dicts():
    case = golden("s4d_layers.npz")["small"]
    nested = nest({name.replace(".", "/"): array for name, array in BANK.items()})
    u = case["u"].swapaxes(1, 2)
    np.testing.assert_array_equal(forward(convert.s4d_layer(nested), u), forward(convert.s4d_layer(BANK), u))


def test_nested_and_flat_variables():
    case = golden("s5_models.npz")["pool_bn"]
    flat = below(case, "var/")
    options = {"activation": "half_glu2", "prenorm": True, "batchnorm": True, "pooling": "mean", "bidirectional": True}
    a, b = convert.s5_model(flat, **options), convert.s5_model(nest(flat), **options)
    np.testing.assert_array_equal(forward(a, case["x"]), forward(b, case["x"]))
    with refused("unknown batch_stats/encoder/layers_0/norm/mean"):
        convert.s5_model(flat, **options | {"batchnorm": False})


def test_importing_a_model_without_layers():
    with refused("missing array"):
        convert.s5_model({"params": {}}, activation="gelu", prenorm=True, batchnorm=True)
