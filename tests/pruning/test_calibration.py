"""Calibration: states against a loop in complex128, moments against sums over that loop, and the score "measured"."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.pruning import Calibration, calibration, gram, scores
from aire.ssm import S5, S5Config, layers
from aire.utils.errors import UserError
from tests.helpers import call

H = 4
RNG = np.random.default_rng(0)


def system(layer):
    """λ̄ (n,), B̄ as (n, H) and C as (R, H, n) of a layer in complex128, also of a bank, where most entries are 0."""
    m = jax.tree.map(np.asarray, layer.modes())
    lam, B, C = (np.asarray(a, np.complex128) for a in (m.Lambda_bar, m.B_bar, m.C))
    if B.shape[1] == layer.D.size:
        return lam, B, C
    own = np.eye(layer.D.size)[m.channel]  # (n, H)
    return lam, B * own, C * own.T


def loop_states(layer, u: np.ndarray) -> np.ndarray:
    """x_k = λ̄ x_{k-1} + B̄ u_k step by step, from the last step to the first in the second direction: (B, L, R, n)."""
    lam, B, C = system(layer)
    x = np.zeros((*u.shape[:2], len(C), lam.size), np.complex128)
    for r in range(len(C)):
        steps = range(u.shape[1]) if r == 0 else reversed(range(u.shape[1]))
        state = np.zeros((len(u), lam.size), np.complex128)
        for k in steps:
            state = lam * state + u[:, k] @ B.T
            x[:, k, r] = state
    return x


def loop_outputs(layer, u: np.ndarray, pairs: bool) -> np.ndarray:
    """s Re(C x) + D u, summed over the directions, (B, L, H), in float64."""
    C = system(layer)[2]
    y = np.einsum("rhn,blrn->blh", C, loop_states(layer, u)).real
    return (2 if pairs else 1) * y + np.asarray(layer.D[...], np.float64) * u


def inputs(B=3, L=20, features=H, seed=0):
    return np.random.default_rng(seed).normal(size=(B, L, features)).astype(np.float32)


def features(layer, x: np.ndarray) -> np.ndarray:
    """z = [Re x; Im x], both directions stacked, at every step of (steps, R, n) states: (steps, channels, F)."""
    channel = np.asarray(layer.channels())
    widest = max(np.bincount(channel, minlength=1))
    z = np.zeros((len(x), channel.max(initial=0) + 1, x.shape[1], 2, widest))
    for i, c in enumerate(channel):
        place = list(np.flatnonzero(channel == c)).index(i)
        z[:, c, :, 0, place], z[:, c, :, 1, place] = x[:, :, i].real, x[:, :, i].imag
    return z.reshape(len(x), z.shape[1], -1)


def assert_moments(moments, layer, u, lengths, *, pairs=True, rtol=2e-4):
    """Every field against sums over the true steps of the loop."""
    true = np.arange(u.shape[1]) < (np.full(len(u), u.shape[1]) if lengths is None else lengths)[:, None]
    x, y = loop_states(layer, u)[true], loop_outputs(layer, u, pairs)[true]
    z = features(layer, x)
    outer = np.einsum("tcf,tcg->cfg", z, z)
    assert moments.steps == true.sum() and moments.outer.dtype == np.float64
    np.testing.assert_allclose(moments.outer, outer, atol=rtol * np.abs(outer).max(initial=0))
    np.testing.assert_allclose(moments.energy(), np.mean(np.abs(x) ** 2, axis=0), rtol=rtol)
    np.testing.assert_allclose(moments.output_energy(), (y**2).sum() / true.sum(), rtol=rtol)
    np.testing.assert_allclose(moments.covariance(), outer / true.sum(), atol=rtol * np.abs(outer).max(initial=0))


S5_OPTIONS = [
    {"conj_sym": conj_sym, "bidirectional": bidirectional, "discretization": discretization}
    for conj_sym, bidirectional, discretization in [
        (True, False, "zoh"),
        (True, True, "bilinear"),
        (False, True, "zoh"),
        (False, False, "bilinear"),
    ]
]
BANK_OPTIONS = [
    {"bidirectional": bidirectional, "discretization": discretization}
    for bidirectional, discretization in [(False, "bilinear"), (True, "zoh"), (True, "bilinear")]
]


@pytest.fixture
def make_any(make_layer, make_bank):
    """An S5 layer, or a bank of ragged channels where the options say so; time steps that move within 20 steps."""

    def make(options, bank=False):
        return make_bank(dt_min=0.05, **options) if bank else make_layer(H, 6, dt_min=0.05, **options)

    return make


CASES = [(o, False) for o in S5_OPTIONS] + [(o, True) for o in BANK_OPTIONS]


@pytest.mark.parametrize("options,bank", CASES)
def test_states_equal_the_loop(make_any, options, bank):
    layer, u = make_any(options, bank), inputs()
    x = call(layer, u, method="states")
    assert x.shape == (3, 20, 1 + options["bidirectional"], layer.n_states) and x.dtype == jnp.complex64
    np.testing.assert_allclose(x, loop_states(layer, u), atol=2e-5)


def test_states_by_hand():
    """λ̄ = ½, B̄ = 1 and inputs 1, 2, 4: forward 1, 2½, 5¼; backward 3, 4, 4."""
    layer = S5(1, 1, S5Config(bidirectional=True, discretization="bilinear"), rngs=nnx.Rngs(0))
    # Bilinear, Δ = 1: λ̄ = (1 + Λ/2) / (1 − Λ/2) and B̄ = B / (1 − Λ/2).
    new = {"Lambda_re": -2 / 3, "Lambda_im": 0, "log_step": 0, "B_re": 4 / 3, "B_im": 0}
    for name, value in new.items():
        variable = getattr(layer, name)
        variable[...] = jnp.full(variable.shape, value, jnp.float32)
    x = call(layer, np.array([[[1.0], [2.0], [4.0]]], np.float32), method="states")
    np.testing.assert_allclose(x[0, :, 0, 0], [1, 2.5, 5.25], rtol=1e-6)
    np.testing.assert_allclose(x[0, :, 1, 0], [3, 4, 4], rtol=1e-6)


@pytest.mark.parametrize("options,bank", CASES)
def test_moments_of_a_layer_equal_the_sums_over_the_loop(make_any, options, bank):
    layer, u = make_any(options, bank), inputs()
    moments = aire.calibrate(layer, [u])[""]
    assert_moments(moments, layer, u, None, pairs=bank or options["conj_sym"])


class Stack(nnx.Module):
    """Two layers with a tanh between. `lengths` is accepted and not used."""

    def __init__(self, first, second):
        self.first, self.second = first, second

    def __call__(self, u, lengths=None):
        return self.second(jnp.tanh(self.first(u)))


def stack(make_any, bank=False):
    return Stack(
        make_any({"bidirectional": True}, bank), make_any({"bidirectional": True, "discretization": "bilinear"}, bank)
    )


def second_inputs(model, u):
    """The inputs of the second layer, by the loop."""
    return np.tanh(loop_outputs(model.first, u, True))


@pytest.mark.parametrize("bank", [False, True])
def test_padding_is_left_out_in_both_layers_and_directions(make_any, bank):
    model, u, lengths = stack(make_any, bank), inputs(), np.array([20, 7, 1], np.int32)
    moments = aire.calibrate(model, [{"x": u, "lengths": lengths, "y": "not read"}])
    assert list(moments) == ["first", "second"]
    assert_moments(moments["first"], model.first, u, lengths)
    assert_moments(moments["second"], model.second, second_inputs(model, u), lengths)


def test_two_documents_count_as_two_sequences(make_model):
    """x (B, 2, L) with lengths (B, 2), and the reference's stacked form: the same, and a sum over true steps alone."""
    model = make_model((4,), retrieval=True, ssm={"dt_min": 0.05}, pooling="masked_mean")
    tokens = RNG.integers(0, 20, (3, 2, 15))
    lengths = np.array([[15, 3], [2, 9], [15, 15]], np.int32)
    stacked = {"x": np.concatenate([tokens[:, 0], tokens[:, 1]]), "lengths": np.concatenate([*lengths.T])}
    pairs, two = (aire.calibrate(model, [b])["blocks/0/ssm"] for b in ({"x": tokens, "lengths": lengths}, stacked))
    assert pairs.steps == two.steps == lengths.sum()
    np.testing.assert_allclose(pairs.outer, two.outer, rtol=1e-6)
    block = model.blocks[0]
    kernel, bias = (np.asarray(a[...], np.float64) for a in (model.encoder.kernel, model.encoder.bias))
    norm = {name: np.asarray(getattr(block.norm, name)[...], np.float64) for name in ("mean", "var", "scale", "bias")}
    u = kernel[stacked["x"]] + bias
    u = (u - norm["mean"]) / np.sqrt(norm["var"] + block.norm.epsilon) * norm["scale"] + norm["bias"]
    assert_moments(pairs, block.ssm, u, stacked["lengths"])


