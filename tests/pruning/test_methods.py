"""Methods and baseline scores against independent oracles; normalisation within channels."""

import collections
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import aire
from aire.pruning import methods, scores
from aire.pruning.methods import METHODS, Method
from aire.ssm import Modes
from aire.utils.errors import UserError


def bank(n=6, directions=1, inputs=3, outputs=4, seed=0) -> Modes:
    """Random stable modes in float64 (under x64)."""
    rng = np.random.default_rng(seed)
    Lambda_bar = rng.uniform(0.3, 0.97, n) * np.exp(1j * rng.uniform(-3, 3, n))
    B = rng.normal(size=(n, inputs)) + 1j * rng.normal(size=(n, inputs))
    C = rng.normal(size=(directions, outputs, n)) + 1j * rng.normal(size=(directions, outputs, n))
    arrays = (Lambda_bar, B, C, 1 - np.abs(Lambda_bar) ** 2, np.zeros(n, np.int32))
    return Modes(*(jnp.asarray(a) for a in arrays))


def alone(m: Modes, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mode i as a system of its own: λ̄ (1, 1), B̄ (1, inputs), C (outputs of all directions, 1)."""
    return (
        np.asarray(m.Lambda_bar[i]).reshape(1, 1),
        np.asarray(m.B_bar[i : i + 1]),
        np.asarray(m.C[..., i]).reshape(-1, 1),
    )


@pytest.mark.parametrize("directions", [1, 2])
def test_hankel_equals_the_root_of_the_product_of_the_gramians(directions, x64):
    m = bank(directions=directions)
    for i, score in enumerate(scores.get("hankel")(m)):
        A, B, C = alone(m, i)
        controllability = scipy.linalg.solve_discrete_lyapunov(A, B @ B.conj().T)
        observability = scipy.linalg.solve_discrete_lyapunov(A.conj().T, C.conj().T @ C)
        eigenvalues = np.linalg.eigvals(controllability @ observability).real
        np.testing.assert_allclose(score, np.sqrt(eigenvalues.max()), rtol=1e-9)


def test_hankel_equals_the_largest_singular_value_of_the_hankel_matrix(x64):
    """Blocks C λ̄^(i+j) B̄ of the impulse response, as many as matter."""
    m = bank(n=3, inputs=2, outputs=2)
    for i, score in enumerate(scores.get("hankel")(m)):
        A, B, C = alone(m, i)
        powers = scipy.linalg.hankel(A[0, 0] ** np.arange(300), A[0, 0] ** np.arange(299, 599))
        norms = [np.linalg.norm(factor, 2) for factor in (powers, C @ B)]  # of the factors of their Kronecker product
        np.testing.assert_allclose(score, np.prod(norms), rtol=1e-5)


@pytest.mark.parametrize("directions", [1, 2])
def test_magnitude_by_hand(directions, x64):
    m = bank(directions=directions)
    for i, score in enumerate(scores.get("magnitude")(m)):
        A, B, C = alone(m, i)
        np.testing.assert_allclose(score, (np.abs(A[0, 0]) * np.linalg.norm(B) * np.linalg.norm(C)) ** 2, rtol=1e-9)


def test_lamp_is_the_plain_loop_over_ascending_weights(make_model):
    """Lee et al.: sort ascending; each squared weight over the sum of itself and all that come after it."""
    model = make_model(state_sizes=(6, 5))
    for path, m in aire.modes(model).items():
        squared = np.asarray(scores.get("magnitude")(m), np.float64)
        ascending, expected = np.argsort(squared), np.zeros(len(squared))
        for place, u in enumerate(ascending):
            expected[u] = squared[u] / sum(squared[v] for v in ascending[place:])
        np.testing.assert_allclose(aire.score(model, "lamp")[path], expected, rtol=1e-5)


def test_hinf_global_orders_by_the_peak_of_the_frequency_response(make_model):
    """The largest singular value of C (z − λ̄)⁻¹ B̄ on a grid of the unit circle, over the whole network at once."""
    model = make_model(state_sizes=(4, 5), ssm={"bidirectional": False})
    z = np.exp(1j * np.linspace(-np.pi, np.pi, 200_001))
    peaks = {}
    for path, m in aire.modes(model).items():
        for i in range(len(m.margin)):
            A, B, C = alone(m, i)
            peaks[path, i] = np.linalg.norm(C @ B, 2) / np.abs(z - A[0, 0]).min()
    keep = aire.prune(model, 0.5, "hinf_global").keep
    kept = {(path, int(i)) for path, mask in keep.items() for i in np.flatnonzero(mask)}
    assert kept == set(sorted(peaks, key=peaks.get)[-round(0.5 * 9) :])


@pytest.mark.parametrize(
    "name,score,normalize,scope",
    [
        ("magnitude_global", "magnitude", "none", "global"),
        ("magnitude_uniform", "magnitude", "none", "uniform"),
        ("hinf_uniform", "last", "none", "uniform"),
        ("aire_uniform", "aire", "none", "uniform"),  # within a layer, normalisation does not change the order
        ("aire_unnormalised", "aire", "none", "global"),
        ("aire", "aire", "prefix", "global"),
    ],
)
def test_methods_select_what_their_parts_do(name, score, normalize, scope, make_model):
    model = make_model(state_sizes=(8, 6))
    fn = {"none": lambda E: E, "prefix": scores.prefix_normalize}[normalize]
    values = {path: fn(scores.get(score)(m)) for path, m in aire.modes(model).items()}
    expected = aire.select(values, ratio=0.4, scope=scope)
    keep = aire.prune(model, 0.4, name).keep
    assert all(np.array_equal(keep[path], expected[path]) for path in keep)


def test_a_method_can_be_overridden_part_by_part(make_model):
    model = make_model(state_sizes=(8, 6))
    uniform = aire.prune(model, 0.5, "aire", scope="uniform").keep
    assert [int(mask.sum()) for mask in uniform.values()] == [4, 3]
    raw = aire.score(model, "lamp", normalize="none")["blocks/0/ssm"]
    np.testing.assert_allclose(raw, scores.get("magnitude")(aire.modes(model)["blocks/0/ssm"]), rtol=1e-6)


def test_random_is_uniform_over_masks(make_model):
    """300 seeds and the 10 ways to keep 3 of 2 + 3 states: a χ² test that one fair draw in 10,000 would fail."""
    modes = aire.modes(make_model(state_sizes=(2, 3)))
    counts = collections.Counter()
    for seed in range(300):
        drawn = aire.score(modes, "random", seed=seed)
        flat = np.concatenate(list(drawn.values()))
        counts[frozenset(np.argsort(flat)[2:].tolist())] += 1
    observed = [counts[frozenset(kept)] for kept in itertools.combinations(range(5), 3)]
    assert sum(observed) == 300 and scipy.stats.chisquare(observed).pvalue > 1e-4


def test_random_draws_again_for_every_seed_and_layer_and_repeats_itself(make_model):
    model = make_model(state_sizes=(6, 6))
    a, b, again = (aire.score(model, "random", seed=seed) for seed in (0, 1, 0))
    first, second = a
    assert not np.array_equal(a[first], a[second]) and not np.array_equal(a[first], b[first])
    assert all(np.array_equal(a[path], again[path]) for path in a)
    assert not all(
        np.array_equal(aire.prune(model, 0.5, "random", seed=s).keep[first], again[first] > 1) for s in range(3)
    )


def test_other_methods_do_not_read_the_seed(make_model):
    model = make_model()
    for name in {name for name, method in METHODS.items() if not method.draws}:
        a, b = (aire.score(model, name, seed=seed) for seed in (0, 1))
        assert all(np.array_equal(a[path], b[path]) for path in a)


def test_a_scope_and_a_normalisation_that_contradict_each_other_are_refused(make_model):
    model = make_model()
    with pytest.raises(UserError, match="scope='channel' means normalize='channel', not normalize='none'"):
        aire.prune(model, 0.5, scope="channel", normalize="none")
    same = [aire.prune(model, 0.5, **options).keep for options in ({"scope": "channel"}, {"normalize": "channel"})]
    assert all(np.array_equal(same[0][path], same[1][path]) for path in same[0])


def test_channel_normalisation_by_hand():
    """Channel 0: energies 4, 1, 3 share 4/4, 1/8, 3/7. Channel 2, a billion times weaker: 2/2, 1/3. Channel 5: 1."""
    E = jnp.array([4.0, 1.0, 3.0, 2e-9, 1e-9, 7.0])
    channel = jnp.array([0, 0, 0, 2, 2, 5], jnp.int32)
    shares = scores.channel_normalize(E, channel)
    np.testing.assert_allclose(shares, [1, 1 / 8, 3 / 7, 1, 1 / 3, 1], rtol=1e-6)
    assert scores.channel_normalize(jnp.zeros(0), jnp.zeros(0, jnp.int32)).shape == (0,)
    np.testing.assert_array_equal(scores.channel_normalize(jnp.zeros(3), channel[:3]), np.zeros(3))


@pytest.mark.parametrize("seed", range(5))
def test_channel_normalisation_is_prefix_normalisation_of_each_channel(seed):
    rng = np.random.default_rng(seed)
    E = jnp.asarray(np.exp(rng.normal(size=40) * 8), jnp.float32)
    channel = np.sort(rng.integers(0, 9, 40)).astype(np.int32)
    expected = np.concatenate([scores.prefix_normalize(E[channel == c]) for c in np.unique(channel)])
    np.testing.assert_allclose(scores.channel_normalize(E, jnp.asarray(channel)), expected, rtol=1e-5)


def test_channel_normalisation_of_one_channel_is_the_prefix_normalisation(make_model):
    model = make_model(state_sizes=(7, 0))
    a, b = (aire.score(model, "aire", normalize=normalize) for normalize in ("channel", "prefix"))
    for path in a:
        np.testing.assert_allclose(a[path], b[path], rtol=1e-6)


@pytest.fixture
def registered():
    """A user-defined score, registered during a test."""
    scores.register("test_slowness")(lambda modes: jnp.abs(modes.Lambda_bar))
    yield "test_slowness"
    del scores.SCORES["test_slowness"]


def test_a_registered_score_is_a_method_at_once(registered, make_model):
    assert methods.get(registered) == Method(registered, "prefix", "global")
    assert methods.names() == [*METHODS, registered]
    assert float(aire.score(make_model(), registered)["blocks/0/ssm"].max()) == 1


def test_a_user_defined_method(registered, make_model, monkeypatch):
    monkeypatch.setitem(METHODS, "test_slow_uniform", Method(registered, "none", "uniform"))
    assert methods.names()[-1] == "test_slow_uniform" and registered not in methods.names()
    keep = aire.prune(make_model(state_sizes=(6, 4)), 0.5, "test_slow_uniform").keep
    assert [int(mask.sum()) for mask in keep.values()] == [3, 2]
    monkeypatch.setitem(METHODS, "test_wrong", Method("test_slownes"))
    with pytest.raises(UserError, match="unknown score 'test_slownes'"):
        methods.get("test_wrong")


def test_a_score_that_takes_the_name_of_a_method_is_refused(make_model):
    scores.register("lamp")(lambda modes: modes.margin)
    try:
        with pytest.raises(UserError, match="score 'lamp' has the name of a method, which uses the score 'magnitude'"):
            aire.score(make_model(), "lamp")
    finally:
        del scores.SCORES["lamp"]


def test_the_scope_channel_normalises_there_and_selects_globally(make_model):
    model = make_model(state_sizes=(24, 24), ssm={"kind": "s4d"})
    found = aire.prune(model, 0.4, scope="channel")
    scores_by_hand = aire.score(model, normalize="channel")
    expected = aire.select(scores_by_hand, ratio=0.4)
    assert sum(int(k.sum()) for k in found.keep.values()) == 29
    for layer, keep in expected.items():
        np.testing.assert_array_equal(found.keep[layer], keep)
    assert any((aire.prune(model, 0.4).keep[layer] != keep).any() for layer, keep in expected.items())
