"""The S4D layer: kernel, convolution and recurrence against sums in float64, initialisation, ragged channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

import aire
from aire.ssm import S4D, S4DConfig, S4DLayer, hippo, recurrence
from aire.ssm.discretize import DISCRETIZATIONS, LOGARITHMS
from aire.ssm.kernel import bank_kernel, convolve
from aire.training.step import make_train_step, split_model
from aire.utils.errors import UserError
from tests.helpers import forward, stepwise

BOTH = pytest.mark.parametrize("bidirectional", [False, True])
METHODS = pytest.mark.parametrize("discretization", ["zoh", "bilinear"])


def inputs(length=40, channels=4, batch=2):
    return np.random.default_rng(0).normal(size=(batch, length, channels)).astype(np.float32)


def brute_force_kernel(layer, length) -> np.ndarray:
    """(R, H, L) in float64, one state after another, discretised by SciPy."""
    a = {name: np.asarray(getattr(layer, name)[...], np.float64) for name in ("log_A_real", "A_imag", "C_re", "C_im")}
    K = np.zeros((len(a["C_re"]), layer.D.size, length))
    for i, h in enumerate(np.asarray(layer.channel[...])):
        A = -np.exp(a["log_A_real"][i]) + 1j * a["A_imag"][i]
        system = np.array([[A]]), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1))
        dt = layer.config.step_rescale * np.exp(float(layer.log_dt[h]))
        A_bar, B_bar, *_ = scipy.signal.cont2discrete(system, dt, method=layer.config.discretization)
        C = a["C_re"][:, i] + 1j * a["C_im"][:, i]
        K[:, h] += 2 * (C[:, None] * B_bar[0, 0] * A_bar[0, 0] ** np.arange(length)).real
    return K


@METHODS
@BOTH
@pytest.mark.parametrize("length", [1, 17])
def test_kernel_equals_the_sum_over_states(make_bank, discretization, bidirectional, length):
    layer = make_bank(discretization=discretization, bidirectional=bidirectional)
    expected = brute_force_kernel(layer, length)
    assert not expected[:, 1].any()  # the empty channel
    kernel = jax.jit(lambda layer: layer.kernel(length))(layer)
    np.testing.assert_allclose(kernel, expected, atol=1e-5 * np.abs(expected).max())


@METHODS
def test_kernel_keeps_its_digits_over_long_sequences(discretization):
    """Path-X: 16,384 steps of Δ = 1e-4. Powers of a λ̄ rounded to float32 would be off by 1e-3 there."""
    Lambda, Delta, L = np.array([-0.5, -0.5 + 3j]), np.full(2, 1e-4), 16_384
    z = 1e-4 * Lambda
    exact = np.exp(z) if discretization == "zoh" else (1 + z / 2) / (1 - z / 2)
    expected = (exact[:, None] ** np.arange(L)).real
    log = LOGARITHMS[discretization](jnp.asarray(Lambda, jnp.complex64), jnp.asarray(Delta, jnp.float32))
    weights, optimised = jnp.ones((1, 2), jnp.complex64), {"xla_backend_optimization_level": 3}  # as users compile it
    kernel = jax.jit(lambda log: bank_kernel(log, weights, jnp.arange(2), 2, L), compiler_options=optimised)
    np.testing.assert_allclose(kernel(log)[0], expected, atol=3e-6)


@pytest.mark.parametrize("counts", [(9, 0, 0, 17, 0), (0, 8, 16), (1,) * 20])
def test_kernel_and_its_gradients_for_any_channels(counts, x64):
    """Compare with the explicit Vandermonde matrix and its gradients by JAX; sizes around a tile's."""
    rng, H, L = np.random.default_rng(0), len(counts), 30
    channel = np.repeat(np.arange(H, dtype=np.int32), counts)
    log_lam = -rng.uniform(0.01, 0.1, channel.size) + 1j * rng.uniform(-3, 3, channel.size)
    w = rng.normal(size=(2, channel.size)) + 1j * rng.normal(size=(2, channel.size))
    g = rng.normal(size=(2, H, L))

    def dense(log_lam, w):
        terms = (w[..., None] * jnp.exp(log_lam[:, None] * np.arange(L).astype(complex)[None])[None]).real
        return jnp.einsum("rnl,nh->rhl", terms, np.eye(H)[channel])

    def blocked(log_lam, w):
        return bank_kernel(log_lam, w, jnp.asarray(channel), H, L)

    np.testing.assert_allclose(jax.jit(blocked)(log_lam, w), jax.jit(dense)(log_lam, w), atol=1e-12)
    grad = [jax.jit(jax.grad(lambda *a, f=f: jnp.sum(g * f(*a)), argnums=(0, 1))) for f in (blocked, dense)]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), *(f(log_lam, w) for f in grad))