def test_moments_of_two_batches_add_up_to_those_of_both(make_any):
    model, u = stack(make_any), inputs(5)
    lengths = np.array([20, 11, 3, 20, 8], np.int32)
    whole = aire.calibrate(model, [{"x": u, "lengths": lengths}])
    ragged = [{"x": u[:3], "lengths": lengths[:3]}, {"x": u[3:], "lengths": lengths[3:]}]  # 3 examples, then 2
    parts = aire.calibrate(model, iter(ragged))
    apart = [aire.calibrate(model, [batch]) for batch in ragged]
    for path, m in whole.items():
        for other in (parts[path], apart[0][path] + apart[1][path]):
            assert other.steps == m.steps == 62
            np.testing.assert_allclose(other.outer, m.outer, rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(other.output, m.output, rtol=1e-5)


@pytest.mark.parametrize("numbers", [1, 2 * 20 * 24, 10**9])
def test_a_batch_is_processed_a_few_rows_at_a_time(make_any, monkeypatch, numbers):
    """One row, two rows, where a third is padded to four, and all: the same sums."""
    monkeypatch.setattr(gram, "_STATE_NUMBERS", numbers)
    calibration._measure.clear_cache()  # it was compiled for another size
    layer, u, lengths = make_any({"bidirectional": True}), inputs(), np.array([20, 5, 13], np.int32)
    model = Stack(layer, layer.cut(np.zeros(6, bool)))
    assert_moments(aire.calibrate(model, [{"x": u, "lengths": lengths}])["first"], layer, u, lengths)


@pytest.mark.parametrize("lengths", [None, np.array([50, 32, 7], np.int32), np.array([16, 0, 49], np.int32)])
def test_a_bank_is_processed_in_blocks_of_steps(make_bank, lengths):
    """More than three blocks of 16 steps: complete and incomplete ones, and sequences that end with a block."""
    layer, u = make_bank(bidirectional=True), inputs(L=50)
    batch = u if lengths is None else {"x": u, "lengths": lengths}
    assert_moments(aire.calibrate(Stack(layer, make_bank()), [batch])["first"], layer, u, lengths)


def test_models_of_one_structure_share_a_compilation(make_model):
    calibration._measure.clear_cache()
    tokens = RNG.integers(0, 20, (2, 12))
    a, b = (aire.calibrate(make_model((4,), seed=seed), [tokens, tokens]) for seed in (0, 1))
    assert calibration._measure._cache_size() == 1
    assert (a["blocks/0/ssm"].energy() != b["blocks/0/ssm"].energy()).all()
    aire.calibrate(make_model((2,)), [tokens])
    assert calibration._measure._cache_size() == 2


@pytest.mark.parametrize("bank", [False, True])
def test_a_layer_without_states_has_moments_of_no_features(make_any, bank):
    full = make_any({"bidirectional": False}, bank)
    empty = full.cut(np.zeros(full.n_states, bool))
    model, u = Stack(empty, full), inputs()
    moments = aire.calibrate(model, [u])
    assert moments["first"].outer.shape == (1, 0, 0) and moments["first"].energy().shape == (1, 0)
    D = np.asarray(empty.D[...], np.float64)
    np.testing.assert_allclose(moments["first"].output, ((D * u) ** 2).sum(), rtol=1e-5)
    assert_moments(moments["second"], full, np.tanh(D * u), None)
    assert aire.score(model, "measured", moments=moments)["first"].shape == (0,)
    assert aire.prune(model, 0.5, "measured", calibration=[u]).model.first.n_states == 0


def test_a_bfloat16_model_has_moments_close_to_those_of_the_same_in_float32(make_model):
    tokens = RNG.integers(0, 20, (4, 30))
    whole, half = (make_model((4, 4), ssm={"dt_min": 0.05}, dtype=d) for d in ("float32", "bfloat16"))
    a, b = (aire.calibrate(model, [tokens]) for model in (whole, half))
    for path, m in a.items():
        assert np.isfinite(b[path].outer).all() and b[path].outer.dtype == np.float64
        np.testing.assert_allclose(b[path].energy(), m.energy(), rtol=0.05)
        np.testing.assert_allclose(b[path].output, m.output, rtol=0.05)


def test_calibration_is_in_evaluation_mode_and_changes_nothing(make_model):
    """A model in training mode with dropout and batch norm keeps its statistics, its mode and its results."""
    model = make_model((4,), dropout=0.5)
    tokens = RNG.integers(0, 20, (4, 30))
    expected = aire.calibrate(model, [tokens])["blocks/0/ssm"]
    model.train()
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    moments = aire.calibrate(model, [tokens])["blocks/0/ssm"]
    np.testing.assert_array_equal(moments.outer, expected.outer)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)
    assert not model.blocks[0].norm.use_running_average and not model.blocks[0].drop.deterministic


