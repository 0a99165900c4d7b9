"""Model files with flipped bits, and files that were made to do harm: each is one error, and costs little."""

import json
import random
import resource
import struct

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import aire
from aire import zoo
from aire.io import model_file
from aire.io.weights import abstract_model, fill_model, get_arrays, variables_of
from aire.models import ModelConfig
from aire.ssm import hippo, ssm_config
from aire.utils import digests
from aire.utils.errors import UserError
from experiments.tools.add_digests import add_digests
from tests.helpers import refused

F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """The file of a small model."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    config = ModelConfig(3, 4, 2, (3,), ssm_config({"kind": "lru"}), activation="gelu")
    rng = np.random.default_rng(0)
    expected = variables_of(abstract_model(config))
    arrays = {name: rng.normal(size=variable.shape).astype(np.float32) for name, variable in expected.items()}
    aire.save(fill_model(config, arrays, "drawn"), path)
    return path.read_bytes()


def packed(header, data: bytes = b"") -> bytes:
    """A file with this header, an object or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_a_flipped_bit_is_found_wherever_it_is(content, tmp_path):
    """Or it is white space at the end of the header."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    original = get_arrays(aire.load(path))
    start = 8 + int.from_bytes(content[:8], "little")  # of the data
    draw = random.Random(0)
    places = [draw.randrange(8 * start) for _ in range(60)]
    places += [draw.randrange(8 * start, 8 * len(content)) for _ in range(30)]
    harmless = 0
    for place in places:
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            arrays = get_arrays(aire.load(path))
        except UserError as error:
            assert "\n" not in str(error) and str(path) in str(error)
            continue
        harmless += 1
        assert place // 8 < start and all(np.array_equal(original[name], arrays[name]) for name in original)
    assert harmless <= 3


def test_two_arrays_that_changed_places_are_found(content, tmp_path):
    """The shapes fit, and every number is one that was written."""
    path = tmp_path / "model.safetensors"
    B_re, B_im = (b'"blocks/0/ssm/%s":{"dtype"' % name for name in (b"B_re", b"B_im"))
    assert content.count(B_re) == content.count(B_im) == 1
    path.write_bytes(content.replace(B_re, b"<between>").replace(B_im, B_re).replace(b"<between>", B_im))
    with refused(r"is damaged: different from what was written: blocks/0/ssm/B_.., blocks/0/ssm/B_..$"):
        aire.load(path)


def test_files_of_the_first_version_load_with_a_warning_and_gain_digests(content, tmp_path, caplog):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with safetensors.safe_open(path, "numpy") as file:
        config = json.loads(file.metadata()["aire.model.2"])["config"]
    arrays = safetensors.numpy.load(content)
    path.write_bytes(safetensors.numpy.save(arrays, {"aire.ModelConfig.1": json.dumps(config)}))
    model = aire.load(path)
    assert [f"{path} has no digests" in record.getMessage() for record in caplog.records] == [True]
    assert all(np.array_equal(array, get_arrays(model)[name]) for name, array in arrays.items())
    add_digests(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo_has_digests(name):
    with safetensors.safe_open(zoo.path(name), "numpy") as file:
        record = json.loads(file.metadata()["aire.model.2"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert digests.unseal(record, name, required=True)["arrays"] == {k: digests.of_array(a) for k, a in arrays.items()}


def test_what_load_would_refuse_is_not_saved(make_model, tmp_path):
    model = make_model((2,))
    model.blocks[0].ssm.D[...] = model.blocks[0].ssm.D[...].at[1].set(np.nan)
    with refused("the model to save .* blocks/0/ssm/D has 1 NaN"):
        aire.save(model, tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_abstract_model_computes_nothing(monkeypatch):
    """Whatever its sizes: full arrays would have terabytes."""
    monkeypatch.setattr(hippo, "hippo_n", lambda n: pytest.fail("computed an eigendecomposition"))
    for ssm in ({"kind": "s5", "blocks": 2}, {"kind": "s4d"}, {"kind": "lru"}):
        config = ModelConfig(2**24, 2**16, 2**24, (2**24, 2**24), ssm_config(ssm))
        assert variables_of(abstract_model(config))["blocks/1/ssm/C_re"].shape[-1] == 2**24


CONFIG = {"d_input": 3, "d_model": 4, "d_output": 2, "state_sizes": [3], "ssm": {"kind": "lru"}}
DEEP = "[" * 100_000
HEADERS = {
    "nothing": (b"", "no complete header"),
    "not JSON": (b"{nonsense", "its header is not valid JSON"),
    "no object": (b"[1, 2]", "no complete header"),
    "nested": (b'{"a":' + DEEP.encode(), "nested too deeply"),
    "a huge number": (b'{"a": ' + b"9" * 5000 + b"}", "its header is not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', "its header is not valid JSON"),
    "a name twice": (b'{"a": %s, "a": %s}' % ((json.dumps(F32).encode(),) * 2), "the name 'a' occurs twice"),
    "8-bit floats": ({"a": F32 | {"dtype": "F8_E4M3"}}, "array 'a' has dtype F8_E4M3, expected one of BF16, BOOL, F16"),
    "a dtype that is a list": ({"a": F32 | {"dtype": ["F32"]}}, "has dtype"),
    "a negative size": ({"a": F32 | {"shape": [-1]}}, r"array 'a' has shape \[-1\]"),
    "a size that is no integer": ({"a": F32 | {"shape": [1.0]}}, r"array 'a' has shape \[1.0\]"),
    "a huge size": ({"a": F32 | {"shape": [10**30]}}, "array 'a' has shape"),
    "an array that is a text": ({"a": "F32"}, "array 'a' has shape None"),
    "a name with a line break": ({"a\nb": F32}, r"an array has the name 'a\\nb'"),
    "metadata that are no texts": ({"__metadata__": {"aire.model.2": 1}}, "its metadata are not texts"),
    "metadata that are a list": ({"__metadata__": []}, "its metadata are not texts"),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name, tmp_path):
    header, message = HEADERS[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(header, b"\0" * 4))
    with refused(message) as error:
        aire.load(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.parametrize("length", [2**22 + 1, 2**62, 2**64 - 1])
def test_the_length_of_the_header_is_limited(length, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}")
    with refused("a header of .* bytes, where at most 4,194,304 are read"):
        aire.load(path)


CONFIGS = {
    "empty": ("", "is not valid JSON"),
    "nested": (DEEP, "nested too deeply"),
    "a huge number": ("9" * 5000, "is not valid JSON"),
    "a list": ("[]", "expected a mapping"),
    "no fields": ("{}", "does not support"),
    "an unknown field": (CONFIG | {"width": 3}, "unknown 'width': expected some of"),
    "a layer that is a text": (CONFIG | {"ssm": "abc"}, "ssm='abc': expected a mapping"),
    "an unknown kind": (CONFIG | {"ssm": {"kind": "rnn"}}, "ssm.kind='rnn'"),
    "a kind that is a list": (CONFIG | {"ssm": {"kind": []}}, r"ssm.kind=\[\]"),
    "prenorm": (CONFIG | {"prenorm": "x"}, "prenorm='x': expected True or False"),
    "batchnorm": (CONFIG | {"batchnorm": "no"}, "batchnorm='no': expected True or False"),
    "bn_momentum": (CONFIG | {"bn_momentum": None}, "bn_momentum=None"),
    "conj_sym": (CONFIG | {"ssm": {"kind": "s5", "conj_sym": None}}, "conj_sym=None"),
    "step_rescale": (CONFIG | {"ssm": {"kind": "s5", "step_rescale": None}}, "step_rescale=None"),
    "directions": (CONFIG | {"ssm": {"kind": "s5", "bidirectional": 10**9}}, "bidirectional=1000000000"),
    "a float size": (CONFIG | {"d_model": 4.0}, "d_model=4.0"),
    "a negative size": (CONFIG | {"d_model": -4}, "d_model=-4"),
    "huge layers": (CONFIG | {"state_sizes": [100_000] * 4}, "4 layers, its arrays have 0"),
    "many layers": (CONFIG | {"state_sizes": [1] * 1000}, "1,000 layers, its arrays have 0"),
    "too many layers": (CONFIG | {"state_sizes": [1] * 100_000}, "does not support"),
    "blocks": (CONFIG | {"ssm": {"kind": "s5", "blocks": 10**6}}, "blocks=1000000"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs(name, tmp_path):
    config, message = CONFIGS[name]
    text = config if isinstance(config, str) else json.dumps(config)
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed({"__metadata__": {"aire.ModelConfig.1": text}, "a": F32}, b"\0" * 4))
    with refused(message) as error:
        aire.load(path)
    assert str(path) in str(error.value) and len(str(error.value)) < 1000


def test_sizes_are_bounded_by_the_arrays(tmp_path, monkeypatch):
    """No model is built, and no memory reserved, even if all names fit."""
    monkeypatch.setattr(model_file, "abstract_model", lambda config: pytest.fail("built a model"))
    names = ["nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im"]
    path = tmp_path / "model.safetensors"
    arrays = {f"blocks/{i}/ssm/{name}": np.zeros(4, np.float32) for i in range(2) for name in names}
    config = CONFIG | {"state_sizes": [2**24, 2**24], "d_model": 2**16}
    path.write_bytes(safetensors.numpy.save(arrays, {"aire.ModelConfig.1": json.dumps(config)}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with refused("its config has a size of 16,777,216, its arrays have 56 numbers"):
        aire.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_thousand_layers_that_do_not_fit_are_not_built(tmp_path, monkeypatch):
    """The arrays with a state axis fit, the others are missing. Only models of one layer and of two are built."""
    built = []
    monkeypatch.setattr(
        model_file, "abstract_model", lambda config: built.append(len(config.state_sizes)) or abstract_model(config)
    )
    names = ["nu_log", "theta_log", "gamma_log", "B_re", "B_im", "C_re", "C_im"]
    empty = F32 | {"shape": [0], "data_offsets": [0, 0]}
    header = {f"blocks/{i}/ssm/{name}": empty for i in range(1000) for name in names}
    config = json.dumps(CONFIG | {"state_sizes": list(range(1000))})
    numbers = {"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}
    path = tmp_path / "model.safetensors"
    path.write_bytes(packed(header | numbers | {"__metadata__": {"aire.ModelConfig.1": config}}, bytes(4000)))
    message = "the number of its arrays does not fit 1,000 layers: a is 1 there, absent here; blocks/#/norm/bias is"
    with refused(message):
        aire.load(path)
    assert built == [1, 2]


def test_deep_models_load(tmp_path):
    config = ModelConfig(3, 4, 2, (2,) * 20, ssm_config({"kind": "lru"}))
    arrays = {name: np.ones(v.shape, np.float32) for name, v in variables_of(abstract_model(config)).items()}
    aire.save(fill_model(config, arrays, "ones"), tmp_path / "model.safetensors")
    assert aire.load(tmp_path / "model.safetensors").config == config
