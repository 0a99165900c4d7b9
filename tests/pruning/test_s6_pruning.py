"""Pruning of S6: gate moments against a loop in float64, AIRE at constant gates, states of several modes, cuts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.pruning import Calibration, GateMoments, scores, selective, speed
from aire.pruning.moments import white
from aire.pruning.refit import refit
from aire.pruning.result import state_bytes
from aire.ssm import S4D, S5, S6, Modes, S4DConfig, S5Config, S6Config, layers
from aire.ssm.selective_scan import FORMS
from aire.utils.errors import UserError
from tests.helpers import MAMBA, call, logits

H, N, D = 4, 3, 8
PARTS = "x_proj_dt", "x_proj_B", "x_proj_C"
DRAWN = *PARTS, "in_proj", "out_proj", "D"
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, 20, (6, 24))
BOTH = pytest.mark.parametrize("bidirectional", [False, True])


def make(bidirectional=False, n_states=N, **parameters) -> S6:
    """Drawn anew, so that the norms of all states differ; the states outweigh the skip."""
    layer = S6(H, n_states, S6Config(bidirectional=bidirectional, dt_min=0.1, dt_max=1.0), rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    draw = {name: rng.normal(size=getattr(layer, name).shape) for name in DRAWN}
    draw["x_proj_C"], draw["D"] = 3 * draw["x_proj_C"], 0.1 * draw["D"]
    return layer.with_parameters(
        {**draw, "A_log": layer.A_log[...] + 0.3 * rng.normal(size=(D, n_states))} | parameters
    )


@pytest.fixture(scope="module")
def model():
    config = aire.ModelConfig(20, H, 10, (5, 4), S6Config(), **MAMBA)
    model = aire.Classifier(config, rngs=nnx.Rngs(0))
    for block in model.blocks:
        block.ssm = make(n_states=block.ssm.n_states)
    model.eval()
    return model


def silu(x):
    return x / (1 + np.exp(-x))


def watch(layer: S6, u: np.ndarray) -> dict[str, np.ndarray]:
    """x, z, Δ, B, C and h at every step, in float64, with the directions first where there are two."""
    p = {name: np.asarray(a, np.float64) for name, a in nnx.to_pure_dict(nnx.state(layer, nnx.Param)).items()}
    R, directions = p["dt_proj"].shape[1], 1 + layer.config.bidirectional
    x, z = np.split(np.asarray(u, np.float64) @ p["in_proj"].T, 2, axis=-1)
    padded = np.pad(x, [(0, 0), (3, 0), (0, 0)])
    x = silu(sum(p["conv_weight"][:, k] * padded[:, k : k + x.shape[1]] for k in range(4)) + p["conv_bias"])
    rows = x @ np.concatenate([p["x_proj_dt"], p["x_proj_B"], *p["x_proj_C"]]).T
    Delta = np.log1p(np.exp(rows[..., :R] @ p["dt_proj"].T + p["dt_bias"]))
    gates = np.split(rows[..., R:], 1 + directions, axis=-1)
    A, h = -np.exp(p["A_log"]), np.zeros((directions, *x.shape, layer.n_states))
    for r in range(directions):
        state = np.zeros((len(x), *A.shape))
        for t in range(x.shape[1]) if r == 0 else reversed(range(x.shape[1])):
            written = (Delta[:, t] * x[:, t])[..., None] * gates[0][:, t, None]
            state = np.exp(Delta[:, t, :, None] * A) * state + written
            h[r, :, t] = state
    return {"x": x, "z": z, "Delta": Delta, "A": A, "B": gates[0], "C": np.stack(gates[1:]), "h": h, "p": p}


def flat(a: np.ndarray) -> np.ndarray:
    """(…, D, N) in the order of the modes."""
    return a.reshape(*a.shape[:-2], -1)


@BOTH
def test_gate_moments_equal_sums_over_the_loop(bidirectional):
    """Compare every field on two batches of padded sequences. Padding must not count."""
    layer, u, lengths = make(bidirectional), RNG.normal(size=(3, 20, H)).astype(np.float32), np.array([20, 13, 1])

    found = aire.calibrate(padded(layer), [{"x": u[:2], "lengths": lengths[:2]}, {"x": u[2:], "lengths": lengths[2:]}])
    moments = found["ssm"]
    true = np.arange(20) < lengths[:, None]
    w = watch(layer, u)
    h, Delta = w["h"][:, true], w["Delta"][true]  # (R, steps, D, N)
    Ch = w["C"][:, true][:, :, None] * h
    gate, to_output = silu(w["z"][true])[None, ..., None], np.sum(w["p"]["out_proj"] ** 2, axis=0)[None, None, :, None]
    y = np.asarray(jax.jit(lambda u: layer(u))(u), np.float64)[true]
    assert isinstance(moments, GateMoments) and moments.steps == true.sum() == 34
    expected = {
        "energy": flat((h**2).mean(axis=1)),
        "contribution": flat((Ch**2).mean(axis=1)),
        "output_contribution": flat(((Ch * gate) ** 2 * to_output).mean(axis=1)),
    }
    modes = layer.modes()
    np.testing.assert_allclose(moments.energy(), expected["energy"], rtol=1e-4)
    np.testing.assert_allclose(moments.contribution(modes), expected["contribution"], rtol=1e-4)
    np.testing.assert_allclose(moments.output_contribution(modes), expected["output_contribution"], rtol=1e-4)
    np.testing.assert_allclose(moments.output_energy(), (y**2).sum() / 34, rtol=1e-4)

    averaged = jax.tree.map(np.asarray, moments.modes(modes))
    decay = np.exp(Delta[..., None] * w["A"])
    margin = flat(1 - (decay**2).mean(axis=0))
    drive = flat((Delta[..., None] ** 2 * w["B"][true][:, None] ** 2).mean(axis=0))
    power = np.repeat((w["x"][true] ** 2).mean(axis=0), N)
    readout = np.tile((w["C"][:, true] ** 2).mean(axis=1), (1, D))
    assert not averaged.nominal and modes.nominal
    np.testing.assert_allclose(averaged.margin, margin, rtol=1e-4)
    np.testing.assert_allclose(averaged.Lambda_bar**2, 1 - margin, rtol=1e-4)
    np.testing.assert_allclose(averaged.B_bar[:, 0] ** 2, drive * power, rtol=1e-4)
    np.testing.assert_allclose(averaged.C[:, 0] ** 2, readout, rtol=1e-4)
    by_state = (readout.sum(axis=0) * drive * power / margin).reshape(D, N).sum(axis=0)
    np.testing.assert_allclose(aire.score(layer, moments={"": moments}, normalize="none")[""], by_state, rtol=1e-4)
    measured = aire.score(layer, "measured", moments={"": moments}, normalize="none")[""]
    np.testing.assert_allclose(measured, expected["contribution"].sum(axis=0).reshape(D, N).sum(axis=0), rtol=1e-4)
    whole = aire.calibrate(layer, [u])[""]
    parts = [aire.calibrate(layer, [one])[""] for one in (u[:1], u[1:])]
    added = parts[0] + parts[1]
    assert whole.outer.size == 0
    for field in dataclasses.fields(GateMoments):
        np.testing.assert_allclose(getattr(added, field.name), getattr(whole, field.name), rtol=1e-5)


def constant_gates() -> S6:
    """A layer whose gates are constant: they read only channel 0, whose input is silu(1) at every step."""
    layer = make()
    arrays = {name: np.array(getattr(layer, name)[...]) for name in (*PARTS, "conv_weight", "conv_bias")}
    for name in PARTS:
        arrays[name][..., 1:] = 0
    arrays["conv_weight"][0], arrays["conv_bias"][0] = 0, 1
    return layer.with_parameters(arrays)


def test_with_constant_gates_the_score_is_s4ds_aire():
    """Compare with an S4D layer whose modes have the same decays and gains."""
    layer, u = constant_gates(), RNG.normal(size=(4, 50, H)).astype(np.float32)
    w = watch(layer, u)
    Delta, B, C = w["Delta"][0, 0], w["B"][0, 0], w["C"][0, 0, 0]
    np.testing.assert_allclose(w["Delta"], np.broadcast_to(Delta, w["Delta"].shape))
    gains = C * Delta[:, None] * B * np.sqrt((w["x"] ** 2).mean(axis=(0, 1)))[:, None]  # (D, N)
    bank = S4D(D, N * D, S4DConfig(), rngs=nnx.Rngs(0))
    bank = bank.with_parameters(
        {"log_A_real": flat(np.log(-w["A"])), "A_imag": np.zeros(N * D), "log_dt": np.log(Delta)}
    )
    C = flat(gains) / np.asarray(bank.discrete()[1][:, 0].real)
    bank = bank.with_readout(C[None, None], np.zeros(D))
    expected = np.asarray(aire.score(bank, normalize="none")[""]).reshape(D, N)
    found = aire.score(layer, moments=aire.calibrate(layer, [u]), normalize="none")[""]
    np.testing.assert_allclose(found, expected.sum(axis=0), rtol=1e-4)


def test_nominal_modes_are_those_of_the_parameters():
    layer = make()
    p = watch(layer, np.zeros((1, 1, H)))["p"]
    Delta = np.log1p(np.exp(p["dt_bias"]))[:, None]
    B, C = np.linalg.norm(p["x_proj_B"], axis=1), np.linalg.norm(p["x_proj_C"][0], axis=1)
    decay = np.exp(-Delta * np.exp(p["A_log"]))
    modes = layer.modes()
    np.testing.assert_array_equal(modes.channel, np.repeat(np.arange(D), N))
    np.testing.assert_array_equal(modes.unit, np.tile(np.arange(N), D))
    expected = ((decay * Delta * B * C) ** 2).sum(axis=0)
    np.testing.assert_allclose(aire.score(layer, "magnitude", normalize="none")[""], expected, rtol=1e-4)


def test_states_are_those_of_the_loop():
    for bidirectional in (False, True):
        layer, u = make(bidirectional), RNG.normal(size=(2, 9, H)).astype(np.float32)
        found = jax.jit(lambda u, layer=layer: layer.states(u))(u)
        np.testing.assert_allclose(found, np.moveaxis(flat(watch(layer, u)["h"]), 0, 2), rtol=1e-4, atol=1e-4)


def test_the_numbers_of_a_states_modes_add():
    """By hand: states 0 and 1 in two channels each, of AIRE energies 4/3, 3, 1 and 16/3."""
    lam, C = [0.5, 0.0, 0.0, 0.5], [1.0, 3.0**0.5, 1.0, 2.0]
    modes = {"x": Modes.discrete(lam, np.ones((4, 1)), [C], channel=[0, 0, 1, 1], unit=[0, 1, 0, 1])}
    np.testing.assert_allclose(aire.score(modes, normalize="none")["x"], [7 / 3, 25 / 3], rtol=1e-6)
    np.testing.assert_allclose(aire.score(modes)["x"], [7 / 32, 1], rtol=1e-6)
    np.testing.assert_allclose(aire.score(modes, normalize="channel")["x"], [7 / 32, 1], rtol=1e-6)
    first = aire.score(
        {"x": Modes.discrete([0.5, 1.0, 0.5, 0.5], np.ones((4, 1)), [C], unit=[0, 1, 0, 1])}, unstable="first"
    )
    assert np.isinf(first["x"]).tolist() == [False, True]
    drawn = np.array([aire.score(modes, "random", seed=s, normalize="none")["x"] for s in range(200)])
    assert 0 <= drawn.min() < 0.02 and 0.98 < drawn.max() < 1.0001 and abs(drawn.mean() - 0.5) < 0.04
    for unit in ([0, 1], [0, 1, 0, -1], [0.0, 1.0, 0.0, 1.0]):
        with pytest.raises(UserError, match=r"unit .*: expected integers from 0, one for each mode"):
            Modes.discrete(lam, np.ones((4, 1)), [C], unit=unit)


@pytest.mark.filterwarnings("ignore::aire.pruning.refit.RefitWarning")  # few sequences
@pytest.mark.parametrize(
    "method",
    ["aire", "measured", "measured_output", "random", "magnitude_global", "last", "ghost", "surgeon", "aire_refit"],
)
def test_cut_equals_mask_and_survives_a_file(model, method, tmp_path):
    lengths = np.array([24, 20, 3, 24, 9, 1])
    result = aire.prune(model, 1 / 3, method, calibration=[{"x": TOKENS, "lengths": lengths}])
    assert result.states == (9, 6) and sum(result.model.config.state_sizes) == 6
    y = logits(result.model, TOKENS, lengths)
    np.testing.assert_allclose(y, logits(aire.mask(model, result.cut), TOKENS, lengths), rtol=1e-4, atol=1e-5)
    assert np.abs(y - logits(model, TOKENS, lengths)).max() > 1e-3
    aire.save(result.model, tmp_path / "model.safetensors")
    loaded = aire.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(logits(loaded, TOKENS, lengths), y)
    assert loaded.config == result.model.config


def test_a_layer_may_keep_no_state(model):
    keep = {"blocks/0/ssm": np.zeros(5, bool), "blocks/1/ssm": np.array([0, 1, 0, 0], bool)}
    empty = aire.cut(model, keep)
    np.testing.assert_allclose(logits(empty, TOKENS), logits(aire.mask(model, keep), TOKENS), rtol=1e-4, atol=1e-5)
    scored = aire.score(empty, moments=aire.calibrate(empty, [TOKENS]))
    assert scored["blocks/0/ssm"].shape == (0,) and scored["blocks/1/ssm"].shape == (1,)
    assert aire.prune(empty, 0.0, "measured", calibration=[TOKENS]).states == (1, 1)


def test_energies_of_selective_layers_need_inputs(model):
    message = (
        r"layer 'blocks/0/ssm' is selective.*'aire', pass moments=aire.calibrate\(model, batches\) to score, or calib"
    )
    for function in (aire.score, lambda m: aire.prune(m, 0.5)):
        with pytest.raises(UserError, match=message):
            function(model)
    with pytest.raises(UserError, match="needs inputs of the model: pass calibration=batches"):
        aire.prune(model, 0.5, "measured")
    with pytest.raises(UserError, match=r"no moments in closed form: pass moments=aire.calibrate"):
        aire.score(model, "measured", moments=white)


def padded(layer: S6) -> nnx.Module:
    """A model of one layer that takes lengths."""

    class Padded(nnx.Module):
        def __init__(self):
            self.ssm = layer

        def __call__(self, x, lengths=None):
            return self.ssm(x)

    return Padded()


def phi(layer: S6, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The features (B, L, H, R, N, N) of a layer in float64, and what it returns besides: W (s ∘ D x)."""
    w = watch(layer, u)
    s, W = silu(w["z"]), w["p"]["out_proj"]
    features = np.einsum("hd,btd,rbtdm,rbtn->bthrnm", W, s, w["h"], w["C"])
    return features, (s * w["p"]["D"] * w["x"]) @ W.T


