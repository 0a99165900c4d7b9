"""Cutting: a cut model computes what the masked one does, has smaller arrays, and two cuts compose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.models import Classifier
from aire.pruning import count_parameters
from aire.ssm import S5, S5Config, layers
from aire.utils.errors import UserError
from tests.helpers import logits

VARIANTS = [
    {},
    {"bidirectional": False},
    {"conj_sym": False},
    {"bidirectional": False, "conj_sym": False, "discretization": "bilinear"},
    {"kind": "s4d"},
    {"kind": "s4d", "bidirectional": False, "discretization": "bilinear"},
    {"kind": "lru"},
    {"kind": "lru", "bidirectional": False},
]
TOKENS = np.random.default_rng(0).integers(0, 20, (2, 30))


def masks(model, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    return {path: rng.random(layer.n_states) < share for path, layer in layers(model).items()}


def assert_same_outputs(a, b):
    np.testing.assert_allclose(logits(a, TOKENS), logits(b, TOKENS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("ssm,retrieval", [(ssm, False) for ssm in VARIANTS] + [({}, True)])
def test_cut_equals_mask(make_model, ssm, retrieval):
    model = make_model((6, 6), ssm=ssm, retrieval=retrieval)
    keep = masks(model)
    assert_same_outputs(aire.cut(model, keep), aire.pruning.mask(model, keep))


@pytest.mark.parametrize("ssm", VARIANTS)
def test_cut_is_really_smaller_and_the_original_is_untouched(make_model, ssm):
    model = make_model(ssm=ssm)
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    cut = aire.cut(model, masks(model))
    shapes = [v.shape for v in jax.tree.leaves(nnx.state(cut))]
    abstract = nnx.eval_shape(lambda: Classifier(cut.config, rngs=nnx.Rngs(0)))
    assert shapes == [v.shape for v in jax.tree.leaves(nnx.state(abstract))]  # an ordinary model of its config
    assert count_parameters(cut) < count_parameters(model)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)


@pytest.mark.parametrize("ssm", VARIANTS)
def test_cutting_nothing_changes_nothing(make_model, ssm):
    model = make_model(ssm=ssm)
    cut = aire.prune(model, 0.0).model
    assert cut.config == model.config
    jax.tree.map(np.testing.assert_array_equal, *(nnx.to_pure_dict(nnx.state(m)) for m in (cut, model)))


@pytest.mark.parametrize("ssm", VARIANTS)
def test_two_cuts_are_one(make_model, ssm):
    model = make_model(ssm=ssm)
    first = masks(model, seed=1, share=0.7)
    once = aire.cut(model, first)
    second = masks(once, seed=2, share=0.6)
    both = {path: mask.copy() for path, mask in first.items()}
    for path, mask in both.items():
        mask[np.flatnonzero(mask)[~second[path]]] = False
    twice, combined = aire.cut(once, second), aire.cut(model, both)
    assert twice.config == combined.config
    jax.tree.map(np.testing.assert_array_equal, *(nnx.to_pure_dict(nnx.state(m)) for m in (twice, combined)))


@pytest.mark.parametrize("ssm", VARIANTS)
def test_a_layer_may_keep_no_state_at_all(make_model, ssm):
    model = make_model(ssm=ssm)
    keep = {path: np.full(6, path != "blocks/1/ssm") for path in layers(model)}
    cut = aire.cut(model, keep)
    assert cut.config.state_sizes == (6, 0, 6)
    assert_same_outputs(cut, aire.pruning.mask(model, keep))
    assert aire.prune(cut, 0.5).model.config.state_sizes[1] == 0  # and can be pruned on


def test_a_layer_without_states_costs_nothing_for_the_ssm(make_layer):
    layer = make_layer(n_states=0)
    text = jax.jit(lambda u: layer(u)).lower(jnp.zeros((1, 64, 3))).as_text()
    assert "dot_general" not in text and "while" not in text


@pytest.mark.parametrize("ssm", [{}, {"kind": "s4d"}, {"kind": "lru"}])
def test_one_compilation_serves_every_mask(make_model, ssm):
    from aire.training.step import make_eval_step, split_model

    model = make_model(ssm=ssm)
    eval_step = make_eval_step(split_model(model)[0])
    batch = {"x": TOKENS, "y": np.zeros(2, np.int32), "weight": np.ones(2, np.float32)}
    for seed in range(4):
        _, params, buffers = split_model(aire.pruning.mask(model, masks(model, seed)))
        eval_step(params, buffers, batch)
    assert eval_step._cache_size() == 1


class Custom(nnx.Module):
    """A user's model: layers as attributes and in a list, and no ModelConfig."""

    def __init__(self):
        self.first = S5(4, 5, S5Config(), rngs=nnx.Rngs(0))
        self.rest = nnx.List([S5(4, 3, S5Config(), rngs=nnx.Rngs(i)) for i in range(2)])

    def __call__(self, u):
        return self.rest[1](self.rest[0](self.first(u)))


def test_any_model_with_our_layers_can_be_pruned():
    model = Custom()
    result = aire.prune(model, 0.5)
    assert list(result.keep) == ["first", "rest/0", "rest/1"]
    assert result.states == (11, round(0.5 * 11))
    u = jnp.ones((1, 20, 4))
    masked = aire.pruning.mask(model, result.keep)
    np.testing.assert_allclose(logits(result.model, u), logits(masked, u), rtol=1e-5, atol=1e-6)


def test_a_bare_layer_can_be_pruned(make_layer):
    result = aire.prune(make_layer(n_states=6), 0.5)
    assert isinstance(result.model, S5) and result.model.n_states == 3


def test_wrong_masks_are_named(make_model):
    model = make_model()
    keep = masks(model)
    with pytest.raises(UserError, match="expected one for each of"):
        aire.cut(model, {"blocks/0/ssm": keep["blocks/0/ssm"]})
    with pytest.raises(UserError, match=r"mask of layer 'blocks/0/ssm' is bool\[3\]: expected bool\[6\]"):
        aire.cut(model, keep | {"blocks/0/ssm": np.ones(3, bool)})
    with pytest.raises(UserError, match="contains no state space layer"):
        aire.prune(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), 0.5)


def test_summary_counts_by_hand(make_model):
    """Per state and direction: Λ 2, Δ 1, B 2 H, C 2 H R numbers; H = 8, R = 2."""
    model = make_model(state_sizes=(4, 4))
    keep = {"blocks/0/ssm": np.array([True, False, False, False]), "blocks/1/ssm": np.ones(4, bool)}
    threshold = aire.prune(model, threshold=1.0)  # the strongest state of each layer
    assert threshold.states == (8, 2)
    before, after = (count_parameters(m.blocks[0].ssm) for m in (model, aire.cut(model, keep)))
    assert before == 4 * (2 + 1 + 16 + 32) + 8 and after == 1 * (2 + 1 + 16 + 32) + 8
    text = threshold.summary()
    assert "4 → 1" in text and "8 → 2" in text and "75.0%" in text
    energies = np.asarray(aire.score(model, normalize="none")["blocks/0/ssm"])
    assert f"{energies.max() / energies.sum():.2%}" in text
    assert f"{count_parameters(model):,} → {count_parameters(threshold.model):,}" in text