def test_a_layer_in_two_places_adds_up_both_calls(make_any):
    tied = make_any({"bidirectional": True})
    model, u = Stack(tied, tied), inputs()
    (moments,) = aire.calibrate(model, [u]).values()
    by_hand = [aire.calibrate(tied, [v])[""] for v in (u, second_inputs(model, u).astype(np.float32))]
    assert moments.steps == 2 * 60
    np.testing.assert_allclose(moments.outer, by_hand[0].outer + by_hand[1].outer, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(moments.output, by_hand[0].output + by_hand[1].output, rtol=1e-4)


def test_a_model_may_ask_its_layer_for_its_sizes_while_it_is_called(make_any):
    class Asking(nnx.Module):
        def __init__(self, ssm):
            self.ssm = ssm

        def __call__(self, u):
            return self.ssm(u) / max(self.ssm.n_states, 1) + self.ssm.D[...][None, None]

    layer, u = make_any({"bidirectional": False}), inputs()
    assert_moments(aire.calibrate(Asking(layer), [u])["ssm"], layer, u, None)


def test_mistakes_are_named(make_any):
    model, u = stack(make_any), inputs()
    with pytest.raises(UserError, match=r"no moments of layers \['first', 'second'\]: there was no batch"):
        aire.calibrate(model, [])
    with pytest.raises(UserError, match=r"a calibration batch with \['inputs', 'y'\]: expected inputs x"):
        aire.calibrate(model, [{"inputs": u, "y": u}])
    with pytest.raises(UserError, match=r"lengths \[2\] for 3 sequences: expected one for each"):
        aire.calibrate(model, [{"x": u, "lengths": np.array([3, 4])}])

    class Idle(Stack):
        def __call__(self, u, lengths=None):
            return self.first(u)

    with pytest.raises(UserError, match=r"no moments of layers \['second'\].*the model does not call them"):
        aire.calibrate(Idle(model.first, model.second), [u])


def test_batches_in_memory_are_measured_once_for_a_model(make_any, monkeypatch):
    model, other, calls = stack(make_any), stack(make_any), []

    def calibrate(model, batches, *, covariance):
        calls.append((model, len(batches), covariance))
        return {}

    monkeypatch.setattr(calibration, "calibrate", calibrate)
    kept = Calibration(batch for batch in [inputs(), inputs(2)])
    for asked in (model, model, other, model):
        kept.moments(asked)
    for covariance in (True, False, True):
        kept.moments(model, covariance=covariance)
    assert calls == [(model, 2, False), (other, 2, False), (model, 2, False), (model, 2, True)]


# The score "measured".


@pytest.mark.parametrize("options,bank", [CASES[1], CASES[2], CASES[-1]])
def test_measured_is_the_energy_that_a_state_sends_out(make_any, options, bank):
    """Σ_r ‖C_{r,i}‖² mean |x_{r,i}|² over the loop, by one state after another."""
    layer, u = make_any(options, bank), inputs()
    x, C = loop_states(layer, u), system(layer)[2]
    expected = np.zeros(layer.n_states)
    for i in range(layer.n_states):
        for r in range(len(C)):
            expected[i] += np.linalg.norm(C[r, :, i]) ** 2 * np.mean(np.abs(x[:, :, r, i]) ** 2)
    moments = aire.calibrate(layer, [u])
    found = aire.score(layer, "measured", moments=moments, normalize="none")[""]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    strongest = aire.prune(layer, 0.5, "measured", calibration=[u]).keep[""]
    assert set(np.flatnonzero(strongest)) == set(np.argsort(expected)[-round(0.5 * layer.n_states) :])


@pytest.mark.parametrize("bank", [False, True])
def test_on_white_noise_measured_is_aire(make_any, bank):
    """|λ̄|² at most 0.95, so 100 of 2,000 steps of burn-in bias by 0.1 % at most. The mean of |x|² over T steps has a
    relative deviation of √((1 + |λ̄|²) / (1 − |λ̄|²) / T) or less; 5 of them, T = 32 × 2,000."""
    layer = make_any({"bidirectional": True}, bank)
    name = "log_dt" if bank else "log_step"
    variable = getattr(layer, name)
    variable[...] = jnp.full(variable.shape, np.log(0.1), jnp.float32)  # λ̄ = exp(−0.05 + …): |λ̄|² = 0.905
    squared = np.abs(system(layer)[0]) ** 2
    assert squared.max() < 0.95
    u = inputs(32, 2000)
    measured = aire.score(layer, "measured", moments=aire.calibrate(layer, [u]), normalize="none")[""]
    aire_scores = aire.score(layer, "aire", normalize="none")[""]
    deviation = np.sqrt((1 + squared) / (1 - squared) / (32 * 2000))
    assert (np.abs(np.asarray(measured) / np.asarray(aire_scores) - 1) < 5 * deviation + 0.01).all()


def test_measured_accepts_an_unstable_state(make_any):
    layer, u = make_any({"bidirectional": False}), inputs()
    layer.Lambda_re[...] = layer.Lambda_re[...].at[2].set(0.1)
    with pytest.raises(UserError, match="state 2 is unstable"):
        aire.prune(layer, 0.5, "aire")
    result = aire.prune(layer, 0.5, "measured", calibration=[u])
    x, C = loop_states(layer, u), system(layer)[2]
    energies = (np.abs(C[0]) ** 2).sum(axis=0) * np.mean(np.abs(x[:, :, 0]) ** 2, axis=(0, 1))
    assert set(np.flatnonzero(result.keep[""])) == set(np.argsort(energies)[3:])
    assert np.isfinite(result.scores[""]).all()
    assert "nan" not in result.summary()


def test_measured_without_data_is_an_error_that_says_what_to_pass(make_any):
    model = stack(make_any)
    with pytest.raises(UserError, match=r"method 'measured' needs inputs of the model: pass calibration=batches"):
        aire.prune(model, 0.5, method="measured")
    with pytest.raises(UserError, match=r"needs moments of layer 'first': pass moments=aire.calibrate"):
        aire.score(model, "measured")
    moments = aire.calibrate(model, [inputs()])
    with pytest.raises(UserError, match="needs moments of layer 'second'"):
        aire.score(model, "measured", moments={"first": moments["first"]})


def test_a_user_defined_score_gets_the_moments_that_it_needs(make_any):
    @scores.register("test_loudness", needs=("moments",))
    def loudness(modes, moments):
        assert moments.steps == 60
        return moments.energy().sum(axis=0)

    try:
        model, u = stack(make_any), inputs()
        moments = aire.calibrate(model, [u])
        found = aire.score(model, "test_loudness", moments=moments, normalize="none")
        for path, layer in layers(model).items():
            x = loop_states(layer, u if path == "first" else second_inputs(model, u))
            np.testing.assert_allclose(found[path], np.mean(np.abs(x) ** 2, axis=(0, 1)).sum(axis=0), rtol=1e-3)
        assert aire.prune(model, 0.5, "test_loudness", calibration=[u]).states == (12, 6)
    finally:
        del scores.SCORES["test_loudness"]


def test_moments_are_values(make_any):
    """Adding changes neither side."""
    a = aire.calibrate(make_any({"bidirectional": False}), [inputs()])[""]
    before = a.outer.copy()
    b = a + a
    assert b.steps == 2 * a.steps and b is not a
    np.testing.assert_array_equal(a.outer, before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        a.steps = 0
