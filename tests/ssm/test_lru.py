"""The LRU layer: the recurrence against a loop in float64, initialisation, digits near the unit circle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.ssm import LRU, LRUConfig
from aire.utils.errors import UserError
from tests.helpers import forward, stepwise

BOTH = pytest.mark.parametrize("bidirectional", [False, True])


def make(d_model=3, n_states=6, seed=0, **options) -> LRU:
    return LRU(d_model, n_states, LRUConfig(**options), rngs=nnx.Rngs(seed))


def inputs(length=40, d_model=3, batch=2):
    return np.random.default_rng(0).normal(size=(batch, length, d_model)).astype(np.float32)


def one_way(layer: LRU, direction: int) -> LRU:
    """The one-directional layer with one of the output maps of a bidirectional one."""
    alone = make(layer.D.size, layer.n_states)
    for name in (*LRU.STATE_AXIS, "D"):
        array = getattr(layer, name)[...]
        setattr(alone, name, nnx.Param(array[direction : direction + 1] if name in ("C_re", "C_im") else array))
    return alone


@pytest.mark.parametrize("r_max", [0.5, 0.9999])
def test_layer_equals_a_loop(r_max):
    """x_k = λ x_{k-1} + γ B u_k, one step after another in float64, from the parameters themselves."""
    layer, u = make(r_max=r_max), inputs()
    p = {name: np.asarray(getattr(layer, name)[...], np.float64) for name in (*LRU.STATE_AXIS, "D")}
    Lambda = np.exp(-np.exp(p["nu_log"])) * np.exp(1j * np.exp(p["theta_log"]))
    B = np.exp(p["gamma_log"])[:, None] * (p["B_re"] + 1j * p["B_im"])
    x, expected = 0, np.zeros(u.shape)
    for k in range(u.shape[1]):
        x = x * Lambda + u[:, k] @ B.T
        expected[:, k] = (x @ (p["C_re"][0] + 1j * p["C_im"][0]).T).real + p["D"] * u[:, k]
    np.testing.assert_allclose(forward(layer, u), expected, rtol=1e-4, atol=1e-5)


def test_step_over_a_sequence_equals_the_whole_call():
    layer, u = make(), inputs()
    np.testing.assert_allclose(stepwise(layer, u), forward(layer, u), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="one-directional"):
        make(bidirectional=True).step(jnp.asarray(u[:, 0]), layer.initial_state(2))


def test_two_directions_are_each_alone():
    layer, u = make(bidirectional=True), inputs()
    onward, backward = forward(one_way(layer, 0), u), forward(one_way(layer, 1), u[:, ::-1])[:, ::-1]
    expected = onward + backward - np.asarray(layer.D[...]) * u
    np.testing.assert_allclose(forward(layer, u), expected, rtol=1e-4, atol=1e-5)


def test_eigenvalues_begin_uniform_on_the_ring():
    """Uniform in area: |λ|² is uniform between r_min² and r_max²; the phase is uniform up to max_phase."""
    Lambda = np.asarray(make(n_states=4096, r_min=0.4, r_max=0.8, max_phase=1.0).modes().Lambda_bar)
    shares = np.linspace(0, 1, 9)
    np.testing.assert_allclose(np.quantile(np.abs(Lambda) ** 2, shares), 0.16 + 0.48 * shares, atol=0.02)
    np.testing.assert_allclose(np.quantile(np.angle(Lambda), shares), shares, atol=0.04)
    assert abs(np.corrcoef(np.abs(Lambda), np.angle(Lambda))[0, 1]) < 0.05


def test_variances_of_the_maps_begin_as_in_the_paper():
    layer = make(d_model=128, n_states=256)
    expected = {"B_re": 1 / 256, "B_im": 1 / 256, "C_re": 1 / 256, "C_im": 1 / 256}
    for name, variance in expected.items():
        np.testing.assert_allclose(np.var(getattr(layer, name)[...]), variance, rtol=0.05)
    np.testing.assert_allclose(np.var(make(d_model=4096, n_states=1).D[...]), 1, rtol=0.1)


@pytest.mark.parametrize("options", [{}, {"r_min": 0.999, "r_max": 0.99999}])
def test_states_begin_with_the_variance_of_their_drive(options):
    """The initial γ makes the variance of a state under white noise γ² ‖B‖² / (1 − |λ|²) = ‖B‖²."""
    layer = make(n_states=64, **options)
    m = layer.modes()
    drive = np.sum(np.asarray(layer.B_re[...]) ** 2 + np.asarray(layer.B_im[...]) ** 2, axis=1)
    np.testing.assert_allclose(np.sum(np.abs(m.B_bar) ** 2, axis=1) / m.margin, drive, rtol=1e-5)


@pytest.mark.parametrize("options", [{}, {"r_min": 1 - 1e-8}, {"r_max": 1e-30}, {"max_phase": 1e-30}])
def test_no_ring_has_infinite_parameters_or_gradients(options):
    """Also where float32 rounds |λ| to 0 or to 1."""
    layer, u = make(n_states=200, bidirectional=True, **options), inputs()
    gradients = nnx.jit(nnx.grad(lambda layer: jnp.sum(layer(u) ** 2)))(layer)
    arrays = jax.tree.leaves((nnx.state(layer), nnx.state(gradients)))
    assert len(arrays) == 16 and all(np.isfinite(a).all() for a in arrays)
    assert (np.asarray(layer.margin()) > 0).all()


@pytest.mark.parametrize("nu", [1e-12, 1e-7, 1e-3, 0.7, 30.0])
def test_margin_keeps_its_digits_near_the_unit_circle(nu):
    """1 − |λ|² of |λ| = exp(−ν) to float32 precision, which a subtraction would lose."""
    layer = make(n_states=1)
    layer.nu_log[...] = jnp.log(jnp.full(1, nu, jnp.float32))
    np.testing.assert_allclose(layer.margin(), -np.expm1(-2 * nu), rtol=1e-5)


@pytest.mark.parametrize("n_states", [0, 1, 5])
@BOTH
def test_any_state_count_initialises_and_runs(n_states, bidirectional):
    layer, u = make(n_states=n_states, bidirectional=bidirectional), inputs()
    assert layer.n_states == n_states and layer.C_re.shape == (1 + bidirectional, 3, n_states)
    y = np.asarray(forward(layer, u))
    if n_states:
        assert np.isfinite(y).all()
    else:
        np.testing.assert_array_equal(y, np.asarray(layer.D[...]) * u)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"r_min": -0.1}, "r_min=-0.1: expected a number >= 0 and <= 1"),
        ({"r_min": 0.5, "r_max": 0.5}, "r_min=0.5, r_max=0.5: expected r_min < r_max"),
        ({"r_max": 1.1}, "r_max=1.1: expected a number >= 0 and <= 1"),
        ({"r_max": float("nan")}, "r_max=nan: expected a number >= 0 and <= 1"),
        ({"max_phase": 0.0}, "max_phase=0.0: expected a number > 0"),
        ({"max_phase": float("inf")}, "max_phase=inf: expected a number > 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        LRUConfig(**options)
