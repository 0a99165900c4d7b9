"""The surgeon: its order, its errors and its predictions against least squares on materialised features."""

import itertools

import numpy as np
import pytest
from flax import nnx

import aire
from aire.pruning import Moments, features, surgeon
from aire.ssm import LRU, S4D, LRUConfig, Modes

STEPS = 300


def layer_on_data(counts: tuple[int, ...], directions: int, outputs: int, *, real: bool = False, seed: int = 0):
    """Modes with these numbers of states in the channels, correlated features (steps, channels, F), and C x.

    If `real`, the first state of the first channel has a zero imaginary part.
    """
    rng, channel = np.random.default_rng(seed), np.repeat(np.arange(len(counts)), counts)
    n, F, place = channel.size, 2 * directions * max(counts), features.places(channel)
    C = rng.normal(size=(directions, outputs, n)) + 1j * rng.normal(size=(directions, outputs, n))
    modes = Modes.discrete(np.full(n, 0.5), np.ones((n, 1)), C, channel=channel, scale=2.0)
    mix = rng.normal(size=(len(counts), F, F)) * rng.uniform(0.1, 2, size=F)
    z = np.einsum("tcf,cfg->tcg", rng.normal(size=(STEPS, len(counts), F)), mix)
    z *= features.mask(np.ones(n, bool), place, directions)
    if real:
        z.reshape(STEPS, len(counts), directions, 2, -1)[:, 0, :, 1, 0] = 0
    Cx = np.einsum("cof,tcf->tco", features.readout(modes), z)
    moments = Moments(STEPS, np.einsum("tcf,tcg->cfg", z, z), float((Cx**2).sum()), place, directions)
    return modes, moments, z, Cx


def residual(z: np.ndarray, Cx: np.ndarray, moments: Moments, kept: list[int]) -> float:
    """Mean ‖C x − G z_K‖² of least squares on the features of the kept states."""
    mask = features.mask(np.isin(np.arange(moments.place.shape[1]), kept), moments.place, moments.directions)
    total = 0.0
    for c, used in enumerate(mask):
        fitted = z[:, c, used] @ np.linalg.lstsq(z[:, c, used], Cx[:, c], rcond=None)[0]
        total += ((Cx[:, c] - fitted) ** 2).sum() / STEPS
    return total


def greedy(z, Cx, moments):
    """The states in the order in which brute force drops them, and the error after each."""
    left, order, errors = list(range(moments.place.shape[1])), [], []
    while left:
        trials = {i: residual(z, Cx, moments, [j for j in left if j != i]) for i in left}
        order.append(min(trials, key=trials.get))
        errors.append(trials[order[-1]])
        left.remove(order[-1])
    return order, np.array(errors)


@pytest.mark.parametrize(
    "counts,directions,outputs,real",
    [((5,), 2, 3, False), ((6,), 1, 30, True), ((3, 1, 4), 1, 1, True), ((2, 3), 2, 1, False)],
)
def test_scores_are_the_errors_of_brute_force(counts, directions, outputs, real):
    """One channel and banks of ragged channels; fewer and more outputs than features."""
    modes, moments, z, Cx = layer_on_data(counts, directions, outputs, real=real)
    order, errors = greedy(z, Cx, moments)
    found = np.asarray(surgeon.surgeon(modes, moments))
    np.testing.assert_allclose(found[order], errors / moments.output_energy(), rtol=2e-3)
    np.testing.assert_allclose(found.max(), 1, rtol=1e-4)  # without states, all of C x is lost


def test_the_order_finds_the_best_subsets():
    """Compare with all subsets of each size, in a small layer where greedy selection finds the best ones."""
    modes, moments, z, Cx = layer_on_data((6,), 1, 3, seed=1)
    scores = surgeon.surgeon(modes, moments)
    for size in range(1, 6):
        best = min(itertools.combinations(range(6), size), key=lambda kept: residual(z, Cx, moments, list(kept)))
        assert set(np.argsort(scores)[6 - size :]) == set(best)


