"""Models: pooling, tokens, norms, dropout, the two-document head, configs, wrong inputs."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.io.weights import fill_model, get_arrays
from aire.models import ACTIVATIONS, Block, ModelConfig, pool
from aire.ssm import LRUConfig, S4DConfig, S4DLayer, S5Config, ssm_config
from aire.utils.errors import UserError
from tests.helpers import logits

TOKENS = np.random.default_rng(0).integers(0, 20, (4, 12))
LENGTHS = np.array([12, 1, 7, 5])


def test_tokens_equal_their_one_hot(make_model):
    model = make_model()
    np.testing.assert_allclose(
        logits(model, TOKENS), logits(model, np.eye(20, dtype=np.float32)[TOKENS]), rtol=1e-5, atol=1e-6
    )


def test_pooling_by_hand():
    x = jax.random.normal(jax.random.key(0), (4, 12, 3))
    masked, last = pool(x, LENGTHS, "masked_mean"), pool(x, LENGTHS, "last")
    for b, n in enumerate(LENGTHS):
        np.testing.assert_allclose(masked[b], np.mean(x[b, :n], axis=0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(last[b], x[b, n - 1])
    np.testing.assert_allclose(pool(x, None, "mean"), np.mean(x, axis=1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pool(x, None, "last"), x[:, -1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("prenorm,batchnorm", [(False, True), (True, False)])
def test_every_block_runs_and_trains(make_model, activation, prenorm, batchnorm):
    model = make_model((2,), activation=activation, prenorm=prenorm, batchnorm=batchnorm, dropout=0.2)
    model.train()

    def loss(model):
        return jnp.sum(model(TOKENS, rngs=nnx.Rngs(dropout=0)) ** 2)

    grads = nnx.to_pure_dict(nnx.jit(nnx.grad(loss))(model))
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
    gate = {"gelu": set(), "full_glu": {"out1", "out2"}, "glu": {"out1", "out2"}}.get(activation, {"out2"})
    assert set(grads["blocks"][0]) == {"ssm", "norm"} | gate


def test_dropout_shares_one_mask_over_time(make_model):
    """A block without states and with D = 1 passes constants. Dropout zeroes a feature at every step or at none."""
    block = make_model((0,), activation="gelu", batchnorm=False, prenorm=True, dropout=0.5).blocks[0]
    block.ssm.D[...] = jnp.ones(8)
    block.norm.bias[...] = jnp.ones(8)  # of constant inputs the norm leaves its bias
    block.train()
    dropped = np.asarray(block(jnp.ones((3, 12, 8)), nnx.Rngs(dropout=0))) == 1
    assert 0 < dropped[:, 0].mean() < 1
    np.testing.assert_array_equal(dropped, np.broadcast_to(dropped[:, :1], dropped.shape))
    assert (dropped[0, 0] != dropped[1, 0]).any()  # but each sequence has its own


def test_batch_norm_averages_over_batch_and_time_with_the_momentum_given(make_model):
    model = make_model((2,), batchnorm=True, prenorm=True, bn_momentum=0.95)
    model.train()
    model(TOKENS)
    encoded = np.asarray(model.encoder(jax.nn.one_hot(TOKENS, 20)))
    norm = model.blocks[0].norm
    np.testing.assert_allclose(norm.mean[...], 0.05 * encoded.mean(axis=(0, 1)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.var[...], 0.95 + 0.05 * encoded.var(axis=(0, 1)), rtol=1e-4)


def test_two_documents_as_pairs_or_stacked(make_model):
    model = make_model(retrieval=True, batchnorm=False)
    both = logits(model, TOKENS, LENGTHS)
    assert both.shape == (2, 10)
    pairs = (np.stack([a[:2], a[2:]], axis=1) for a in (TOKENS, LENGTHS))
    np.testing.assert_array_equal(logits(model, *pairs), both)
    single = logits(model, TOKENS[[1, 3]], LENGTHS[[1, 3]])  # the second pair alone
    np.testing.assert_allclose(both[1], single[0], rtol=1e-4, atol=1e-5)
    swapped = logits(model, TOKENS[[2, 3, 0, 1]], LENGTHS[[2, 3, 0, 1]])
    assert np.abs(np.asarray(swapped - both)).max() > 1e-3  # the features are not symmetric


def test_padding_after_the_length_does_not_change_what_is_pooled_from_a_causal_model(make_model):
    model = make_model(ssm={"bidirectional": False}, pooling="masked_mean", batchnorm=False)
    changed = TOKENS.copy()
    changed[2, 7:] = 3
    np.testing.assert_allclose(logits(model, changed, LENGTHS), logits(model, TOKENS, LENGTHS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ssm", [S5Config(blocks=2), S4DConfig(init="inv"), LRUConfig(r_min=0.1)])
def test_config_survives_json(ssm):
    config = ModelConfig(20, 8, 10, [3, 0, 2], ssm, activation="gelu", dropout=0.1)
    fields = json.loads(json.dumps(dataclasses.asdict(config)))
    assert ModelConfig.from_dict(fields) == config
    assert config.state_sizes == (3, 0, 2) and fields["ssm"]["kind"] == ssm.kind


def test_a_config_without_a_kind_is_of_s5():
    """Old files, from before there were other kinds, do not name one."""
    assert ssm_config({"blocks": 2}) == S5Config(blocks=2)
    with pytest.raises(UserError, match=r"ssm.kind='rnn': expected one of \['lru', 's4d', 's5', 's6'\]"):
        ssm_config({"kind": "rnn"})


def test_a_block_of_s4d_is_the_reference_layer_with_a_residual():
    """Post-norm of x + S4D's GELU, linear map and GLU: the block against the layer that the importer gives."""
    config = ModelConfig(4, 4, 4, (8,), S4DConfig(), activation="glu", prenorm=False, batchnorm=False)
    block = Block(config, 8, rngs=nnx.Rngs(0))
    layer = S4DLayer(4, 8, S4DConfig(), rngs=nnx.Rngs(1))
    state = nnx.state(block)
    nnx.update(layer, nnx.State({**state["ssm"], "out1": state["out1"], "out2": state["out2"]}))
    x = jax.random.normal(jax.random.key(0), (2, 12, 4))
    np.testing.assert_allclose(logits(block, x), logits(block.norm, x + logits(layer, x)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"activation": "relu"}, "activation='relu': expected one of"),
        ({"dtype": "float16"}, "dtype='float16': expected one of"),
        ({"pooling": "max"}, "pooling='max': expected one of"),
        ({"state_sizes": ()}, r"state_sizes=\(\): expected 1 to 1,024 values, each a whole number from 0 to"),
        ({"state_sizes": (3, -1)}, r"state_sizes=\(3, -1\): expected"),
        ({"state_sizes": (3.0,)}, r"state_sizes=\(3.0,\): expected"),
        ({"state_sizes": 3}, "state_sizes=3: expected"),
        ({"state_sizes": (4,) * 100_000}, "state_sizes=.*…: expected"),
        ({"dropout": 1.0}, "dropout=1.0: expected a number >= 0 and < 1"),
        ({"bn_momentum": None}, "bn_momentum=None: expected a number >= 0 and < 1"),
        ({"bn_momentum": -1}, "bn_momentum=-1: expected a number >= 0 and < 1"),
        ({"prenorm": "x"}, "prenorm='x': expected True or False"),
        ({"batchnorm": "no", "d_model": 10**9}, "d_model=1000000000: expected .* to 65,536\nbatchnorm='no': expected"),
        ({"d_input": 0}, "d_input=0: expected a whole number from 1 to"),
        ({"d_output": -3}, "d_output=-3: expected a whole number from 1 to"),
        ({"ssm": "s5"}, "ssm.kind=None: expected one of"),
        ({"ssm": S5Config}, "ssm=.*S5Config.*: expected an instance of S5Config"),
    ],
)
def test_wrong_configs_are_named(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(ModelConfig(20, 8, 10, (2,)), **change)


@pytest.mark.parametrize(
    "fields,message",
    [
        (None, "model config None: expected a mapping"),
        ([], r"model config \[\]: expected a mapping"),
        ({"ssm": "abc"}, "ssm='abc': expected a mapping with the key 'kind'"),
        ({"ssm": {"kind": ["s5"]}}, r"ssm.kind=\['s5'\]: expected one of"),
        ({"ssm": {"kind": "s5", "heads": 2}}, "S5Config: unknown 'heads': expected some of .*'blocks'"),
        (
            {"ssm": {}, "depth": 2},
            "ModelConfig: unknown 'depth': .*\nModelConfig: missing d_input, d_model",
        ),
    ],
)
def test_wrong_fields_of_a_file_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        ModelConfig.from_dict(fields)


@pytest.mark.parametrize(
    "x,lengths,message",
    [
        (TOKENS + 1, LENGTHS, r"tokens in 1…20: this model's vocabulary is 0…19"),
        (TOKENS - 1, LENGTHS, r"tokens in -1…18"),
        (TOKENS, LENGTHS + 1, r"lengths in 2…13: expected 1…12, the padded length"),
        (TOKENS, LENGTHS - 1, r"lengths in 0…11"),
        (TOKENS, None, "masked_mean: pass the true lengths"),
        (TOKENS, LENGTHS[:1], r"lengths \[1\] for 4 sequences: expected one for each"),
        (TOKENS, LENGTHS[:, None], r"lengths \[4, 1\] for 4 sequences: expected one for each"),
        (TOKENS.astype(np.float32), LENGTHS, r"expected floats \(B, L, 20\) or int"),
        (np.zeros((2, 5, 3), np.float32), LENGTHS, r"expected floats \(B, L, 20\)"),
        (TOKENS[:0], LENGTHS[:0], r"input .*\[0, 12\]: expected at least one sequence of at least one step"),
        (TOKENS[:, :0], LENGTHS, r"expected at least one sequence of at least one step"),
    ],
)
def test_wrong_inputs_are_named(make_model, x, lengths, message):
    with pytest.raises(UserError, match=message):
        make_model(pooling="masked_mean")(x, lengths)


def test_checked_finds_wrong_values_in_a_compiled_call(make_model):
    """A compiled call alone gives logits for tokens outside the vocabulary, and NaN for lengths of 0."""
    model = make_model((2,), pooling="masked_mean")
    call = aire.checked(lambda model, x, lengths: model(x, lengths))
    np.testing.assert_allclose(call(model, TOKENS, LENGTHS), logits(model, TOKENS, LENGTHS), rtol=1e-5, atol=1e-6)
    assert np.isnan(logits(model, TOKENS, 0 * LENGTHS)).all() and np.isfinite(logits(model, TOKENS + 9, LENGTHS)).all()
    for x, lengths, message in (
        (TOKENS + 9, LENGTHS, "tokens outside 0…19: this model's vocabulary is 0…19"),
        (TOKENS, 0 * LENGTHS, "lengths outside 1…12: expected 1…12, the padded length"),
    ):
        with pytest.raises(UserError, match=message):
            call(model, x, lengths)


@pytest.mark.parametrize("ssm", [{}, {"kind": "s4d"}, {"kind": "lru"}])
def test_bfloat16_activations(make_model, ssm):
    """The same parameters in both precisions: logits close but not equal, in float32; gradients in float32 too."""
    full = make_model(d_model=16, state_sizes=(32,), ssm=ssm, activation="full_glu")
    half = fill_model(dataclasses.replace(full.config, dtype="bfloat16"), get_arrays(full), "the model")
    tokens = jax.random.randint(jax.random.key(0), (4, 50), 0, 20)
    call = nnx.jit(lambda model: model(tokens))
    expected, found = call(full), call(half)
    assert found.dtype == jnp.float32
    error = jnp.abs(found - expected).max() / jnp.abs(expected).max()
    assert 1e-6 < error < 0.05
    gradients = nnx.jit(nnx.grad(lambda model: model(tokens).var()))(half)
    assert all(g.dtype == jnp.float32 for g in jax.tree.leaves(gradients))