@BOTH
def test_the_covariance_is_that_of_the_features(bidirectional):
    """Padded sequences, both forms of the scan, and the layer's output as the sum of its own features."""
    layer, u, lengths = make(bidirectional), RNG.normal(size=(3, 20, H)).astype(np.float32), np.array([20, 13, 1])
    true = np.arange(20) < lengths[:, None]
    features, rest = phi(layer, u)
    own = np.einsum("bthrmm->bth", features) + rest
    np.testing.assert_allclose(jax.jit(lambda u: layer(u))(u), own, rtol=1e-4, atol=1e-4)
    flat_features = features[true].reshape(34 * H, -1)
    expected = flat_features.T @ flat_features / 34
    moments = aire.calibrate(padded(layer), [{"x": u, "lengths": lengths}], covariance=True)["ssm"]
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(moments.covariance()[0], expected, rtol=1e-4, atol=atol)
    G = moments.readout(layer.modes())[0, 0]
    np.testing.assert_allclose(flat_features @ G, (own - rest)[true].ravel(), rtol=1e-6)
    sums = jax.jit(lambda u, weights, y: selective.sums(layer, jnp.arange(N), u, weights, y))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selective, "by_platform", lambda f, form, *args: f(FORMS["chunked"], *args))
        found = sums(u, true[None].astype(np.float32), own.astype(np.float32))
    np.testing.assert_allclose(found["zz"][0] / 34, expected, rtol=1e-4, atol=atol)
    e = (own - rest)[true].ravel()
    np.testing.assert_allclose(found["zy"][0], flat_features.T @ e, rtol=1e-3, atol=1e-4 * np.abs(e @ e))
    np.testing.assert_allclose(found["yy"][0], e @ e, rtol=1e-4)


