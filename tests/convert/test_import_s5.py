"""Checkpoints of Flax: those of the S5 reference and of AIRE-Prune give the same logits, or one clear error."""

import dataclasses
import json
import pickle
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from flax.training.train_state import TrainState

from aire import convert
from aire.io.weights import get_arrays
from aire.models import ModelConfig
from aire.ssm import LRUConfig, S4DConfig, S5Config
from configs.lra_listops_prune import get_config
from experiments.model_source import obtain_model
from tests.helpers import GOLDEN, Bomb, below, forward, golden, nest, refused

MODELS = golden("s5_models.npz")
BN = MODELS["pool_bn"]
STATE = GOLDEN / "aire_prune_state.msgpack"
STATE_CONFIG = ModelConfig(5, 4, 3, (4, 4), S5Config(bidirectional=True), activation="half_glu2")
S4D_CONFIG = ModelConfig(3, 4, 5, (16, 16), S4DConfig(), activation="glu", batchnorm=False)
LRU_CONFIG = ModelConfig(3, 6, 5, (8, 8), LRUConfig(), activation="full_glu", bn_momentum=0.99)


def s5_config(case):
    return ModelConfig(
        d_input=5,
        d_model=8,
        d_output=4,
        state_sizes=(4, 4, 4),
        ssm=S5Config(bidirectional=True),
        activation=str(case["opt/activation"]),
        prenorm=bool(case["opt/prenorm"]),
        batchnorm=bool(case["opt/batchnorm"]),
    )


def assert_same_logits(model, case):
    lengths = case["lengths"] if case.get("opt/padded", True) else None
    actual = jax.nn.log_softmax(forward(model, case["x"], lengths))
    assert np.abs(actual - case["log_probs"]).max() <= 1e-5 * np.abs(case["log_probs"]).max()


def training_state(variables) -> TrainState:
    """Make a training state like the references: parameters, two optimisers and batch statistics."""

    class BatchNormState(TrainState):
        batch_stats: Any

    params = variables["params"]
    labels = {name: "ssm" if name == "encoder" else "regular" for name in params}
    optimizers = {
        "ssm": optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
        "regular": optax.inject_hyperparams(optax.adamw)(learning_rate=1e-3),
    }
    make, more = TrainState, {}
    if "batch_stats" in variables:
        make, more = BatchNormState, {"batch_stats": variables["batch_stats"]}
    return make.create(apply_fn=None, params=params, tx=optax.multi_transform(optimizers, labels), **more)


def write_msgpack(folder, tree):
    (folder / "best_state.msgpack").write_bytes(serialization.to_bytes(tree))
    return folder / "best_state.msgpack"


def write_checkpoint_file(folder, tree):
    return write_msgpack(folder, tree).rename(folder / "checkpoint_7")


def write_pytree(folder, tree):
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder / "orbax", tree)
    return folder / "orbax"


def write_standard(folder, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "orbax", tree)
    return folder / "orbax"


def write_steps(folder, tree, steps=(7,)):
    with ocp.CheckpointManager(folder / "steps") as manager:
        for step in steps:
            manager.save(step, args=ocp.args.StandardSave(tree))
    return folder / "steps"


def write_one_step(folder, tree):
    return write_steps(folder, tree, (3, 7)) / "7"


def write_items(folder, tree):
    items = {name: ocp.args.StandardSave(part) for name, part in tree.items()}
    with ocp.CheckpointManager(folder / "steps") as manager:
        manager.save(7, args=ocp.args.Composite(**items))
    return folder / "steps" / "7"


def test_a_file_saved_by_aire_prune():
    assert_same_logits(convert.from_file(STATE, STATE_CONFIG), golden("aire_prune_state.npz")["best_state"])


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS.keys())
def test_training_states_give_the_same_logits(case, tmp_path):
    path = write_msgpack(tmp_path, training_state(nest(below(case, "var/"))))
    assert_same_logits(convert.from_file(path, s5_config(case)), case)


