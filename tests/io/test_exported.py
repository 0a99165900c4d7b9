"""Exported models: a process without `aire` computes the same logits, for another batch size."""

import subprocess
import sys

import jax
import jax.export
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import aire
from aire.ssm import S4DConfig, S5Config, S6Config
from aire.utils.errors import UserError
from tests.helpers import MAMBA, logits

WITHOUT_AIRE = """
import sys, jax, jax.export, numpy as np
whole, step = (jax.export.deserialize(open(path, "rb").read()) for path in sys.argv[1:3])
x, lengths = np.load(sys.argv[3])["x"], np.load(sys.argv[3])["lengths"]
first = whole.call(x, lengths)
state = [np.zeros([len(x)] * bool(a.shape) + list(a.shape[1:]), a.dtype) for a in step.in_avals[1:]]
for x_k in x.T:
    logits, state = step.call(x_k, state)
np.savez(sys.argv[4], first=first, last=logits)
assert not any(name.split(".")[0] in ("aire", "flax") for name in sys.modules)
"""


@pytest.fixture(scope="module")
def model():
    ssm = S5Config(bidirectional=False)
    made = aire.Classifier(aire.ModelConfig(5, 4, 3, (6, 3), ssm, pooling="masked_mean"), rngs=nnx.Rngs(0))
    made.eval()
    return aire.cut(made, {"blocks/0/ssm": np.arange(6) % 2 == 0, "blocks/1/ssm": np.ones(3, bool)})


@pytest.fixture
def symbolic():
    """Switch off the checks of shapes, because they reject symbolic sizes."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("symbolic")
def test_a_process_without_the_package_runs_it(model, tmp_path):
    x = np.random.default_rng(0).integers(0, 5, (4, 11)).astype(np.int32)
    lengths = np.full(4, 11, np.int32)
    whole, step, data, found = (str(tmp_path / name) for name in ("whole", "step", "data.npz", "found.npz"))
    aire.export(model, whole, x[:1], platforms=("cpu", "cuda"))
    aire.export(model, step, x[:2, 0])
    np.savez(data, x=x, lengths=lengths)
    command = [sys.executable, "-c", WITHOUT_AIRE, whole, step, data, found]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300, env={"PATH": "", "JAX_PLATFORMS": "cpu"})
    expected = logits(model, x, lengths)
    for name in ("first", "last"):
        np.testing.assert_allclose(np.load(found)[name], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.usefixtures("symbolic")
def test_a_selective_model_runs_for_any_batch_size(tmp_path):
    model = aire.Classifier(aire.ModelConfig(5, 4, 3, (3,), S6Config(), **MAMBA), rngs=nnx.Rngs(0))
    model.eval()
    x = np.random.default_rng(0).integers(0, 5, (4, 11)).astype(np.int32)
    aire.export(model, tmp_path / "whole", x[:1], platforms=("cpu", "cuda"))
    whole = jax.export.deserialize((tmp_path / "whole").read_bytes())
    np.testing.assert_allclose(whole.call(x, np.full(4, 11, np.int32)), logits(model, x), atol=1e-5)


@pytest.mark.parametrize(
    "like,options,message",
    [
        (np.zeros((1, 4), np.int32), {"platforms": ("abacus",)}, r"platforms=\('abacus',\): expected some of .*'tpu'"),
        (np.zeros((1, 4, 5, 2)), {}, r"like float64\[1, 4, 5, 2\]: expected integer tokens \(B, L\)"),
    ],
)
def test_mistakes_are_named(model, tmp_path, like, options, message):
    with pytest.raises(UserError, match=message):
        aire.export(model, tmp_path / "file", like, **options)
    assert not list(tmp_path.iterdir())


def test_steps_of_a_bidirectional_model_are_refused(tmp_path):
    model = aire.Classifier(aire.ModelConfig(5, 4, 3, (8,), S4DConfig(bidirectional=True)), rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="one-directional"):
        aire.export(model, tmp_path / "file", np.zeros(1, np.int32))