def test_the_surgeon_finds_the_errors_of_brute_force():
    """In two directions. Brute force drops the state whose loss least squares on the others makes up for best."""
    layer, u = make(True, n_states=4), np.random.default_rng(5).normal(size=(4, 40, H)).astype(np.float32)
    features, rest = phi(layer, u)
    y = np.einsum("bthrmm->bth", features).reshape(-1)
    energy = ((np.einsum("bthrmm->bth", features) + rest) ** 2).sum()

    def error(kept: list[int]) -> float:
        z = features[..., kept].reshape(y.size, -1)
        return float(((y - z @ np.linalg.lstsq(z, y, rcond=None)[0]) ** 2).sum() / energy)

    left, expected = list(range(4)), np.zeros(4)
    while left:
        errors = {m: error([k for k in left if k != m]) for m in left}
        gone = min(errors, key=errors.get)
        expected[gone] = errors[gone]
        left.remove(gone)
    moments = aire.calibrate(layer, [u], covariance=True)
    found = aire.score(layer, "surgeon", moments=moments, normalize="none")[""]
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    without = aire.prune(layer, 0.5, "surgeon_order", calibration=[u])
    keep = without.keep[""]
    own = np.einsum("bthrmm->bthm", features)[..., ~keep].sum(axis=-1)
    np.testing.assert_allclose(without.errors[""].predicted, (own**2).sum() / energy, rtol=1e-3)
    _, *measured = without.errors[""]  # on the parts of the sequences
    assert min(measured) < without.errors[""].predicted < max(measured)


