"""Moments in closed form: against SciPy's Lyapunov solver, NumPy loops, and moments measured on coloured noise."""

import functools

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
from flax import nnx

import aire
from aire.pruning import moments
from aire.ssm import LRU, LRUConfig, Modes
from aire.utils.errors import UserError

RNG = np.random.default_rng(0)


def random_modes(n=5, inputs=3, radius=0.95, R=2, channel=None, scale=1.0) -> Modes:
    def complex_normal(*shape):
        return RNG.normal(size=shape) + 1j * RNG.normal(size=shape)

    lam = radius * RNG.uniform(0.3, 1, n) * np.exp(1j * RNG.uniform(0, np.pi, n))
    lam[0] = radius  # a real pole
    B, C = complex_normal(n, inputs), complex_normal(R, 2, n)
    return Modes.discrete(lam, B, C, channel=channel, scale=scale)


def real_system(modes: Modes, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A and B of z_k = A z_{k-1} + B u_k with z = [Re x; Im x] of some states."""
    lam, B = (np.asarray(a, np.complex128)[states] for a in (modes.Lambda_bar, modes.B_bar))
    A = np.block([[np.diag(lam.real), np.diag(-lam.imag)], [np.diag(lam.imag), np.diag(lam.real)]])
    return A, np.concatenate([B.real, B.imag])


CHANNELS = [None, [0, 0, 0, 2, 2]]  # one, and a bank of three with an empty one


@pytest.mark.parametrize("channel", CHANNELS)
def test_white_moments_solve_the_lyapunov_equation(x64, channel):
    """In each direction. Across directions only the current input is shared: B Bᵀ."""
    modes = random_modes(channel=channel, inputs=3 if channel is None else 1)
    found = moments.white(modes)
    W = found.covariance()
    m, channels = max(np.bincount(modes.channel)), max(modes.channel) + 1
    assert found.steps == 1 and W.shape == (channels, 4 * m, 4 * m)
    for c in range(channels):
        states = np.flatnonzero(np.asarray(modes.channel) == c)
        A, B = real_system(modes, states)
        own = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T) if states.size else A
        slots = np.concatenate([p * m + np.arange(states.size) for p in (0, 1)])
        expected = np.zeros((2, 2 * m, 2, 2 * m))
        for r, s in np.ndindex(2, 2):
            expected[r, slots[:, None], s, slots[None]] = own if r == s else B @ B.T
        np.testing.assert_allclose(W[c], expected.reshape(4 * m, 4 * m), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("length", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("radius", [0.9, 1.0, 1.05])
def test_finite_horizon_moments_are_the_mean_over_the_steps(x64, length, radius):
    """Propagate the covariance step by step, P_k = A P_{k-1} Aᵀ + B Bᵀ; also on and outside the unit circle."""
    modes = random_modes(radius=radius)
    A, B = real_system(modes, np.arange(5))
    P, total = np.zeros_like(A), np.zeros_like(A)
    for _ in range(length):
        P = A @ P @ A.T + B @ B.T
        total += P / length
    W = moments.finite_horizon(modes, length).covariance()[0]
    for block, expected in ((W[:10, :10], total), (W[10:, 10:], total), (W[:10, 10:], B @ B.T)):
        np.testing.assert_allclose(block, expected, rtol=1e-9, atol=1e-9 * abs(total).max())


def test_a_long_horizon_reaches_the_steady_state_and_a_slow_state_does_not(x64):
    """In float64, for a state with 1 − |λ̄|² = 1e-8, against 1/L Σ_k (1 − q^k)/(1 − q)."""
    modes = random_modes(radius=0.9)
    W, long = moments.white(modes).covariance(), moments.finite_horizon(modes, 10**7).covariance()
    np.testing.assert_allclose(long, W, rtol=1e-5, atol=1e-5)
    slow = Modes.discrete([np.sqrt(1 - 1e-8)], [[1.0]], [[1.0]])
    k = np.arange(1, 1025)
    expected = np.mean(-np.expm1(k * np.log1p(-1e-8)) / 1e-8)
    np.testing.assert_allclose(moments.finite_horizon(slow, 1024).energy(), [[expected]], rtol=1e-7)
    np.testing.assert_allclose(moments.white(slow).energy(), [[1e8]], rtol=1e-6)


def test_in_float32_the_margin_keeps_the_digits_of_slow_states(make_layer):
    """The white energy is ‖B̄‖² / margin, where 1 − |λ̄|² of float32 eigenvalues has lost most digits."""
    modes = make_layer(3, 6, dt_min=1e-6, dt_max=1e-5).modes()
    B, margin = np.asarray(modes.B_bar, np.complex128), np.asarray(modes.margin, np.float64)
    assert margin.max() < 1e-4
    np.testing.assert_allclose(moments.white(modes).energy()[0], (abs(B) ** 2).sum(axis=1) / margin, rtol=1e-6)


@pytest.mark.parametrize("bank", [False, True])
def test_the_score_measured_on_white_moments_is_aire(make_layer, make_bank, bank):
    layer = make_bank(bidirectional=True) if bank else make_layer(bidirectional=True)
    expected = aire.score(layer, "aire")
    for given in (moments.white, {"": moments.white(layer.modes())}):
        np.testing.assert_allclose(aire.score(layer, "measured", moments=given)[""], expected[""], rtol=1e-5)
    short = functools.partial(moments.finite_horizon, length=3)
    raw, all_steps = (aire.score(layer, "measured", moments=m, normalize="none")[""] for m in (short, moments.white))
    assert (np.asarray(raw) < np.asarray(all_steps)).all()


def test_the_output_energy_is_that_of_the_readout(x64):
    """s² Σ ‖C̃ A^k B‖² over a long impulse response of one direction."""
    modes = random_modes(radius=0.8, R=1, scale=2.0)
    A, B = real_system(modes, np.arange(5))
    C = 2 * np.asarray(modes.C[0])
    response = [np.concatenate([C.real, -C.imag], axis=1) @ np.linalg.matrix_power(A, k) @ B for k in range(300)]
    np.testing.assert_allclose(moments.white(modes).output_energy(), np.sum(np.square(response)), rtol=1e-9)


KINDS = ["s5", "lru", "s4d"]


def layer_of(kind, make_layer, make_bank):
    """Two directions, and a memory of tens of steps."""
    if kind == "s5":
        return make_layer(4, 6, bidirectional=True, dt_min=0.05)
    if kind == "lru":
        return LRU(4, 6, LRUConfig(bidirectional=True, r_min=0.5, r_max=0.95), rngs=nnx.Rngs(0))
    return make_bank(bidirectional=True, dt_min=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_measured_on_white_noise_converge_to_the_finite_horizon(make_layer, make_bank, kind):
    """Each entry is a mean over B independent sequences. The standard error is taken from 16 groups of them, at most
    5 of it; the 2 % of the largest entry cover the error of that estimate."""
    layer, L, groups = layer_of(kind, make_layer, make_bank), 40, 16
    u = np.random.default_rng(1).normal(size=(groups, 128, L, 4)).astype(np.float32)
    measured = np.stack([aire.calibrate(layer, [batch])[""].covariance() for batch in u])
    exact = moments.finite_horizon(layer.modes(), L).covariance()
    error = abs(measured.mean(axis=0) - exact)
    standard = measured.std(axis=0, ddof=1) / np.sqrt(groups)
    scale = np.sqrt(np.diagonal(exact, axis1=1, axis2=2))
    assert (error <= 5 * standard + 0.02 * scale[:, :, None] * scale[:, None]).all()
    # Another horizon gives clearly different values.
    if kind != "s4d":
        other = moments.finite_horizon(layer.modes(), L // 4).energy()
        assert (other < 0.97 * moments.finite_horizon(layer.modes(), L).energy()).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rho", [0.8, -0.5])
def test_moments_measured_on_coloured_noise_have_the_energies_of_its_closed_form(make_layer, make_bank, kind, rho):
    """AR(1) inputs of unit variance: E|x_i|² = ‖B̄_i‖² / (1 − |λ̄_i|²) Re[(1 + ρ λ̄_i) / (1 − ρ λ̄_i)]. The mean over
    groups is within 5 standard errors, and 1 % for the start from zero states (memory far below the length)."""
    layer, groups = layer_of(kind, make_layer, make_bank), 16
    noise = np.random.default_rng(2).normal(size=(groups, 4, 4000, 4))
    u = scipy.signal.lfilter([np.sqrt(1 - rho**2)], [1, -rho], noise, axis=2).astype(np.float32)
    measured = np.stack([aire.calibrate(layer, [batch])[""].energy() for batch in u])
    lam, B = (np.asarray(a, np.complex128) for a in layer.discrete())
    squares = (abs(B) ** 2).sum(axis=1)
    expected = squares / (1 - abs(lam) ** 2) * ((1 + rho * lam) / (1 - rho * lam)).real
    standard = measured.std(axis=0, ddof=1) / np.sqrt(groups)
    assert (abs(measured.mean(axis=0) - expected[None]) <= 5 * standard + 0.01 * expected[None]).all()


def test_mistakes_are_named():
    unstable = Modes.discrete([1.01], [[1.0]], [[1.0]])
    with pytest.raises(UserError, match="no steady state in an unstable layer: pass moments over a finite horizon"):
        moments.white(unstable)
    with pytest.raises(UserError, match="length=0: expected a whole number from 1"):
        moments.finite_horizon(unstable, 0)
