"""The refit: C and D against `lstsq` on materialised features, held-out errors, and warnings."""

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.pruning import Calibration, Cut, apply, apply_masked, gram, regressors
from aire.pruning.refit import RefitWarning, refit
from aire.ssm import LRU, S4D, LRUConfig, S4DLayer, layers
from aire.utils.errors import UserError
from tests.helpers import call

H = 4
HALF = np.arange(8) % 2 == 0


def inputs(B=8, L=40, seed=0) -> np.ndarray:
    """Coloured noise, so that features correlate."""
    return np.random.default_rng(seed).normal(size=(B, L, H)).cumsum(axis=1).astype(np.float32) / 4


def held_out(B: int) -> np.ndarray:
    return np.arange(B) % 4 == 1


def outputs(layer, u) -> np.ndarray:
    return np.asarray(call(layer, u, method="system"), np.float64)


def least_squares(layer, keep: np.ndarray, u: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The fit of y on the kept states' features and each output's own input, on the rows that are not held out.

    Returns its outputs on all rows.
    """
    x = np.asarray(call(layer, u, method="states"), np.complex128)[..., keep]  # (B, L, R, kept)
    channel, result = np.asarray(layer.channels())[keep], np.empty_like(y)
    for h in range(H):
        own = x if layer.readout().shape[1] == H else x[..., channel == h]
        F = 2 * own.shape[2] * own.shape[3]
        Z = np.concatenate(
            [np.stack([own.real, own.imag]).transpose(1, 2, 0, 3, 4).reshape(*u.shape[:2], F), u[..., h : h + 1]],
            axis=-1,
        )
        fit = ~held_out(len(u))
        w = np.linalg.lstsq(Z[fit].reshape(-1, Z.shape[-1]), y[fit][..., h].ravel(), rcond=1e-9)[0]
        result[..., h] = Z @ w
    return result


@pytest.fixture
def make_any(make_layer, make_bank):
    def make(kind: str, **options):
        options = {"bidirectional": True, **options}
        if kind == "lru":
            return LRU(H, 8, LRUConfig(r_min=0.5, r_max=0.9, **options), rngs=nnx.Rngs(0))
        options = {"dt_min": 0.05, **options}
        return make_layer(H, 8, **options) if kind == "s5" else make_bank(counts=(3, 0, 1, 4), **options)

    return make


@pytest.mark.parametrize("kind", ["s5", "s4d", "lru"])
def test_a_refit_is_the_least_squares_fit(make_any, kind):
    layer, u = make_any(kind), inputs()
    target = outputs(layer, u)
    cut = refit(layer, Cut({"": HALF}), Calibration([u[:5], u[5:]]))
    found, expected = outputs(apply(layer, cut), u), least_squares(layer, HALF, u, target)

    def error(y):
        return np.mean((y - target)[~held_out(8)] ** 2)

    assert error(found) < 0.5 * error(outputs(layer.cut(HALF), u))
    # The error is within a percent of the best possible, and so are the outputs.
    np.testing.assert_allclose(error(found), error(expected), rtol=0.01, atol=1e-6 * np.mean(target**2))
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(target).max())
    np.testing.assert_allclose(outputs(apply_masked(layer, cut), u), found, atol=1e-4)


@pytest.mark.parametrize("kind,bidirectional", [("s5", True), ("s4d", True), ("s4d", False)])
def test_sums_are_those_over_the_features(make_any, kind, bidirectional, monkeypatch):
    """Two sets of sequences, some states cut, padding after complete and incomplete blocks, in small batches."""
    monkeypatch.setattr(gram, "_STATE_NUMBERS", 1000)
    monkeypatch.setattr(regressors, "_NUMBERS", 10000)
    regressors._batch_sums.clear_cache()  # it was compiled for other sizes
    layer, u, y = make_any(kind, bidirectional=bidirectional), inputs(), inputs(seed=1)
    lengths, keep = np.array([40, 32, 3, 16, 0, 25, 40, 39]), np.arange(8) % 3 > 0
    mask, sets = np.arange(40)[None] < lengths[:, None], np.stack([~held_out(8), held_out(8)])
    of_kept = regressors.regressors(layer, keep)
    batches = [[a[rows] for a in (u, y, mask.astype(np.float32))] for rows in (slice(5), slice(5, 8))]
    parts = zip(batches, (sets[:, :5].astype(np.float32), sets[:, 5:].astype(np.float32)), strict=True)
    found, index = of_kept.sums([(*batch, s) for batch, s in parts]), of_kept.index
    x = np.asarray(call(layer, u, method="states"), np.complex128)
    x = np.concatenate([x, np.zeros_like(x[..., :1])], axis=-1)[..., index]  # (B, L, R, channels, m)
    z = np.moveaxis(np.stack([x.real, x.imag], axis=3), 4, 2).reshape(8, 40, len(index), -1)
    own, wanted = (a.astype(np.float64).reshape(8, 40, len(index), -1) for a in (u, y))
    for sums, rows in zip(found, sets, strict=True):
        a = {name: values[rows][mask[rows]] for name, values in (("z", z), ("u", own), ("y", wanted))}
        for name in ("zz", "zu", "zy"):
            expected = np.einsum("tcf,tcg->cfg", a[name[0]], a[name[1]])
            np.testing.assert_allclose(getattr(sums, name), expected, atol=1e-5 * np.abs(expected).max())
        for name in ("uu", "uy", "yy"):
            expected = (a[name[0]] * a[name[1]]).sum(axis=0)
            np.testing.assert_allclose(getattr(sums, name), expected, atol=1e-5 * np.abs(expected).max())


class Stack(nnx.Module):
    """Two layers with a tanh between; `second` may be `first`. Their names sort against the order of the calls."""

    def __init__(self, first, second):
        self.b, self.a = first, second

    def __call__(self, u, lengths=None):
        return self.a(jnp.tanh(self.b(u)))


def test_layers_are_fitted_in_turn_on_the_cut_models_inputs(make_any):
    model, u = Stack(make_any("s5"), make_any("s5", discretization="bilinear")), inputs()
    cut = refit(model, Cut({"a": HALF, "b": HALF}), Calibration([u]))
    small = apply(model, cut)
    v = np.tanh(outputs(small.b, u)).astype(np.float32)
    target = outputs(model.a, np.tanh(outputs(model.b, u)).astype(np.float32))
    expected = least_squares(model.a, HALF, v, target)
    found = outputs(small.a, v)
    errors = [np.mean((y - target)[~held_out(8)] ** 2) for y in (found, expected)]
    np.testing.assert_allclose(errors[0], errors[1], rtol=0.01)


def test_padding_and_a_shared_layer(make_any):
    """Steps of padding change nothing; the sums of a layer that is called twice add up."""
    layer, u, lengths = make_any("s5", bidirectional=False), inputs(), np.array([40, 7, 12, 30, 40, 3, 21, 9], np.int32)
    dirty = np.where(np.arange(40)[None, :, None] < lengths[:, None, None], u, 1e3).astype(np.float32)
    cuts = [
        refit(Stack(layer, layer), Cut({"a": HALF}), Calibration([{"x": x, "lengths": lengths}]))
        for x in (np.where(dirty == 1e3, 0, u), dirty)
    ]
    assert list(cuts[0].readouts) == ["a"]
    for clean, other in zip(cuts[0].readouts["a"], cuts[1].readouts["a"], strict=True):
        np.testing.assert_allclose(other, clean, rtol=1e-3, atol=1e-4)


def test_a_refit_that_is_worse_on_held_out_inputs_is_discarded(make_any):
    """The held-out sequences differ from the others, so the layer keeps its readout, and a warning names it."""
    layer, u = make_any("s5"), inputs(2, 20)
    u[1] = np.random.default_rng(5).normal(size=u[1].shape) * 100
    u[0, 1:] = 0
    with pytest.warns(RefitWarning, match=r"layers \[''\] keep their readouts"):
        cut = refit(layer, Cut({"": HALF}), Calibration([u]))
    assert not cut.readouts


def test_no_state_left_and_none_to_begin_with(make_any):
    """D alone is fitted, to the best gain from each input to its output."""
    full, u = make_any("s4d"), inputs()
    for layer in (full, full.cut(np.zeros(8, bool))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RefitWarning)  # without states to begin with, nothing can get better
            cut = refit(layer, Cut({"": np.zeros(layer.n_states, bool)}), Calibration([u]))
        y, v = outputs(layer, u)[~held_out(8)], u[~held_out(8)].astype(np.float64)
        small = apply(layer, cut)
        np.testing.assert_allclose(small.D[...], (v * y).sum(axis=(0, 1)) / (v * v).sum(axis=(0, 1)), rtol=1e-3)


def test_documents_of_a_pair_are_in_the_same_set(make_model):
    model = make_model((4,), retrieval=True, ssm={"dt_min": 0.05}, pooling="masked_mean")
    tokens = np.random.default_rng(0).integers(0, 20, (8, 2, 15))
    batch = {"x": tokens, "lengths": np.full((8, 2), 15, np.int32)}
    stacked = {"x": np.concatenate([tokens[:, 0], tokens[:, 1]]), "lengths": np.full(16, 15, np.int32)}
    cuts = [aire.prune(model, 0.5, "aire_refit", calibration=[b]).cut for b in (batch, stacked)]
    for path in layers(model):  # 8 is a multiple of 4, so that the stacked rows are held out alike
        np.testing.assert_allclose(cuts[0].readouts[path].C, cuts[1].readouts[path].C, rtol=1e-4, atol=1e-5)


def test_the_target_of_a_layer_with_an_output_stage_is_before_it(make_bank):
    u = inputs()
    full = make_bank(layer=S4DLayer, dt_min=0.05)
    plain = nnx.clone(full)
    cuts = [refit(layer, Cut({"": HALF}), Calibration([u])) for layer in (full, _without_stage(plain))]
    np.testing.assert_allclose(cuts[0].readouts[""].C, cuts[1].readouts[""].C, rtol=1e-4, atol=1e-5)
    moments = [aire.calibrate(layer, [u])[""].output for layer in (full, _without_stage(plain))]
    np.testing.assert_allclose(moments[0], moments[1], rtol=1e-5)


def _without_stage(layer: S4DLayer) -> S4D:
    bank = S4D(H, layer.n_states, layer.config, rngs=nnx.Rngs(0))
    for name in (*S4D.ROLES, "channel"):
        setattr(bank, name, getattr(layer, name))
    return bank


def test_output_errors_are_those_of_the_two_models(make_any):
    """Compare with errors computed here. For a single layer without a refit, the prediction is exact."""
    model, u = Stack(make_any("s5"), make_any("s4d")), inputs()
    result = aire.prune(model, 0.5, "measured_refit", calibration=[u])
    small, v, w = result.model, u, u
    for path in ("b", "a"):
        y, found = outputs(getattr(model, path), v), outputs(getattr(small, path), w)
        for rows, error in ((~held_out(8), result.errors[path].fit), (held_out(8), result.errors[path].held_out)):
            np.testing.assert_allclose(error, ((found - y)[rows] ** 2).sum() / (y[rows] ** 2).sum(), rtol=1e-2)
        v, w = (np.tanh(a).astype(np.float32) for a in (y, found))
    plain = aire.prune(model.b, 0.5, "measured", calibration=[u])
    y, found = outputs(model.b, u), outputs(plain.model, u)
    np.testing.assert_allclose(plain.errors[""].predicted, ((found - y) ** 2).sum() / (y**2).sum(), rtol=1e-3)
    assert (result.cut.changed("b"), plain.cut.changed("")) == ("readout refitted", "as before")
    assert "held-out inputs" in result.summary() and "refitted" in result.summary()
    assert not aire.prune(model, 0.5).errors


def test_too_few_sequences_are_refused(make_any):
    with pytest.raises(UserError, match="1 calibration sequences: expected at least 2; a refit holds"):
        refit(make_any("s5"), Cut({"": HALF}), Calibration([inputs(1)]))