def assert_same_arrays(model, case):
    """Compare with the conversion from memory, whose logits `test_golden` compares."""
    config = model.config
    options = {"activation": config.activation, "prenorm": config.prenorm, "batchnorm": config.batchnorm}
    expected = get_arrays(convert.s5_model(below(case, "var/"), **options))
    actual = get_arrays(model)
    assert actual.keys() == expected.keys()
    for name, array in actual.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("write", [write_checkpoint_file, write_pytree, write_standard, write_steps, write_one_step])
def test_layouts_of_training_states(write, tmp_path):
    path = write(tmp_path, training_state(nest(below(BN, "var/"))))
    assert_same_arrays(convert.from_file(path, s5_config(BN)), BN)


@pytest.mark.parametrize("write", [write_msgpack, write_pytree, write_items])
def test_layouts_of_variables(write, tmp_path):
    path = write(tmp_path, nest(below(BN, "var/")))
    assert_same_arrays(convert.from_file(path, s5_config(BN)), BN)


def test_parameters_only_without_batch_norm(tmp_path):
    case = MODELS["padded_ln"]
    path = write_pytree(tmp_path, nest(below(case, "var/params/")))
    assert_same_arrays(convert.from_file(path, s5_config(case)), case)


def run_config(init, **model):
    config = get_config("smoke")
    config.init = str(init)
    config.model.update({"activation": "half_glu2", "pooling": "mean", **model})
    return config


class Task:
    d_input, n_classes = 5, 3


def test_a_run_starts_from_a_checkpoint(tmp_path):
    model, source = obtain_model(run_config(STATE, d_model=4, states=4, depth=2), Task, tmp_path)
    assert source == f"imported from {STATE}" and model.config.d_output == 3
    np.testing.assert_array_equal(
        get_arrays(model)["decoder/bias"], get_arrays(convert.from_file(STATE, STATE_CONFIG))["decoder/bias"]
    )


def test_a_run_lists_all_differences(tmp_path):
    with refused(r"layers_0/seq/B has shape \(4, 4, 2\), expected \(6, 4, 2\); .*layers_1/seq/B"):
        obtain_model(run_config(STATE, d_model=4, states=6, depth=2), Task, tmp_path)


B = "params/encoder/layers_1/seq/B"


def with_ssm(**options):
    return dataclasses.replace(STATE_CONFIG, ssm=S5Config(**{"bidirectional": True, **options}))


@pytest.mark.parametrize(
    "config,message",
    [
        (
            dataclasses.replace(STATE_CONFIG, state_sizes=(4, 4, 4)),
            "missing params/encoder/layers_2/norm/bias; .*seq/B;",
        ),
        (dataclasses.replace(STATE_CONFIG, state_sizes=(4,)), "unknown params/encoder/layers_1/norm/bias; .*seq/B;"),
        (dataclasses.replace(STATE_CONFIG, d_output=7), r"params/decoder/bias has shape \(3,\), expected \(7,\)"),
        (dataclasses.replace(STATE_CONFIG, activation="full_glu"), "missing params/encoder/layers_0/out1/bias"),
        (dataclasses.replace(STATE_CONFIG, batchnorm=False), "unknown batch_stats/encoder/layers_0/norm/mean"),
        (with_ssm(bidirectional=False), r"C holds 2 direction\(s\), but bidirectional=False"),
        (with_ssm(conj_sym=False), "all eigenvalues are on one side of the real axis, .* but conj_sym=False"),
        (S4D_CONFIG, "cannot import .*: expected a PyTorch .pt, .pth or .bin file"),
        (LRU_CONFIG, "cannot import .*: expected a NumPy .npz file"),
    ],
)
def test_configs_that_do_not_fit(config, message):
    with refused(message) as error:
        convert.from_file(STATE, config)
    assert str(STATE) in str(error.value)


def changed(**changes):
    return nest(below(BN, "var/") | {name.replace("__", "/"): array for name, array in changes.items()})


