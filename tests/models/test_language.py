"""The language model: steps beside the whole, generation and loss by hand, files, pruning."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.models import MambaLM, MambaLMConfig, next_token_loss
from aire.ssm import S6Config
from aire.utils.errors import UserError
from tests.helpers import logits

V, H = 11, 8
CONFIG = MambaLMConfig(V, H, (4, 3), S6Config(dt_rank=2), norm_epsilon=1e-4)


@pytest.fixture(scope="module")
def model() -> MambaLM:
    made = MambaLM(CONFIG, rngs=nnx.Rngs(0))
    made.embedding.embedding[...] *= 50  # so that tokens differ in their logits
    made.eval()
    return made


@pytest.fixture(scope="module")
def tokens() -> np.ndarray:
    return np.random.default_rng(0).integers(0, V, (3, 9))


def test_is_the_head_of_the_norm_of_the_blocks(model, tokens):
    """NumPy around the layers, whose own tests are elsewhere."""

    def norm(x, scale):
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + 1e-4) * np.asarray(scale[...])

    table = np.asarray(model.embedding.embedding[...])
    h = table[tokens]
    for block in model.blocks:
        h = h + np.asarray(logits(block.ssm, norm(h, block.norm.scale)))
    expected = norm(h, model.norm_f.scale) @ table.T
    np.testing.assert_allclose(logits(model, tokens), expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("tied", [True, False])
def test_steps_and_parts_give_the_logits_of_the_whole(tokens, tied):
    model = MambaLM(dataclasses.replace(CONFIG, tied=tied), rngs=nnx.Rngs(1))

    @jax.jit
    def run(tokens):
        part, state = model.scan(tokens[:, :5], model.start(3))
        found = list(jnp.moveaxis(part, 1, 0))
        for k in range(5, 9):
            out, state = model.step(tokens[:, k], state)
            found.append(out)
        return jnp.stack(found, axis=1), model(tokens)

    steps, whole = run(jnp.asarray(tokens))
    np.testing.assert_allclose(steps, whole, atol=2e-5 * np.abs(whole).max())


def test_generates_the_most_probable_token_each_time(model, tokens):
    text = tokens
    for _ in range(4):
        text = np.concatenate([text, np.asarray(logits(model, text))[:, -1:].argmax(axis=-1)], axis=1)
    np.testing.assert_array_equal(model.generate(tokens, 4), text[:, 9:])


def test_samples_by_the_softmax_of_the_logits(model):
    prompt, temperature = np.tile([[1, 2, 3]], (4000, 1)), 3.0
    drawn = np.asarray(model.generate(prompt, 1, temperature=temperature, key=jax.random.key(0)))[:, 0]
    scaled = np.asarray(logits(model, prompt[:1]))[0, -1] / temperature
    expected = np.exp(scaled - scaled.max())
    expected /= expected.sum()
    found = np.bincount(drawn, minlength=V) / len(drawn)
    np.testing.assert_allclose(found, expected, atol=4 * np.sqrt(0.25 / len(drawn)))


def test_loss_is_the_mean_of_what_each_next_token_costs(model, tokens):
    scores = np.asarray(logits(model, tokens), np.float64)[:, :-1]
    cost = np.log(np.exp(scores).sum(axis=-1)) - np.take_along_axis(scores, tokens[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(jax.jit(next_token_loss)(model, tokens), cost.mean(), rtol=1e-5)


def test_prunes_saves_and_loads(model, tokens, tmp_path):
    result = aire.prune(model, 0.5, "measured", calibration=[tokens])
    assert sum(result.model.config.state_sizes) == 4  # round(7 / 2), halves to even
    masked = aire.mask(model, result.cut)
    np.testing.assert_allclose(logits(result.model, tokens), logits(masked, tokens), atol=1e-4)
    aire.save(result.model, tmp_path / "lm.safetensors")
    loaded = aire.load(tmp_path / "lm.safetensors")
    assert isinstance(loaded, MambaLM) and loaded.config == result.model.config
    np.testing.assert_array_equal(logits(loaded, tokens), logits(result.model, tokens))
    np.testing.assert_array_equal(loaded.generate(tokens, 3), result.model.generate(tokens, 3))


def test_config_survives_json():
    assert MambaLMConfig.from_dict(json.loads(json.dumps(dataclasses.asdict(CONFIG)))) == CONFIG


def test_a_file_whose_config_does_not_fit_is_refused_before_a_model_is_built(model, tmp_path, monkeypatch):
    def spoil(**changes):
        fields = dataclasses.asdict(CONFIG) | changes
        monkeypatch.setattr("aire.io.model_file.dataclasses.asdict", lambda _: fields)
        monkeypatch.setattr(
            "aire.io.model_file._describe", lambda *_: dataclasses.make_dataclass("D", ["config"])(model.config)
        )
        aire.save(model, tmp_path / "spoilt.safetensors")
        monkeypatch.undo()
        with pytest.raises(UserError) as error:
            aire.load(tmp_path / "spoilt.safetensors")
        return str(error.value)

    assert "its config has 1,000 layers, its arrays have 2" in spoil(state_sizes=[4] * 1000)
    assert "its config has a size of 10,000,000" in spoil(vocabulary=10_000_000)
    assert "missing lm_head/kernel" in spoil(tied=False)
    assert "kind='mamba_9': expected 'mamba_lm'" in spoil(kind="mamba_9")
    assert "vocabulary=0: expected a whole number" in spoil(vocabulary=0)


def test_what_is_wrong_is_named(model, tokens):
    with pytest.raises(UserError, match="vocabulary is 0…10"):
        model(np.array([[0, 11]]))
    with pytest.raises(UserError, match=r"expected tokens \(B, L\)"):
        model(tokens[0])
    with pytest.raises(UserError, match="integer tokens"):
        model(tokens.astype(np.float32))
    with pytest.raises(UserError, match="expected a key"):
        model.generate(tokens, 2, temperature=1.0)
    with pytest.raises(UserError, match="at least two tokens"):
        next_token_loss(model, tokens[:, :1])
    with pytest.raises(UserError, match="must not see the tokens"):
        MambaLMConfig(V, H, (4,), S6Config(bidirectional=True))
