"""Scores of modes from very slow to fast, against float64: they do not inherit the rounding of the model's B̄."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aire

N, H = 4, 3
EPSILON = np.finfo(np.float32).eps

# The magnitude and angle of ΛΔ, and Δ. The largest angle is that of a real mode.
sizes = st.lists(st.floats(-12, 1).map(lambda x: 10**x), min_size=N, max_size=N)
angles = st.lists(st.floats(0.501, 1).map(lambda x: np.pi * x), min_size=N, max_size=N)
steps = st.lists(st.floats(-3, 0).map(lambda x: 10**x), min_size=N, max_size=N)
few = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def with_poles(layer, z, Delta):
    """Set the eigenvalues and the time steps of a layer to float32 numbers near these."""
    Lambda = z / Delta
    layer.Lambda_re[...], layer.Lambda_im[...] = Lambda.real.astype(np.float32), Lambda.imag.astype(np.float32)
    layer.log_step[...] = np.log(Delta).astype(np.float32)
    return layer


def complex128(real, imag):
    return np.asarray(real[...], np.complex128) + 1j * np.asarray(imag[...], np.float64)


def exact(layer):
    """λ̄ − 1, the factor of B in B̄, and 1 − |λ̄|² in float64, from the parameters in float32."""
    Lambda = complex128(layer.Lambda_re, layer.Lambda_im)
    z = Lambda * np.exp(np.asarray(layer.log_step[...], np.float64))
    if layer.config.discretization == "zoh":
        return np.expm1(z), np.expm1(z) / Lambda, -np.expm1(2 * z.real)
    gain = z / Lambda / (1 - z / 2)
    return z / (1 - z / 2), gain, -2 * z.real / abs(1 - z / 2) ** 2


def energies(layer, name):
    """The score by its formula in the paper, in float64."""
    away, gain, margin = exact(layer)
    B, C = complex128(layer.B_re, layer.B_im), complex128(layer.C_re, layer.C_im)
    squares = abs(gain) ** 2 * np.sum(abs(B) ** 2, axis=1) * np.sum(abs(C) ** 2, axis=(0, 1))
    return squares / (margin if name == "aire" else (margin / (1 + abs(1 + away))) ** 2)


@given(sizes, angles, steps)
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
@few
def test_energies_of_slow_and_fast_modes_have_the_digits_of_float32(make_layer, discretization, sizes, angles, steps):
    z = np.array(sizes) * np.exp(1j * np.array(angles))
    layer = with_poles(make_layer(H, N, blocks=1, discretization=discretization), z, np.array(steps))
    # ΛΔ in float32 is off by |ΛΔ| ε, which matters more where λ̄ − 1 is small although |ΛΔ| is not.
    condition = 1 + abs(z) / abs(exact(layer)[0])
    for name in ("aire", "last"):
        found, expected = aire.score(layer, name, normalize="none")[""], energies(layer, name)
        assert (abs(found / expected - 1) < 20 * EPSILON * condition).all()


@pytest.mark.parametrize("size", [1e-12, 6e-8, 1e-6, 1e-3])
def test_the_slowest_mode_is_kept(make_layer, size):
    """In float32, λ̄ − 1 by subtraction is 0 below 6e-8: the mode of the largest energy would be cut first."""
    layer = with_poles(make_layer(H, N, blocks=1), -np.array([size, 0.1, 0.2, 0.3]), np.full(N, 0.01))
    layer.B_re[...], layer.B_im[...] = np.ones((N, H), np.float32), np.zeros((N, H), np.float32)
    layer.C_re[...], layer.C_im[...] = np.ones_like(layer.C_re[...]), np.zeros_like(layer.C_im[...])
    assert np.argmax(energies(layer, "aire")) == 0
    assert np.asarray(aire.prune(layer, 0.75).keep[""]).tolist() == [True, False, False, False]


def test_a_bank_has_them_too(make_bank):
    bank = make_bank(counts=(2, 2))
    bank.log_A_real[...] = np.log(np.array([1e-9, 1e-5, 1e-2, 1.0], np.float32))
    bank.A_imag[...] = np.zeros(4, np.float32)
    Delta = np.exp(np.asarray(bank.log_dt[...], np.float64))[[0, 0, 1, 1]]
    A = -np.exp(np.asarray(bank.log_A_real[...], np.float64))
    C = np.sum(abs(np.asarray(bank.readout(), np.complex128)) ** 2, axis=(0, 1))
    expected = C * (np.expm1(A * Delta) / A) ** 2 / -np.expm1(2 * A * Delta)
    np.testing.assert_allclose(aire.score(bank, normalize="none")[""], expected, rtol=20 * EPSILON)


def test_white_moments_agree_with_the_energies(make_layer):
    layer = with_poles(make_layer(H, N, blocks=1), -np.array([1e-6, 1e-4, 1e-2, 1.0]), np.full(N, 0.01))
    found = aire.pruning.moments.white(layer.modes()).energy()[0]
    C = np.sum(abs(np.asarray(layer.readout(), np.complex128)) ** 2, axis=(0, 1))
    np.testing.assert_allclose(found, energies(layer, "aire") / C, rtol=20 * EPSILON)


def test_the_model_keeps_the_references_rounding(make_layer):
    """The layer rounds B̄ as the reference does, so that outputs are the same. Scores use a more precise B̄."""
    layer = with_poles(make_layer(H, N, blocks=1), -np.array([1e-9, 1e-5, 1e-2, 1.0]), np.full(N, 0.01))
    gain = (np.exp(np.float32(-1e-5)) - np.float32(1)) / np.float32(-1e-3)
    np.testing.assert_allclose(layer.discrete()[1][1], gain * complex128(layer.B_re, layer.B_im)[1], rtol=2 * EPSILON)
    assert not layer.discrete()[1][0].any() and np.all(layer.modes().B_bar[0])