@pytest.mark.parametrize(
    "tree,message",
    [
        (
            changed(params__encoder__layers_1__seq__B=BN[f"var/{B}"][:, :, 0]),
            rf"{B} has shape \(4, 8\), expected \(4, 8,",
        ),
        (changed(params__encoder__layers_1__seq__B=BN[f"var/{B}"] * np.nan), f"{B} has 64 NaN or infinite values"),
        (changed(params__encoder__layers_1__seq__E=np.ones(3)), "unknown params/encoder/layers_1/seq/E"),
        (changed(ema__decoder__bias=np.ones(4)), r"besides the model and its training state, unknown \['ema'\]"),
        ({"model": changed()}, r"contains \['model'\], but no params of a model"),
        ({"params": {"Dense_0": {"kernel": np.ones((2, 2))}}}, "unknown params/Dense_0/kernel; missing batch_stats/"),
        ([1.0, 2.0], r"contains \['0', '1'\], but no params of a model"),
    ],
)
def test_checkpoints_of_something_else(tree, message, tmp_path):
    with refused(message):
        convert.from_file(write_msgpack(tmp_path, tree), s5_config(BN))


def test_complete_conjugate_pairs_need_conj_sym_false():
    variables, imag = below(BN, "var/"), np.array([-3, -1, 1, 3], np.float32)
    variables |= {name: imag for name in variables if name.endswith("Lambda_im")}
    with refused("the eigenvalues are complete conjugate pairs, but conj_sym=True"):
        convert.s5_model(variables, activation="half_glu2", prenorm=True, batchnorm=True)


def write_file(name, data):
    def write(folder):
        (folder / name).write_bytes(data)
        return folder / name

    return write


def write_object_array(folder):
    np.save(folder / "model.npy", np.array([Bomb()]), allow_pickle=True)
    return folder / "model.npy"


def damaged_orbax(folder):
    path = write_pytree(folder, nest(below(BN, "var/")))
    for data in [*path.glob("d/*"), *path.glob("ocdbt.*/d/*")]:
        data.write_bytes(data.read_bytes()[:20])
    return path


def huge_orbax(folder):
    """Arrays without data, which are filled with zeros when they are read."""
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(folder / "orbax", {"params": {"encoder": np.ones((2, 3), np.float32)}})
    for path in (folder / "orbax").rglob(".zarray"):
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"shape": [100_000, 100_000], "chunks": [1000, 1000]})
        )
    return folder / "orbax"


def folder_of_a_superscript(folder):
    (folder / "²").mkdir()
    return folder


@pytest.mark.parametrize(
    "write,message",
    [
        (huge_orbax, "refused, because it unpacks to more than .* bytes, 10 times its own size"),
        (folder_of_a_superscript, r"is not an Orbax checkpoint: expected one item, or params; found \['²'\]"),
        (write_file("a.msgpack", STATE.read_bytes()[:5000]), "is damaged or not a Flax msgpack file: "),
        (write_file("a.msgpack", b""), "is damaged or not a Flax msgpack file: "),
        (write_file("a.msgpack", pickle.dumps(Bomb())), "is damaged or not a Flax msgpack file: "),
        (write_file("checkpoint_3", pickle.dumps(Bomb())), "is damaged or not a Flax msgpack file: "),
        (
            write_file("a.pkl", pickle.dumps(Bomb())),
            "a.pkl: expected .* Pickles are not read, because they can run code",
        ),
        (write_object_array, "model.npy: expected a Flax .msgpack or checkpoint_N file, or an Orbax folder"),
        (lambda folder: folder / "nowhere.msgpack", "no file or folder at .*nowhere.msgpack: expected a Flax .msgpack"),
        (lambda folder: folder, r"is not an Orbax checkpoint: expected one item, or params; found \[\]"),
        (lambda folder: write_steps(folder, {"a": np.ones(2)}, (3, 7)), r"name one, such as .*7; found \[3, 7\]"),
        (damaged_orbax, "is damaged or not an Orbax checkpoint: "),
    ],
)
def test_invalid_files_are_not_executed(write, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path)
    with refused(message) as error:
        convert.from_file(path, s5_config(BN))
    assert str(path) in str(error.value) and not Path("exploded").exists()
