"""Scores against sums, Lyapunov equations and frequency responses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from flax import nnx

import aire
from aire.pruning import scores
from aire.ssm import KINDS, Modes
from aire.utils.errors import UserError

ALL = sorted(name for name, score in scores.SCORES.items() if not score.needs)


def modes(n=5, directions=1, inputs=3, outputs=4, seed=0) -> Modes:
    """Random stable modes in float64 (under x64), time steps down to 1e-4 as in Path-X."""
    rng = np.random.default_rng(seed)
    z = (-0.5 + 1j * rng.uniform(-30, 30, n)) * np.exp(rng.uniform(np.log(1e-2), np.log(0.5), n))
    B = rng.normal(size=(n, inputs)) + 1j * rng.normal(size=(n, inputs))
    C = rng.normal(size=(directions, outputs, n)) + 1j * rng.normal(size=(directions, outputs, n))
    margin = -np.expm1(2 * z.real)
    return Modes(*(jnp.asarray(a) for a in (np.exp(z), B, C, margin)), jnp.zeros(n, jnp.int32))


@pytest.mark.parametrize("directions", [1, 2])
def test_aire_equals_the_sum_of_a_long_impulse_response(directions, x64):
    m = modes(directions=directions)
    k = np.arange(20_000)
    lam, B, C = (np.asarray(a) for a in (m.Lambda_bar, m.B_bar, m.C))
    for i, energy in enumerate(scores.SCORES["aire"](m)):
        response = [np.abs(np.outer(c[:, i], B[i]).ravel()[:, None] * lam[i] ** k) ** 2 for c in C]
        np.testing.assert_allclose(energy, np.sum(response), rtol=1e-6)


@pytest.mark.parametrize(
    "kind,options", [("s5", {"dt_min": 0.05}), ("s4d", {"dt_min": 0.05}), ("lru", {"r_max": 0.98})]
)
def test_aire_of_a_layer_is_what_its_states_do_to_an_impulse(kind, options):
    """Σ_k ‖C_i x_k‖² for the state i, summed over an impulse in each feature, by the layer's own recurrence."""
    layer = KINDS[kind].layer(3, 6, KINDS[kind].config(**options), rngs=nnx.Rngs(0))
    x = layer.states(jnp.zeros((3, 1000, 3)).at[:, 0].set(jnp.eye(3)))[:, :, 0]
    energy = jnp.sum(jnp.abs(x) ** 2, axis=(0, 1)) * jnp.sum(jnp.abs(layer.modes().C) ** 2, axis=(0, 1))
    np.testing.assert_allclose(scores.SCORES["aire"](layer.modes()), energy, rtol=1e-3)


def test_aire_equals_the_h2_norm_from_the_lyapunov_equation(x64):
    """W = λ̄ W λ̄* + B̄ B̄ᴴ for each mode alone; the squared H2 norm is tr(C W Cᴴ)."""
    m = modes()
    for i, energy in enumerate(scores.SCORES["aire"](m)):
        A, B, C = (
            np.asarray(m.Lambda_bar[i]).reshape(1, 1),
            np.asarray(m.B_bar[i : i + 1]),
            np.asarray(m.C[0, :, i : i + 1]),
        )
        W = scipy.linalg.solve_discrete_lyapunov(A, B @ B.conj().T)
        np.testing.assert_allclose(energy, np.trace(C @ W @ C.conj().T).real, rtol=1e-9)


def test_last_equals_the_peak_of_the_frequency_response(x64):
    """The largest squared singular value of C (z − λ̄)⁻¹ B̄ on the unit circle, by a fine grid around the peak."""
    m = modes()
    for i, score in enumerate(scores.SCORES["last"](m)):
        z = np.exp(1j * (np.angle(m.Lambda_bar[i]) + np.linspace(-np.pi, np.pi, 100_001)))
        gain = np.linalg.norm(np.outer(m.C[0, :, i], m.B_bar[i]), 2) / np.abs(z - np.asarray(m.Lambda_bar[i]))
        np.testing.assert_allclose(score, gain.max() ** 2, rtol=1e-6)


@pytest.mark.parametrize("name", ["aire", "last"])
def test_released_scores_equal_the_paper_in_one_direction(name, x64):
    m = modes()
    np.testing.assert_allclose(scores.SCORES[f"{name}_released"](m), scores.SCORES[name](m), rtol=1e-3)


@pytest.mark.parametrize("name,power", [("aire_released", 1), ("last_released", 2)])
def test_released_scores_in_two_directions(name, power, x64):
    """By hand: the released code's `(‖C1‖ + ‖C2‖) / 2 ** 2`, an unsquared mean over two."""
    m = modes(n=1, directions=2)
    lam, B, C = abs(complex(m.Lambda_bar[0])), np.asarray(m.B_bar[0]), np.asarray(m.C)
    denominator = (1 - lam**2 if power == 1 else (1 - lam) ** 2) + 1e-8
    norms = np.linalg.norm(C[0, :, 0]) + np.linalg.norm(C[1, :, 0])
    np.testing.assert_allclose(scores.SCORES[name](m)[0], norms / 4 * np.linalg.norm(B) ** 2 / denominator, rtol=1e-9)


