"""Reconstruct: the fit of a layer, the parameters it leaves alone, the choice on held-out sequences, resuming."""

import numpy as np
import pytest
from flax import nnx

import aire
from aire.pruning import Calibration, Cut, apply
from aire.pruning import reconstruct as module
from aire.pruning.fit import FitConfig, LayerData, fit_layer
from aire.pruning.reconstruct import reconstruct
from aire.pruning.refit import refit
from aire.ssm import LRU, LRUConfig, layers
from tests.helpers import call

pytestmark = pytest.mark.usefixtures("jax_defaults")  # optax relies on the promotion of dtypes

FEW = FitConfig(steps=40, batch_size=8, lr=0.02)


def sequences(S=16, L=24, H=4, seed=0):
    return np.random.default_rng(seed).normal(size=(S, L, H)).astype(np.float32)


def outputs(layer, u):
    return np.asarray(call(layer, u, method="system"))


@pytest.fixture(params=["s5", "s4d", "lru"])
def layer(request, make_layer, make_bank):
    if request.param == "s5":
        return make_layer(4, 6, dt_min=0.05, bidirectional=True)
    if request.param == "s4d":
        return make_bank(dt_min=0.05)
    return LRU(4, 6, LRUConfig(r_min=0.5, r_max=0.9), rngs=nnx.Rngs(0))


def test_the_fit_finds_the_parameters_behind_the_outputs(layer):
    """The target outputs come from the kept states alone. The fit starts from perturbed eigenvalues."""
    n, u = layer.n_states, sequences()
    keep = np.random.default_rng(1).random(n) < 0.6
    target = layer.mask(keep)
    mask = np.ones(u.shape[:2], np.float32)
    mask[:, 20:] = 0
    y = np.where(mask[..., None], outputs(target, u), 1e3)  # padding must not matter
    rng = np.random.default_rng(2)
    poles = [name for name, role in layer.ROLES.items() if role == "eigenvalue"]
    start = target.with_parameters(
        {name: np.asarray(getattr(layer, name)[...]) * (1 + 0.2 * rng.random(n)) for name in poles}
    )
    fitted = fit_layer(start, keep, LayerData(u, y, mask), FitConfig(steps=200, batch_size=8, lr=0.02))

    def error(candidate):
        return np.sum(mask[..., None] * (outputs(candidate, u) - y) ** 2) / np.sum(mask[..., None] * y**2)

    assert error(fitted) < 0.05 * error(start)
    for name, axis in layer.STATE_AXIS.items():
        before, after = (np.moveaxis(np.asarray(getattr(x, name)[...]), axis, 0)[~keep] for x in (start, fitted))
        np.testing.assert_array_equal(after, before)


@pytest.fixture(scope="module")
def calibrated(request):
    config = aire.ModelConfig(4, 8, 5, (6, 6), aire.ssm.S5Config(bidirectional=True, blocks=2, clip_eigs=True))
    model = aire.Classifier(config, rngs=nnx.Rngs(0))
    model.eval()
    lengths = np.random.default_rng(3).integers(6, 25, 32)
    batches = [{"x": sequences(16, seed=s), "lengths": lengths[16 * s : 16 * s + 16]} for s in range(2)]
    keep = {path: np.arange(6) % 2 == i for i, path in enumerate(layers(model))}
    return model, Cut(keep), batches


@pytest.fixture(scope="module")
def fitted(calibrated):
    model, cut, batches = calibrated
    return reconstruct(model, cut, Calibration(batches), FEW)


def errors(model, cut, batches):
    """The relative error of each layer's outputs on held-out sequences, along the cut model."""
    found, split = {}, module.split_batches(batches)
    uncut = nnx.clone(model)
    uncut.eval()
    for path in layers(model):
        data = module.layer_data(uncut, module.apply_masked(uncut, cut), path, split)[1]
        y = outputs(layers(apply(uncut, cut))[path], data.u)
        found[path] = np.sum(data.mask[..., None] * (y - data.y) ** 2) / np.sum(data.mask[..., None] * data.y**2)
    return found


def test_fitted_layers_are_closer_to_the_uncut_ones_than_refitted_layers(calibrated, fitted):
    model, cut, batches = calibrated
    by_refit, by_fit = (errors(model, c, batches) for c in (refit(model, cut, Calibration(batches)), fitted))
    first, second = by_fit
    assert by_fit[first] < 0.9 * by_refit[first] and by_fit[second] < by_refit[second]
    assert fitted.digest() == reconstruct(model, cut, Calibration(batches), FEW).digest()
    assert {fitted.changed(path) for path in layers(model)} == {"fitted"}


def test_a_fit_that_is_worse_on_held_out_sequences_is_discarded(calibrated):
    model, cut, batches = calibrated
    thrown = reconstruct(model, cut, Calibration(batches), FitConfig(steps=5, batch_size=8, lr=1e3))
    assert {thrown.changed(path) for path in layers(model)} == {"readout refitted"}
    for path, layer in layers(apply(model, thrown)).items():
        for name in ("Lambda_re", "Lambda_im", "log_step", "B_re"):
            np.testing.assert_array_equal(getattr(layer, name), getattr(layers(apply(model, cut))[path], name))


def test_a_stopped_reconstruction_resumes_after_the_last_finished_layer(calibrated, fitted, monkeypatch):
    model, cut, batches = calibrated
    fits, fit, calls = {}, module.fit_layer, []

    def stop_in_the_second(*args):
        if calls:
            raise KeyboardInterrupt
        calls.append(args)
        return fit(*args)

    monkeypatch.setattr(module, "fit_layer", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        reconstruct(model, cut, Calibration(batches, fits), FEW)
    calls.clear()
    assert reconstruct(model, cut, Calibration(batches, fits), FEW).digest() == fitted.digest()
