"""Mamba language models of Hugging Face: parity with stored outputs and with the library, files, refusals, export."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

import aire
from aire import ModelConfig, S6Config
from aire.convert import from_file, mamba, to_hugging_face
from tests.helpers import Bomb, golden, logits, refused

CASES = golden("mamba_models.npz")


def parts(case: str) -> tuple[dict, dict]:
    """A state dict and a config."""
    arrays = CASES[case]
    state_dict = {name.removeprefix("state_dict/"): a for name, a in arrays.items() if name.startswith("state_dict/")}
    return state_dict, json.loads(str(arrays["config"]))


def write(folder: Path, state_dict: dict, config: dict | None = None, name: str = "model.safetensors") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(safetensors.numpy.save(state_dict))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module", params=CASES)
def case(request) -> tuple:
    return request.param, mamba(*parts(request.param))


def test_logits_and_generated_tokens_are_the_references(case):
    name, model = case
    tokens, expected = CASES[name]["tokens"], CASES[name]["logits"]
    np.testing.assert_allclose(logits(model, tokens), expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(model.generate(tokens, 8), CASES[name]["generated"])


def test_the_export_is_what_was_imported(case, tmp_path):
    name, model = case
    to_hugging_face(model, tmp_path)
    written, (expected, config) = safetensors.numpy.load_file(tmp_path / "model.safetensors"), parts(name)
    assert written.keys() == expected.keys()
    for key, array in expected.items():
        np.testing.assert_array_equal(written[key], array, err_msg=key)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert {key: saved[key] for key in config} == config
    assert from_file(tmp_path).config == model.config


def test_a_uniform_cut_goes_back_and_an_uneven_one_does_not(tmp_path):
    model, tokens = mamba(*parts("plain")), CASES["plain"]["tokens"]
    uniform = aire.prune(model, 1 / 3, "measured", scope="uniform", calibration=[tokens]).model
    to_hugging_face(uniform, tmp_path)
    back = from_file(tmp_path)
    assert back.config.state_sizes == (2, 2)
    np.testing.assert_array_equal(logits(back, tokens), logits(uniform, tokens))
    keep = {"blocks/0/ssm": np.array([True, False, False]), "blocks/1/ssm": np.ones(3, bool)}
    with refused(r"layers of \[1, 3\] states: .* cut with scope='uniform'"):
        to_hugging_face(aire.cut(model, keep), tmp_path)


def test_reads_every_form_of_a_checkpoint(tmp_path):
    """Names of state-spaces/mamba and its config, no head, no prefix, parts, bfloat16, a file alone."""
    arrays, config = parts("plain")
    expected = logits(mamba(arrays, config), CASES["plain"]["tokens"])

    def same(source, config=None, atol=0.0):
        np.testing.assert_allclose(logits(mamba(source, config), CASES["plain"]["tokens"]), expected, atol=atol)

    theirs = {name.replace("embeddings", "embedding"): a for name, a in arrays.items()}
    table = theirs["backbone.embedding.weight"]
    own = {"d_model": 4, "n_layer": 2, "vocab_size": 9, "ssm_cfg": {"d_state": 3}, "rms_norm": True}
    same(theirs | {"lm_head.weight": table}, own)
    same(arrays)
    same({name.removeprefix("backbone."): a for name, a in arrays.items()})
    same(write(tmp_path / "file", arrays) / "model.safetensors")
    names = sorted(arrays)
    split = {"a-1.safetensors": names[:7], "a-2.safetensors": names[7:]}
    for file, own_names in split.items():
        write(tmp_path / "parts", {n: arrays[n] for n in own_names}, config, file)
    index = {"weight_map": {n: file for file, own_names in split.items() for n in own_names}}
    (tmp_path / "parts" / "model.safetensors.index.json").write_text(json.dumps(index))
    same(tmp_path / "parts")
    half = {name: a.astype(ml_dtypes.bfloat16) for name, a in arrays.items()}
    same(write(tmp_path / "half", half, config), atol=0.05 * float(np.abs(expected).max()))


def test_an_untied_head_is_not_lost():
    arrays, config = parts("other")
    del config["tie_word_embeddings"]
    assert not mamba(arrays, config).config.tied
    with refused("lm_head.weight differs from the embedding, but the config ties them"):
        mamba(arrays, config | {"tie_word_embeddings": True})


def test_other_architectures_are_refused_in_one_line(tmp_path):
    arrays, config = parts("plain")
    second = arrays | {f"backbone.layers.{i}.mixer.A_log": np.zeros(4, np.float32) for i in range(2)}
    with refused(r"is not a Mamba model: backbone\.layers\.0\.mixer\.A_log has one dimension\. Mamba-2"):
        mamba(second)
    for other in ({"model_type": "falcon_mamba"}, {"model_type": "mamba2"}, {"ssm_cfg": {"layer": "Mamba2"}}):
        with refused("is not a Mamba model: its config says '(falcon_mamba|mamba2|Mamba2)'"):
            mamba(write(tmp_path / "other", arrays, other))
    for option, words in (({"hidden_act": "relu"}, "hidden_act='silu'"), ({"rms_norm": False}, "rms_norm=True")):
        with refused(f"is not supported; expected {words}"):
            mamba(arrays, config | option)


def test_every_array_and_option_is_accounted_for(tmp_path):
    arrays, config = parts("plain")
    with refused("unknown backbone.layers.0.mixer.extra"):
        mamba(arrays | {"backbone.layers.0.mixer.extra": np.zeros(2)}, config)
    with refused("missing backbone.layers.1.mixer.conv1d.bias"):
        mamba({n: a for n, a in arrays.items() if n != "backbone.layers.1.mixer.conv1d.bias"}, config)
    with refused("missing array 'backbone.embedding.weight'"):
        mamba({n: a for n, a in arrays.items() if "embeddings" not in n}, config)
    with refused("x_proj.weight has shape"):
        mamba(arrays | {"backbone.layers.1.mixer.x_proj.weight": np.zeros((6, 8))}, config)
    with refused("the arrays do not fit the config: state_size is 3 there, 16 here"):
        mamba(arrays, config | {"state_size": 16})
    with refused("NaN or infinite"):
        mamba(arrays | {"backbone.norm_f.weight": np.full(4, np.nan)}, config)


def test_damaged_checkpoints_are_refused(tmp_path):
    arrays, config = parts("plain")
    with refused("no file or folder"):
        from_file(tmp_path / "nothing")
    with refused("has no model.safetensors"):
        from_file(tmp_path)
    (tmp_path / "model.msgpack").touch()
    with refused("model.msgpack: pass config=aire.ModelConfig.*without a config, expected a Mamba language model"):
        from_file(tmp_path / "model.msgpack")
    with refused("classifiers with layers of kind 's6' have no importer; aire.convert.mamba reads"):
        from_file(tmp_path, ModelConfig(2, 4, 2, (3,), S6Config()))
    write(tmp_path / "a", arrays, config)
    file = tmp_path / "a" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with refused("damaged or not a safetensors file"):
        from_file(tmp_path / "a")
    (tmp_path / "b").mkdir()
    for file, message in (("../x.safetensors", "refused, because"), ("x.safetensors", "which is missing")):
        (tmp_path / "b" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
        with refused(message):
            from_file(tmp_path / "b")
    write(tmp_path / "b", {"b": np.zeros(1, np.float32)}, name="x.safetensors")
    with refused("its arrays are not those that .* names: a, b"):
        from_file(tmp_path / "b")


def test_a_pickle_is_not_run(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    arrays, config = parts("plain")
    torch.save({name: torch.as_tensor(a) for name, a in arrays.items()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config))
    expected = logits(mamba(arrays, config), CASES["plain"]["tokens"])
    np.testing.assert_array_equal(logits(from_file(tmp_path), CASES["plain"]["tokens"]), expected)
    torch.save({"a": Bomb()}, tmp_path / "pytorch_model.bin")
    with refused("contains more than tensors"):
        from_file(tmp_path)
    assert not (tmp_path / "exploded").exists()


LIVE = (
    {"vocab_size": 50, "hidden_size": 32, "state_size": 16, "num_hidden_layers": 3},
    {"vocab_size": 11, "hidden_size": 20, "state_size": 5, "num_hidden_layers": 2, "expand": 4, "time_step_rank": 7},
    {"vocab_size": 30, "hidden_size": 16, "state_size": 8, "num_hidden_layers": 1, "conv_kernel": 2, "use_bias": True},
    {"vocab_size": 30, "hidden_size": 16, "state_size": 1, "num_hidden_layers": 2, "use_conv_bias": False}
    | {"tie_word_embeddings": False},
)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", LIVE)
def test_agrees_with_transformers_in_both_directions(options, tmp_path):
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tests.golden.make_mamba import make, run

    theirs = make(1, **options)
    theirs.save_pretrained(tmp_path / "theirs")
    model = from_file(tmp_path / "theirs")
    tokens = np.random.default_rng(0).integers(0, options["vocab_size"], (2, 19))
    expected, generated = run(theirs, tokens, 12)
    np.testing.assert_allclose(logits(model, tokens), expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(model.generate(tokens, 12), generated)
    share = 0.5 if options["state_size"] > 1 else 0.0
    half = aire.prune(model, share, "measured", scope="uniform", calibration=[tokens]).model
    to_hugging_face(half, tmp_path / "ours")
    back, info = transformers.MambaForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    back.generation_config.eos_token_id = None
    expected, generated = run(back.eval(), tokens, 12)
    np.testing.assert_allclose(logits(half, tokens), expected, atol=1e-4, rtol=1e-4)
    np.testing.assert_array_equal(half.generate(tokens, 12), generated)
