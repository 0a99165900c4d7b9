"""The S5 layer: discretisation against SciPy, step against the whole sequence, conjugate symmetry, initialisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from aire import convert
from aire.ssm import S5, S5Config, hippo
from aire.ssm.discretize import DISCRETIZATIONS
from aire.utils.errors import UserError
from tests.helpers import forward, stepwise

BOTH = pytest.mark.parametrize("bidirectional", [False, True])


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_discretisation_equals_scipy(method, x64):
    rng = np.random.default_rng(0)
    Lambda = -rng.uniform(0.1, 2, 4) + 1j * rng.normal(size=4)
    B = rng.normal(size=(4, 3)) + 1j * rng.normal(size=(4, 3))
    discretize, margin = DISCRETIZATIONS[method]
    Delta = np.full(4, 0.07)
    Lambda_bar, B_bar = discretize(jnp.asarray(Lambda), jnp.asarray(B), jnp.asarray(Delta))
    A_d, B_d, *_ = scipy.signal.cont2discrete((np.diag(Lambda), B, np.eye(4), np.zeros((4, 3))), 0.07, method=method)
    np.testing.assert_allclose(np.diag(Lambda_bar), A_d, atol=1e-12)
    np.testing.assert_allclose(B_bar, B_d, rtol=1e-10)
    np.testing.assert_allclose(
        margin(jnp.asarray(Lambda), jnp.asarray(Delta)), 1 - np.abs(np.diag(A_d)) ** 2, rtol=1e-10
    )


@pytest.mark.parametrize("method", ["zoh", "bilinear"])
def test_margin_keeps_its_digits_near_the_unit_circle(method):
    """Path-X style: Δ = 1e-4, so 1 − |λ̄|² = 1e-4 to all float32 digits, which subtraction would lose."""
    _, margin = DISCRETIZATIONS[method]
    actual = margin(jnp.asarray([-0.5 + 3j], jnp.complex64), jnp.asarray([1e-4], jnp.float32))
    exact = -np.expm1(-1e-4) if method == "zoh" else 1e-4 / abs(1 - (-0.5 + 3j) * 0.5e-4) ** 2
    np.testing.assert_allclose(actual, exact, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"discretization": "bilinear"}, {"conj_sym": False}, {"clip_eigs": True}])
def test_step_over_a_sequence_equals_the_whole_call(make_layer, options):
    layer = make_layer(**options)
    u = jax.random.normal(jax.random.key(0), (2, 50, 3))
    np.testing.assert_allclose(stepwise(layer, u), forward(layer, u), rtol=1e-4, atol=1e-5)


def test_step_of_a_bidirectional_layer_is_refused(make_layer):
    layer = make_layer(bidirectional=True)
    with pytest.raises(UserError, match="one-directional"):
        layer.step(jnp.zeros((1, 3)), layer.initial_state(1))


@BOTH
def test_layer_equals_dense_convolution(make_layer, bidirectional):
    """y_k = Σ_j 2 Re(C λ̄^|k−j| B̄) u_j + D u_k, each direction with its own C, summed by hand in float64."""
    layer = make_layer(bidirectional=bidirectional)
    u = np.random.default_rng(0).normal(size=(1, 30, 3)).astype(np.float32)
    m = layer.modes()
    lam, B, C = (np.asarray(a, np.complex128) for a in (m.Lambda_bar, m.B_bar, m.C))
    expected = u[0] * np.asarray(layer.D[...], np.float64)
    for k in range(30):
        for j in range(30):
            for direction in range(len(C)):
                if (j <= k, j >= k)[direction]:
                    expected[k] += 2 * ((C[direction] * lam ** abs(k - j)) @ B).real @ u[0, j]
    np.testing.assert_allclose(forward(layer, u)[0], expected, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_conjugate_symmetry_on_and_off_agree(make_layer, bidirectional, discretization):
    """Half of the pairs with symmetry on is the same system as both halves with it off."""
    layer = make_layer(bidirectional=bidirectional, discretization=discretization)
    half = {name: np.asarray(getattr(layer, name)[...]) for name in ("Lambda_re", "Lambda_im", "log_step", "D")}
    B = np.stack([layer.B_re[...], layer.B_im[...]], axis=-1)
    C = np.stack([layer.C_re[...], layer.C_im[...]], axis=-1)
    conj = np.array([1, -1], np.float32)
    whole = {
        "Lambda_re": np.tile(half["Lambda_re"], 2),
        "Lambda_im": np.concatenate([half["Lambda_im"], -half["Lambda_im"]]),
        "log_step": np.tile(half["log_step"], 2)[:, None],
        "D": half["D"],
        "B": np.concatenate([B, B * conj]),
    }
    C = np.concatenate([C, C * conj], axis=2)
    whole |= {"C1": C[0], "C2": C[1]} if bidirectional else {"C": C[0]}
    full = convert.s5_layer(whole, conj_sym=False, bidirectional=bidirectional, discretization=discretization)
    u = jax.random.normal(jax.random.key(1), (2, 40, 3))
    np.testing.assert_allclose(forward(full, u), forward(layer, u), rtol=1e-4, atol=1e-5)


def test_hippo_n_is_the_normal_part_of_hippo_legs():
    """V diag(Λ) Vᴴ = A + p pᵀ with A the HiPPO-LegS matrix written from its definition."""
    n = np.arange(8)
    A = -np.where(n[:, None] > n, np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), np.diag(n + 1.0))
    p = np.sqrt(n + 0.5)
    Lambda, V = hippo.hippo_n(8)
    np.testing.assert_allclose(V * Lambda @ V.conj().T, A + np.outer(p, p), atol=1e-12)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(8), atol=1e-12)


@pytest.mark.parametrize(
    "n_states,C_init",
    [(n, "lecun_normal") for n in (0, 1, 5, 6, 7)]
    + [(n, C_init) for n in (0, 5) for C_init in ("trunc_standard_normal", "complex_normal")],
)
@BOTH
def test_any_state_count_initialises_and_runs(make_layer, n_states, C_init, bidirectional):
    layer = make_layer(n_states=n_states, C_init=C_init, bidirectional=bidirectional, blocks=4)
    assert layer.C_re.shape == (1 + bidirectional, 3, n_states)
    assert np.isfinite(forward(layer, jnp.ones((1, 9, 3)))).all()


@pytest.mark.parametrize(
    "C_init,variance", [("lecun_normal", 1 / (512 * 64)), ("trunc_standard_normal", 1 / 64), ("complex_normal", 0.5)]
)
def test_variance_of_C(make_layer, C_init, variance):
    """The reference draws C over (H, 2P), lecun over the whole or per row; V is unitary, so the variance stays."""
    layer = make_layer(d_model=512, n_states=32, blocks=1, C_init=C_init)
    drawn = 0.5 * np.mean(np.asarray(layer.C_re[...]) ** 2 + np.asarray(layer.C_im[...]) ** 2)
    np.testing.assert_allclose(drawn, variance, rtol=0.05)


def test_time_steps_are_log_uniform():
    layer = S5(1, 2048, S5Config(blocks=1024, dt_min=1e-3, dt_max=1e-1), rngs=nnx.Rngs(0))
    log_step = np.asarray(layer.log_step[...])
    quantiles = np.quantile(log_step, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(quantiles, np.linspace(np.log(1e-3), np.log(1e-1), 5), atol=0.15)


def test_step_rescale_runs_at_another_rate(make_layer):
    """Half the samples of a slow input with twice the step size give about the same output at the same times."""
    fine, coarse = make_layer(dt_min=1e-3, dt_max=2e-3), make_layer(dt_min=1e-3, dt_max=2e-3, step_rescale=2.0)
    u = np.sin(np.linspace(0, 3, 400))[None, :, None] * np.ones((1, 1, 3), np.float32)
    a, b = np.asarray(fine(u)[:, 1::2]), np.asarray(coarse(u[:, 1::2]))
    assert np.abs(a - b).max() < 0.02 * np.abs(a).max()


def test_clip_eigs_holds_the_real_part_below_zero(make_layer):
    layer = make_layer(clip_eigs=True)
    layer.Lambda_re[...] = jnp.full(6, 0.3, jnp.float32)
    assert (np.asarray(layer.modes().margin) > 0).all()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"discretization": "euler"}, "discretization='euler': expected one of"),
        ({"C_init": "zeros"}, "C_init='zeros': expected one of"),
        ({"dt_min": 0.1, "dt_max": 0.01}, "dt_min=0.1, dt_max=0.01: expected dt_min <= dt_max"),
        ({"dt_max": float("inf")}, "dt_max=inf: expected a number > 0"),
        ({"blocks": 0}, "blocks=0: expected a whole number from 1 to 1,024"),
        ({"blocks": 2.0}, "blocks=2.0: expected a whole number"),
        ({"step_rescale": float("nan")}, "step_rescale=nan: expected a number > 0"),
        ({"step_rescale": None}, "step_rescale=None: expected a number > 0"),
        ({"conj_sym": None}, "conj_sym=None: expected True or False"),
        ({"bidirectional": 1}, "bidirectional=1: expected True or False"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        S5Config(**options)


def test_layer_compiles_without_complex_matmuls(make_layer):
    """The scan and all matmuls use real arithmetic: the program for XLA has no complex dot."""
    whole, one = make_layer(bidirectional=True), make_layer()
    for program in (
        jax.jit(lambda u: whole(u)).lower(jnp.zeros((2, 16, 3))),
        jax.jit(lambda u, x: one.step(u, x)).lower(jnp.zeros((2, 3)), one.initial_state(2)),
    ):
        dots = [line for line in program.as_text().splitlines() if "dot_general" in line]
        assert dots and not [line for line in dots if "complex" in line]


def test_integers_are_inputs_like_floats(make_layer, make_bank):
    for layer, features in ((make_layer(), 3), (make_bank(), 4)):
        u = np.random.default_rng(0).integers(-3, 4, (2, 9, features))
        np.testing.assert_array_equal(layer(u), layer(u.astype(np.float32)))


def test_time_steps_may_be_integers_of_any_size(make_layer):
    layer = make_layer(dt_min=1, dt_max=10**30)
    assert np.isfinite(layer.log_step[...]).all()