def test_the_refit_is_least_squares():
    """In two directions: on the sequences of the fit, no other gates of the kept states give a smaller error."""
    layer, u = make(True, n_states=4), np.random.default_rng(6).normal(size=(8, 40, H)).astype(np.float32)
    result = aire.prune(layer, 0.5, "surgeon", calibration=[u])
    fit, (features, rest) = np.arange(8) % 4 != 1, phi(layer, u)
    y = np.einsum("bthrmm->bth", features)
    z = features[fit][..., result.keep[""]].reshape(y[fit].size, -1)
    best = ((y[fit].ravel() - z @ np.linalg.lstsq(z, y[fit].ravel(), rcond=None)[0]) ** 2).sum()
    refitted = np.asarray(jax.jit(lambda u: result.model(u))(u), np.float64)
    found = ((y + rest - refitted)[fit] ** 2).sum()
    np.testing.assert_allclose(found, best, rtol=1e-3)
    plain = np.asarray(aire.cut(layer, result.keep)(u), np.float64)
    assert found < 0.8 * ((y + rest - plain)[fit] ** 2).sum()
    assert result.cut.changed("") == "readout refitted"


@pytest.mark.filterwarnings("ignore::aire.pruning.refit.RefitWarning")  # nothing to fit
def test_a_refit_of_a_layer_without_states(model):
    """The other layer is refitted as usual."""
    keep = {"blocks/0/ssm": np.zeros(5, bool), "blocks/1/ssm": np.array([1, 1, 0, 0], bool)}
    batches = np.random.default_rng(8).integers(0, 20, (32, 24))
    cut = refit(model, aire.Cut(keep), Calibration([batches]))
    assert set(cut.readouts) <= {"blocks/1/ssm"}
    np.testing.assert_allclose(
        logits(aire.cut(model, cut), TOKENS), logits(aire.mask(model, cut), TOKENS), rtol=1e-4, atol=1e-5
    )