@METHODS
@BOTH
def test_layer_equals_the_convolution_by_hand(make_bank, discretization, bidirectional, length=17):
    """y_k = Σ_j K[|k − j|] u_j + D u_k, each direction with its own C, both with the current step."""
    layer = make_bank(discretization=discretization, bidirectional=bidirectional)
    u = inputs(length)
    expected = u * np.asarray(layer.D[...], np.float64)
    for direction, K in enumerate(brute_force_kernel(layer, length)):
        for k in range(length):
            for j in range(k + 1) if direction == 0 else range(k, length):
                expected[:, k] += K[:, abs(k - j)] * u[:, j]
    np.testing.assert_allclose(forward(layer, u), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("length", [1, 7, 16])
@pytest.mark.parametrize("directions", [1, 2])
def test_convolution_and_its_gradients_equal_the_sum(directions, length, x64):
    """Also the gradients of gradients, all derived by JAX from one dense sum."""
    keys = jax.random.split(jax.random.key(0), 3)
    u, weights = (jax.random.normal(key, (3, length, 2)) for key in keys[:2])
    K = jax.random.normal(keys[2], (directions, 2, length))

    def by_sum(u, K):
        lag = jnp.arange(length)[:, None] - jnp.arange(length)[None]
        T = sum(jnp.where(sign * lag[None] >= 0, k[:, jnp.abs(lag)], 0) for sign, k in zip((1, -1), K, strict=False))
        return jnp.einsum("hkj,bjh->bkh", T, u)

    def values(convolve, u, K):
        def loss(u, K):
            return jnp.sum(weights * convolve(u, K) ** 2)

        first = jax.grad(loss, argnums=(0, 1))
        second = jax.grad(lambda u, K: sum(jnp.sum(g**2) for g in first(u, K)), argnums=(0, 1))
        return convolve(u, K), first(u, K), second(u, K)

    def both(u, K):
        return values(convolve, u, K), values(by_sum, u, K)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), *jax.jit(both)(u, K))


@pytest.mark.parametrize("counts", [(9, 0, 0, 17, 0), (0, 3, 8), (1,) * 9])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("length", [1, 32, 75])
def test_recurrence_equals_the_sum(counts, directions, length, x64):
    """y_k = Σ_j K[|k − j|] u_j with the sum over states written out; lengths around a chunk's."""
    rng, H = np.random.default_rng(0), len(counts)
    channel = np.repeat(np.arange(H, dtype=np.int32), counts)
    log_lam = -rng.uniform(0.01, 0.1, channel.size) + 1j * rng.uniform(-3, 3, channel.size)
    w = rng.normal(size=(directions, channel.size)) + 1j * rng.normal(size=(directions, channel.size))
    u = rng.normal(size=(3, length, H))
    terms = (w[..., None] * np.exp(log_lam[:, None] * np.arange(length))).real
    lag = np.arange(length)[:, None] - np.arange(length)
    expected = np.zeros_like(u)
    for sign, K in zip((1, -1), np.einsum("rnl,nh->rhl", terms, np.eye(H)[channel]), strict=False):
        expected += np.einsum("hkj,bjh->bkh", np.where(sign * lag >= 0, K[:, np.abs(lag)], 0), u)
    y = jax.jit(recurrence.recurrence)(u, log_lam, w, jnp.asarray(channel))
    np.testing.assert_allclose(y, expected, atol=1e-11)