def test_prefix_normalisation_by_hand():
    """Energies 4, 3, 2, 1: shares 4/4, 3/7, 2/9, 1/10, each where its energy stood."""
    np.testing.assert_allclose(
        scores.prefix_normalize(jnp.array([2.0, 4.0, 1.0, 3.0])), [2 / 9, 1, 1 / 10, 3 / 7], rtol=1e-6
    )


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_prefix_normalisation_does_not_see_the_scale(scale):
    E = jnp.array([2.0, 4.0, 1e-3, 3.0])
    np.testing.assert_allclose(scores.prefix_normalize(scale * E), scores.prefix_normalize(E), rtol=1e-5)


def test_prefix_normalisation_of_nothing_and_of_zeros():
    assert scores.prefix_normalize(jnp.zeros(0)).shape == (0,)
    np.testing.assert_array_equal(scores.prefix_normalize(jnp.array([0.0, 1.0, 0.0])), [0, 1, 0])
    np.testing.assert_array_equal(scores.prefix_normalize(jnp.zeros(3)), np.zeros(3))


@pytest.mark.parametrize("name", ALL)
def test_scores_of_conjugate_pairs_agree(name, make_layer):
    """Without conjugate symmetry, both members of a pair score as the one that is stored with it."""
    m = make_layer(n_states=4).modes()
    conj = Modes(m.Lambda_bar.conj(), m.B_bar.conj(), m.C.conj(), m.margin, m.channel)
    np.testing.assert_allclose(scores.SCORES[name](conj), scores.SCORES[name](m), rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_scores_of_a_model(name, make_model):
    result = aire.score(make_model(state_sizes=(6, 0, 4)), name)
    assert [(path, s.shape) for path, s in result.items()] == [
        ("blocks/0/ssm", (6,)),
        ("blocks/1/ssm", (0,)),
        ("blocks/2/ssm", (4,)),
    ]
    assert float(result["blocks/0/ssm"].max()) == 1  # the strongest state of a layer


def test_a_score_of_the_users_own(make_model):
    @scores.register("test_slowness")
    def slowness(modes):
        return jnp.abs(modes.Lambda_bar)

    try:
        model = make_model()
        keep = aire.prune(model, 0.5, "test_slowness", scope="uniform").keep["blocks/0/ssm"]
        speed = np.abs(aire.modes(model)["blocks/0/ssm"].Lambda_bar)
        assert speed[np.asarray(keep)].min() >= speed[~np.asarray(keep)].max()
        scores.register("test_slowness")(slowness)  # as when the cell of a notebook runs again
        with pytest.raises(UserError, match="exists already"):
            scores.register("test_slowness")(lambda modes: modes.margin)
        scores.register("test_slowness", overwrite=True)(lambda modes: modes.margin)
    finally:
        del scores.SCORES["test_slowness"]


def test_unknown_names_are_listed(make_model):
    with pytest.raises(UserError, match=r"unknown score 'airy': expected one of .*'aire'"):
        aire.score(make_model(), "airy")
    with pytest.raises(UserError, match="normalize='l2'"):
        aire.score(make_model(), normalize="l2")


def test_nan_weights_are_named(make_model):
    model = make_model()
    model.blocks[1].ssm.B_re[...] = model.blocks[1].ssm.B_re[...].at[2, 3].set(jnp.nan)
    with pytest.raises(UserError, match="layer 'blocks/1/ssm': B_bar holds 1 NaN"):
        aire.score(model)


def test_unstable_eigenvalues_are_an_error_or_rank_first(make_model):
    model = make_model()
    ssm = model.blocks[1].ssm
    ssm.Lambda_re[...] = ssm.Lambda_re[...].at[2].set(0.1)
    with pytest.raises(UserError, match=r"layer 'blocks/1/ssm': state 2 is unstable, \|λ̄\| = 1\.0"):
        aire.score(model)
    ranked = aire.score(model, unstable="first")["blocks/1/ssm"]
    assert np.isinf(ranked[2]) and np.isfinite(np.delete(ranked, 2)).all()
    assert bool(aire.prune(model, 0.9, unstable="first").keep["blocks/1/ssm"][2])


def test_a_score_of_the_wrong_shape_or_sign_is_named(make_model):
    for fn, message in [(lambda m: m.margin[:1], "returned shape"), (lambda m: -m.margin, "returned negative")]:
        scores.register("test_wrong")(fn)
        try:
            with pytest.raises(UserError, match=message):
                aire.score(make_model(), "test_wrong")
        finally:
            del scores.SCORES["test_wrong"]


def test_scores_are_jitted_once_per_shape():
    before = scores.SCORES["aire"].fn._cache_size()
    for seed in range(3):
        jax.block_until_ready(scores.SCORES["aire"](modes(n=11, seed=seed)))
    assert scores.SCORES["aire"].fn._cache_size() == before + 1