@pytest.mark.usefixtures("jax_defaults")  # optax relies on the promotion of dtypes
def test_reconstruct_fits_further_than_the_refit():
    """One layer: its held-out error is not above that of the refit, and other parameters than the readout changed."""
    layer, u = make(n_states=4), np.random.default_rng(7).normal(size=(8, 30, H)).astype(np.float32)
    results = [aire.prune(layer, 0.75, method, calibration=[u]) for method in ("surgeon", "reconstruct")]
    refitted, fitted = (result.errors[""].held_out for result in results)
    assert fitted < 0.97 * refitted
    cut = results[1].cut
    assert cut.changed("") == "fitted" and {"A_log", "dt_bias"} <= set(cut.fitted[""]) and "" in cut.readouts
    np.testing.assert_allclose(
        *(call(m, u, method="__call__") for m in (results[1].model, aire.mask(layer, cut))), rtol=1e-3, atol=1e-4
    )


def test_a_refit_uses_the_gates_of_states_that_are_cut():
    """Two states with equal modes and different gates: one of them with the sum of both gates is the whole layer."""
    layer = make(n_states=2)
    A_log, x_proj_B = np.array(layer.A_log[...]), np.array(layer.x_proj_B[...])
    A_log[:, 1], x_proj_B[1] = A_log[:, 0], x_proj_B[0]
    layer, u = (
        layer.with_parameters({"A_log": A_log, "x_proj_B": x_proj_B}),
        RNG.normal(size=(4, 20, H)).astype(np.float32),
    )
    result = aire.prune(layer, 0.5, "surgeon", calibration=[u])
    assert result.states == (2, 1)
    np.testing.assert_allclose(result.model(u), layer(u), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(result.model.x_proj_C[:, 0], layer.x_proj_C[...].sum(axis=1), rtol=0.01, atol=0.01)


def test_mistakes_are_named(model):
    moments = aire.calibrate(model, [TOKENS])
    with pytest.raises(UserError, match=r"moments without covariance: pass aire.calibrate\(model, batches, covariance"):
        aire.score(model, "surgeon", moments=moments)
    with pytest.raises(UserError, match=r"readout with C \[1, 1, 5\] and D \[8\]: expected C \[1, 8, 5\] and D \[8\]"):
        layers(model)["blocks/0/ssm"].with_readout(np.zeros((1, 1, 5)), np.zeros(D))
    with pytest.raises(UserError, match="C has dtype complex128: expected real numbers"):
        layers(model)["blocks/0/ssm"].with_readout(np.zeros((1, D, 5), complex), np.zeros(D))


class Two(nnx.Module):
    """Two layers in a row. The first has no skip, so that its states alone make the inputs of the second."""

    def __init__(self):
        self.first, self.second = make(n_states=5, D=np.zeros(D)), make(n_states=4)

    def __call__(self, x):
        return self.second(self.first(x))


def test_recalibration_sees_the_layers_before_cut():
    """GHOST's rule by hand: the first layer by the whole model's moments, the second by those behind the cut layer.

    On these inputs the second layer would keep another state by the whole model's moments.
    """
    model, u = Two(), np.random.default_rng(3).normal(size=(4, 24, H)).astype(np.float32)
    found = aire.prune(model, 0.75, "ghost", calibration=[u]).keep
    keep = {"first": np.ones(5, bool), "second": np.ones(4, bool)}
    for path in keep:
        masked = aire.mask(model, keep)
        energies = aire.score(masked, "measured", moments=aire.calibrate(masked, [u]))[path]
        keep[path] = np.arange(energies.size) == np.argmax(energies)
    assert {path: mask.tolist() for path, mask in found.items()} == {path: mask.tolist() for path, mask in keep.items()}
    whole = aire.prune(model, 0.75, aire.Method("measured", "none", "uniform"), calibration=[u]).keep
    assert [np.array_equal(whole[path], found[path]) for path in keep] == [True, False]


def test_recalibration_keeps_the_sizes_of_the_cut(model):
    cut = aire.Cut({"blocks/0/ssm": np.array([1, 0, 0, 0, 0], bool), "blocks/1/ssm": np.ones(4, bool)})
    again = aire.pruning.recalibrated("aire")(model, cut, Calibration([TOKENS]))
    best = np.argmax(aire.score(model, moments=aire.calibrate(model, [TOKENS]))["blocks/0/ssm"])
    assert np.flatnonzero(again.keep["blocks/0/ssm"]).tolist() == [best] and np.all(again.keep["blocks/1/ssm"])
    whole = aire.Cut({path: np.ones(mask.size, bool) for path, mask in cut.keep.items()})
    assert aire.pruning.recalibrated("aire")(model, whole, Calibration([])) is whole


def test_the_summary_says_what_the_cut_buys(model):
    result = aire.prune(model, 1 / 3, "aire", scope="uniform", calibration=[TOKENS])
    layer = layers(model)["blocks/0/ssm"]
    assert state_bytes(layer) == 4 * (3 * D + 5 * D) and state_bytes(S5(4, 6, S5Config(), rngs=nnx.Rngs(0))) == 48
    text = result.summary(TOKENS)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert any(row.startswith("blocks/0/ssm 5 → 3") and row.endswith("256 → 192") for row in rows)
    assert (
        sum(row.startswith(("a sequence", "a token")) for row in rows) == 2 and "milliseconds" not in result.summary()
    )
    assert result.uncut is model and 0 < result.layers[0].energy_kept < 1
    assert np.isnan(aire.prune(model, 0.5, "random").layers[0].energy_kept)


def test_milliseconds_are_of_a_sequence_and_of_a_step(model, monkeypatch):
    monkeypatch.setattr(
        speed, "interleaved", lambda calls: [call() for call in calls.values()] and {"0": 3.0, "1": 1.5}
    )
    found = speed.milliseconds(model, model, TOKENS)
    assert found == {"a sequence": (500.0, 250.0), "a token, all layers": (3000.0, 1500.0)}
    both = aire.Classifier(aire.ModelConfig(20, 4, 10, (2,), S6Config(bidirectional=True), **MAMBA), rngs=nnx.Rngs(0))
    assert list(speed.milliseconds(both, both, TOKENS, np.full(6, 24))) == ["a sequence"]


def test_scores_of_linear_layers_ignore_units():
    """Where each mode is a state, measured_output is measured, and random is as without units."""
    layer = S5(4, 6, S5Config(), rngs=nnx.Rngs(0))
    moments = aire.calibrate(layer, [RNG.normal(size=(2, 9, 4)).astype(np.float32)])
    a, b = (aire.score(layer, name, moments=moments)[""] for name in ("measured", "measured_output"))
    np.testing.assert_array_equal(a, b)
    key = jax.random.key(0)
    modes = layer.modes()
    own = dataclasses.replace(modes, unit=jnp.arange(6))
    np.testing.assert_array_equal(scores.get("random")(modes, key=key), scores.get("random")(own, key=key))