@BOTH
def test_layer_as_a_recurrence_has_the_outputs_and_gradients_of_the_convolution(make_bank, bidirectional, monkeypatch):
    layer = make_bank((3, 0, 1, 12), bidirectional=bidirectional)
    u = jnp.asarray(inputs(50))
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def call(params, u):
        return nnx.merge(graphdef, params, rest)(u)

    gradient = jax.grad(lambda *args: jnp.sum(call(*args) ** 2), argnums=(0, 1))

    def run(margin):
        monkeypatch.setattr(recurrence, "MARGIN", margin)
        text = [jax.jit(lambda *a, f=f: f(*a)).lower(params, u).as_text() for f in (call, gradient)]
        assert ["fft" in t for t in text] == [margin == 0, True]
        return jax.jit(lambda *args: (call(*args), gradient(*args)))(params, u)

    for a, b in zip(*(jax.tree.leaves(run(margin)) for margin in (np.inf, 0)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    monkeypatch.setattr(recurrence, "MARGIN", np.inf)
    assert "fft" in jax.jit(call).trace(params, u).lower(lowering_platforms=("cuda",)).as_text()


def test_recurrence_is_chosen_after_a_cut_of_a_large_batch():
    """The measured costs: 128 channels of 32 states, before and after a cut of 80 %; short sequences never."""
    full, cut = 128 * 32, 128 * 32 // 5
    assert not recurrence.is_faster(32, 1024, 128, 2, full) and recurrence.is_faster(32, 1024, 128, 2, cut)
    assert not recurrence.is_faster(32, 100, 128, 2, cut)


@METHODS
@pytest.mark.parametrize("layer_class,counts", [(S4D, (3, 0, 1, 4)), (S4DLayer, (3, 0, 1, 4)), (S4D, (0, 0, 0, 0))])
def test_step_over_a_sequence_equals_the_whole_call(make_bank, discretization, layer_class, counts):
    layer = make_bank(counts, layer=layer_class, discretization=discretization, step_rescale=2.0)
    u = inputs(12)
    np.testing.assert_allclose(stepwise(layer, u), forward(layer, u), rtol=1e-4, atol=1e-5)


def test_step_of_a_bidirectional_layer_is_refused(make_bank):
    layer = make_bank(bidirectional=True)
    with pytest.raises(UserError, match="one-directional"):
        layer.step(jnp.zeros((1, 4)), layer.initial_state(1))


@METHODS
def test_logarithms_are_of_the_discrete_eigenvalues(discretization, x64):
    Lambda = -0.5 + 1j * np.linspace(-40, 40, 9)
    Delta = np.full(9, 0.2)  # angles up to ±8 under zero-order hold: the logarithm need not be the principal one
    Lambda_bar, _ = DISCRETIZATIONS[discretization][0](*map(jnp.asarray, (Lambda, np.ones((9, 1), complex), Delta)))
    np.testing.assert_allclose(
        jnp.exp(LOGARITHMS[discretization](jnp.asarray(Lambda), jnp.asarray(Delta))), Lambda_bar, rtol=1e-12
    )


def test_initial_eigenvalues_by_formula(make_bank):
    """N = 8, written out from the S4D paper: Lin −½ + iπn; Inv −½ + i N/π (N/(2n+1) − 1)."""
    lin, inv = make_bank((4, 4), init="lin"), make_bank((4, 4), init="inv")
    np.testing.assert_allclose(lin.A_imag[...], np.tile([0, np.pi, 2 * np.pi, 3 * np.pi], 2), rtol=1e-6)
    np.testing.assert_allclose(inv.A_imag[...], np.tile(8 / np.pi * np.array([7, 5 / 3, 3 / 5, 1 / 7]), 2), rtol=1e-6)
    for init in hippo.S4D_INITS:
        np.testing.assert_allclose(-np.exp(make_bank((4, 4), init=init).log_A_real[...]), -0.5, rtol=1e-6)


def test_s4d_legs_is_half_the_spectrum_of_hippo_legs_made_normal(make_bank):
    """HiPPO-LegS from its definition, plus ½ (2n+1)^½ (2k+1)^½; every channel the same N/2 eigenvalues."""
    N = 16
    n = np.arange(N)
    root = np.sqrt(2 * n + 1)
    A = -np.where(n[:, None] > n, np.outer(root, root), np.diag(n + 1.0)) + np.outer(root, root) / 2
    spectrum = np.linalg.eigvals(A)
    imag = np.sort(spectrum.imag)[N // 2 :]
    np.testing.assert_allclose(spectrum.real, -0.5, atol=1e-10)
    np.testing.assert_allclose(make_bank((8, 8), init="legs").A_imag[...], np.tile(imag, 2), rtol=1e-5)


def test_initial_output_map_and_time_steps(make_bank):
    layer = make_bank((64,) * 256, bidirectional=True, dt_min=1e-3, dt_max=1e-1)
    np.testing.assert_allclose([np.mean(layer.C_re[...] ** 2), np.mean(layer.C_im[...] ** 2)], 0.5, rtol=0.03)
    quantiles = np.quantile(layer.log_dt[...], [0, 0.5, 1])
    np.testing.assert_allclose(quantiles, np.log([1e-3, 1e-2, 1e-1]), atol=0.4)


@pytest.mark.parametrize("n_states", [0, 1, 7])
def test_any_state_count_initialises_and_runs(n_states):
    layer = S4D(3, n_states, S4DConfig(bidirectional=True), rngs=nnx.Rngs(0))
    assert layer.C_re.shape == (2, n_states)
    assert (np.diff(layer.channel[...]) >= 0).all()
    assert np.isfinite(forward(layer, inputs(9, 3))).all()


@pytest.mark.parametrize("layer_class,bidirectional", [(S4D, False), (S4DLayer, True)])
def test_cut_equals_mask_and_the_states_by_hand(make_bank, layer_class, bidirectional):
    layer = make_bank((3, 0, 1, 4), layer=layer_class, bidirectional=bidirectional)
    keep = np.array([True, False, True, False, True, True, False, True])
    cut = layer.cut(keep)
    assert type(cut) is layer_class and cut.n_states == 5
    np.testing.assert_array_equal(cut.channel[...], [0, 0, 3, 3, 3])  # channel 2 lost its only state
    np.testing.assert_array_equal(cut.A_imag[...], layer.A_imag[...][keep])
    np.testing.assert_allclose(forward(cut, inputs()), forward(layer.mask(keep), inputs()), rtol=1e-5, atol=1e-5)


@BOTH
def test_a_bank_without_states_costs_nothing(make_bank, bidirectional):
    layer = make_bank((0, 0), bidirectional=bidirectional)
    text = jax.jit(lambda u: layer(u)).lower(jnp.zeros((1, 64, 2))).as_text()
    assert "fft" not in text and "dot_general" not in text
    np.testing.assert_array_equal(layer(inputs(9, 2)), np.asarray(layer.D[...]) * inputs(9, 2))
    assert not layer.kernel(7).any() and layer.kernel(7).shape == (1 + bidirectional, 2, 7)


def test_cost_of_the_kernel_goes_with_the_states_left(make_bank):
    """Operations that XLA counts, of the kernel and of a step; 16 channels of 64 against a quarter of them."""

    def flops(function, *args):
        return jax.jit(function).lower(*args).compile().cost_analysis()["flops"]

    full, quarter = make_bank((64,) * 16), make_bank((16,) * 16)
    assert flops(lambda: quarter.kernel(1024)) < 0.35 * flops(lambda: full.kernel(1024))
    u = jnp.zeros((1, 16))
    assert flops(quarter.step, u, quarter.initial_state(1)) < 0.35 * flops(full.step, u, full.initial_state(1))


@METHODS
@BOTH
def test_gradients_are_finite_and_reach_every_parameter(make_bank, discretization, bidirectional):
    layer = make_bank(layer=S4DLayer, discretization=discretization, bidirectional=bidirectional)
    graphdef, params, rest = nnx.split(layer, nnx.Param, ...)

    def loss(params):
        return jnp.sum(nnx.merge(graphdef, params, rest)(inputs()) ** 2)

    grads = nnx.to_pure_dict(jax.jit(jax.grad(loss))(params))
    assert "channel" not in grads
    assert all(np.isfinite(g).all() and g.any() for g in jax.tree.leaves(grads))


@METHODS
@BOTH
def test_scores_equal_the_energy_of_impulse_responses(make_bank, discretization, bidirectional):
    """Sum each mode's impulse response by brute force, Σ_l |C B̄ λ̄^l|², added over directions."""
    layer = make_bank(discretization=discretization, bidirectional=bidirectional, dt_min=0.05)
    m = layer.modes()
    lam, B, C = (np.asarray(a, np.complex128) for a in (m.Lambda_bar, m.B_bar[:, 0], m.C[:, 0]))
    responses = C[..., None] * B[:, None] * lam[:, None] ** np.arange(4000)
    energies = (np.abs(responses) ** 2).sum(axis=(0, 2))
    np.testing.assert_allclose(aire.score(layer, normalize="none")[""], energies, rtol=1e-4)
    # The modes are those of the layer: twice the real part, summed by channel, is its kernel.
    K = np.zeros((len(C), 4, 20))
    np.add.at(K, (slice(None), np.asarray(m.channel)), 2 * responses[..., :20].real)
    np.testing.assert_allclose(layer.kernel(20), K, atol=1e-5 * np.abs(K).max())


def test_training_moves_the_parameters_and_leaves_the_channels(make_model):
    import optax

    model = make_model((20,), d_model=5, ssm={"kind": "s4d"}, activation="glu")
    model.train()
    functions, params, buffers = split_model(model)
    optimizer = optax.adam(1e-2)
    state = {"params": params, "buffers": buffers, "opt_state": optimizer.init(params)}
    state |= {"step": jnp.zeros((), jnp.int32), "key": jax.random.key_data(jax.random.key(0))}
    before = jax.tree.map(np.array, state)
    batch = {"x": np.random.default_rng(0).integers(0, 20, (4, 9)), "y": np.arange(4)}
    after, _ = make_train_step(functions, optimizer)(state, batch)
    ssm = [s["buffers"]["blocks"][0]["ssm"]["channel"] for s in (before, after)]
    np.testing.assert_array_equal(*ssm)
    moved = jax.tree.map(
        lambda a, b: not np.array_equal(a, b), *(s["params"]["blocks"][0]["ssm"] for s in (before, after))
    )
    assert set(moved) == {"log_A_real", "A_imag", "C_re", "C_im", "log_dt", "D"} and all(moved.values())


@pytest.mark.parametrize(
    "options,message",
    [
        ({"discretization": "euler"}, "discretization='euler': expected one of"),
        ({"init": "zeros"}, "init='zeros': expected one of"),
        ({"dt_min": 0.1, "dt_max": 0.01}, "dt_min=0.1, dt_max=0.01: expected dt_min <= dt_max"),
        ({"step_rescale": 0}, "step_rescale=0: expected a number > 0"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        S4DConfig(**options)