def test_scores_do_not_depend_on_the_units():
    """Change the units of the states and of the output."""
    modes, moments, *_ = layer_on_data((5,), 2, 3)
    F = moments.outer.shape[-1]
    units = np.tile(10.0 ** np.arange(-2, 3), F // 5)
    scaled = Modes.discrete(modes.Lambda_bar, modes.B_bar, 7 * np.asarray(modes.C) / units[:5], scale=2.0)
    other = Moments(STEPS, moments.outer * np.outer(units, units), 49 * moments.output, moments.place, 2)
    np.testing.assert_allclose(surgeon.surgeon(scaled, other), surgeon.surgeon(modes, moments), rtol=1e-4)


@pytest.mark.parametrize("counts,directions,outputs", [((5,), 2, 3), ((3, 1, 4), 1, 1)])
def test_predicted_errors_are_those_on_the_data(counts, directions, outputs):
    modes, moments, z, Cx = layer_on_data(counts, directions, outputs, real=True)
    for keep in (np.arange(sum(counts)) % 2 == 0, np.ones(sum(counts), bool), np.zeros(sum(counts), bool)):
        mask = features.mask(keep, moments.place, directions)
        cut = np.einsum("cof,tcf->tco", features.readout(modes) * mask[:, None], z)
        expected = [((Cx - cut) ** 2).sum() / STEPS, residual(z, Cx, moments, list(np.flatnonzero(keep)))]
        found = [surgeon.predicted_error(modes, moments, keep, refitted=r) for r in (False, True)]
        np.testing.assert_allclose(found, np.array(expected) / moments.output_energy(), rtol=2e-3, atol=1e-5)


def test_copies_of_a_state_go_first_and_cost_nothing():
    """Collinear features: the smaller costs are rounding noise, and the scores are finite and ordered."""
    modes, moments, *_ = layer_on_data((4,), 1, 2)
    twice = np.tile(np.arange(4), 2)
    copies = Modes.discrete(np.full(8, 0.5), np.ones((8, 1)), np.asarray(modes.C)[..., twice] / 2, scale=2.0)
    index = (np.arange(2)[:, None] * 4 + twice).ravel()
    outer = moments.outer[:, index[:, None], index]
    scores = np.sort(
        surgeon.surgeon(copies, Moments(STEPS, outer, moments.output, features.places(np.zeros(8, int)), 1))
    )
    assert np.isfinite(scores).all() and (scores[:4] < 1e-4).all()
    np.testing.assert_allclose(scores[4:], np.sort(surgeon.surgeon(modes, moments)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_real_readouts_of_layers(make_layer, make_bank, bidirectional):
    """G z equals s Re(C x), and converting G back gives the same C."""
    rng = np.random.default_rng(0)
    for layer in (
        make_layer(4, 6, bidirectional=bidirectional),
        make_layer(4, 6, bidirectional=bidirectional, conj_sym=False),
        make_bank(bidirectional=bidirectional),
        LRU(4, 6, LRUConfig(bidirectional=bidirectional), rngs=nnx.Rngs(0)),
    ):
        modes, place = layer.modes(), features.places(layer.channels())
        R, outputs, n = modes.C.shape
        x = rng.normal(size=(R, 2, n))
        z = np.zeros((*features.extent(place), R, 2))
        z[tuple(place)] = np.moveaxis(x, -1, 0)
        G = features.readout(modes)
        assert G.shape == (4 if outputs == 1 else 1, outputs, 2 * R * features.extent(place)[1])
        found = np.einsum("cof,cf->co", G, z.transpose(0, 2, 3, 1).reshape(len(G), -1))
        scale = 2 if getattr(layer.config, "conj_sym", isinstance(layer, S4D)) else 1  # one state for a pair
        y = scale * (np.asarray(modes.C) * (x[:, 0] + 1j * x[:, 1])[:, None]).real.sum(axis=0)  # (outputs, n)
        expected = [y[:, place[0] == c].sum(axis=1) for c in range(len(G))]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        np.testing.assert_allclose(features.complex_readout(G, place, R, modes.scale), modes.C, rtol=1e-6)


def test_the_method_cuts_by_one_threshold(make_model):
    model = make_model((6, 6), ssm={"dt_min": 0.05})
    tokens = np.random.default_rng(0).integers(0, 20, (8, 30))
    moments = aire.calibrate(model, [tokens])
    result = aire.prune(model, threshold=0.01, method="surgeon_order", calibration=[tokens])
    for path, modes in aire.modes(model).items():
        keep = np.asarray(result.keep[path])
        assert keep.any() and not keep.all()
        assert surgeon.predicted_error(modes, moments[path], keep, refitted=True) < 0.01
