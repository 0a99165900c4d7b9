"""Cuts with replaced readouts: the small model, the masked one, the digest, a refit, and the evaluations' cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire import Cut, Method, Readout
from aire.data.pipeline import Split
from aire.pruning import Calibration, apply, apply_masked
from aire.ssm import S5, S5Config, layers
from aire.training.evaluate import make_evaluator
from aire.utils.errors import UserError
from experiments.evaluations import CutEvaluator
from tests.helpers import call, forward, logits

VARIANTS = [
    {"bidirectional": False},
    {"bidirectional": True, "conj_sym": False},
    {"bidirectional": True},
    {"bidirectional": False, "conj_sym": False},
]


@pytest.fixture(params=[*VARIANTS, "bank", "bank of two directions"])
def layer(request, make_layer, make_bank):
    if isinstance(request.param, dict):
        return make_layer(4, 6, dt_min=0.05, **request.param)
    return make_bank(dt_min=0.05, bidirectional=request.param != "bank")


def inputs(B=4, L=30, H=4, seed=0):
    return np.random.default_rng(seed).normal(size=(B, L, H)).astype(np.float32)


def drawn(layer, keep, seed=0) -> Readout:
    """Another readout of the states that stay."""
    rng = np.random.default_rng(seed)
    shape = (*layer.readout().shape[:2], int(np.sum(keep)))
    return Readout(rng.normal(size=shape) + 1j * rng.normal(size=shape), rng.normal(size=layer.D.shape))


def some(n, seed=0):
    return np.random.default_rng(seed).random(n) < 0.6


def outputs(layer, u):
    return np.asarray(forward(layer, u))


def refitted(layer, keep, seed=0) -> dict[str, np.ndarray]:
    """Other eigenvalues, steps and input maps of the states that stay, near their old values."""
    rng = np.random.default_rng(seed)
    small = layer.cut(keep)
    roles = {name for name, role in layer.ROLES.items() if role in ("eigenvalue", "step", "input")}
    own = {name: np.asarray(getattr(small, name)[...]) for name in sorted(roles)}
    return {name: a * (1 + 0.1 * rng.random(a.shape, np.float32)) for name, a in own.items()}


def by_loop(layer, u, keep, readout) -> np.ndarray:
    """s Re(C' x) + D' u over the kept states in float64, channel by channel."""
    m = layer.modes()
    lam, B, channel = (np.asarray(a) for a in (m.Lambda_bar, m.B_bar, m.channel))
    C, y = np.asarray(readout.C), np.asarray(readout.D) * np.asarray(u, np.float64)
    for column, i in enumerate(np.flatnonzero(keep)):
        v = u @ B[i] if B.shape[1] > 1 else u[..., channel[i]] * B[i, 0]
        for r in range(len(C)):
            x, state = np.zeros(v.shape, np.complex128), 0
            for k in range(v.shape[1]) if r == 0 else reversed(range(v.shape[1])):
                state = lam[i] * state + v[:, k]
                x[:, k] = state
            out = layer.output_scale * (x[..., None] * C[r, :, column]).real
            if B.shape[1] > 1:
                y = y + out
            else:
                y[..., channel[i]] += out[..., 0]
    return y


def test_the_small_and_the_masked_layer_compute_what_the_new_readouts_say(layer):
    keep, u = some(layer.n_states), inputs()
    cut = Cut({"": keep}, {"": drawn(layer, keep)})
    small, masked = apply(layer, cut), apply_masked(layer, cut)
    assert small.n_states == cut.n_states == keep.sum() and masked.n_states == layer.n_states
    expected = by_loop(layer, u, keep, cut.readouts[""])
    for found in (small, masked):
        np.testing.assert_allclose(outputs(found, u), expected, atol=2e-5 * np.abs(expected).max())
    assert all(v.dtype in (jnp.float32, jnp.int32) for v in jax.tree.leaves(nnx.state(small)))


def test_the_own_readout_changes_nothing(layer):
    keep, u = some(layer.n_states), inputs()
    own = Readout(np.asarray(layer.readout())[..., keep], layer.D[...])
    with_own, without = Cut({"": keep}, {"": own}), Cut({"": keep})
    for f in (apply, apply_masked):
        np.testing.assert_array_equal(outputs(f(layer, with_own), u), outputs(f(layer, without), u))


def test_a_model_may_have_new_readouts_in_some_layers(make_model):
    model = make_model((6, 6), ssm={"dt_min": 0.05})
    found, tokens = layers(model), np.random.default_rng(0).integers(0, 20, (2, 20))
    keep = {path: some(6, seed) for seed, path in enumerate(found)}
    cut = Cut(keep, {"blocks/1/ssm": drawn(found["blocks/1/ssm"], keep["blocks/1/ssm"])})
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(model)))
    a, b = aire.cut(model, cut), aire.mask(model, cut)
    np.testing.assert_allclose(logits(a, tokens), logits(b, tokens), rtol=1e-4, atol=1e-5)
    assert np.abs(np.asarray(logits(a, tokens) - logits(aire.cut(model, keep), tokens))).max() > 1e-3
    np.testing.assert_array_equal(a.blocks[0].ssm.D[...], model.blocks[0].ssm.D[...])
    np.testing.assert_allclose(a.blocks[1].ssm.D[...], cut.readouts["blocks/1/ssm"].D, rtol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(model)), before)


def test_a_readout_of_no_states_leaves_D(layer):
    keep, u = np.zeros(layer.n_states, bool), inputs()
    cut = Cut({"": keep}, {"": drawn(layer, keep)})
    for f in (apply, apply_masked):
        np.testing.assert_allclose(outputs(f(layer, cut), u), cut.readouts[""].D * u, rtol=1e-5, atol=1e-6)
    assert len(cut.digest()) == 64


def test_readouts_of_float64_fit_a_float32_layer_where_jax_has_both(make_layer, x64):
    layer, keep, u = make_layer(4, 6), some(6), inputs()
    cut = Cut({"": keep}, {"": drawn(layer, keep)})
    a, b = apply(layer, cut), apply_masked(layer, cut)
    assert a.C_re.dtype == b.C_re.dtype == b.D.dtype == jnp.float32
    np.testing.assert_allclose(outputs(a, u), outputs(b, u), rtol=1e-4, atol=1e-5)


# The digest.


def test_the_digest_tells_apart_all_that_a_cut_consists_of():
    rng = np.random.default_rng(0)
    C, D = rng.normal(size=(1, 3, 2)) + 0j, rng.normal(size=3)
    keep = {"a": np.array([True, False, True]), "b": np.array([True])}
    cuts = [
        Cut(keep),
        Cut(keep | {"b": np.array([False])}),
        Cut(keep | {"a": np.array([True, True, False])}),
        Cut(keep, {"a": Readout(C, D)}),
        Cut(keep, {"b": Readout(C, D)}),
        Cut(keep, {"a": Readout(C * (1 + 1e-12), D)}),
        Cut(keep, {"a": Readout(C, -D)}),
        Cut(keep, {"a": Readout(C.conj() + 1j, D)}),
        Cut(keep, {"a": Readout(C, D), "b": Readout(C, D)}),
    ]
    assert len({cut.digest() for cut in cuts}) == len(cuts)


def test_the_digest_knows_no_order_and_no_memory_layout():
    rng = np.random.default_rng(0)
    C, D = rng.normal(size=(1, 3, 2)) + 0j, rng.normal(size=3)
    keep = {"a": np.array([True, False, True]), "b": np.array([True])}
    readouts = {"a": Readout(C, D), "b": Readout(2 * C, D)}
    turned = Cut(dict(reversed(keep.items())), dict(reversed(readouts.items())))
    assert Cut(keep, readouts).digest() == turned.digest()
    strided = Readout(np.asfortranarray(C), np.repeat(D, 2)[::2])
    assert Cut(keep, readouts | {"a": strided}).digest() == turned.digest()
    assert Cut({name: jnp.asarray(mask) for name, mask in keep.items()}).digest() == Cut(keep).digest()


def test_a_layer_whose_name_looks_like_a_readout_is_not_lost():
    """Layers "a" and "a C": the readout of one does not hide the mask of the other."""
    readout = {"a": Readout(np.ones((1, 1, 1), complex), np.ones(1))}
    cuts = [Cut({"a": np.array([True]), "a C": np.array([stays])}, readout) for stays in (True, False)]
    assert cuts[0].digest() != cuts[1].digest()
    assert len(cuts[0].arrays()) == 4


# A refit through the public API.


def refit(model: nnx.Module, cut: Cut, calibration: Calibration) -> Cut:
    """C'_K = C_K + C_R W_RK W_KK⁻¹: the kept states take over the predictable part of the cut ones."""
    moments, readouts = calibration.moments(model), {}
    for path, layer in layers(model).items():
        keep, W = np.asarray(cut.keep[path]), moments[path].covariance()[0]
        C = np.asarray(layer.readout(), np.complex128)
        R, H, _ = C.shape
        G = np.stack([C.real, -C.imag], axis=2).transpose(1, 0, 2, 3).reshape(H, -1)  # y = s G z + D u
        K = np.tile(keep, 2 * R)
        # Without conjugate symmetry both of a pair may stay, and W_KK is singular.
        G = G[:, K] + G[:, ~K] @ W[np.ix_(~K, K)] @ np.linalg.pinv(W[np.ix_(K, K)], rcond=1e-6, hermitian=True)
        new = G.reshape(H, R, 2, -1).transpose(1, 0, 2, 3)
        readouts[path] = Readout(new[:, :, 0] - 1j * new[:, :, 1], layer.D[...])
    return Cut(cut.keep, readouts)


REFITTED = Method("aire", refit=refit)


@pytest.mark.parametrize("options", VARIANTS)
def test_a_refit_is_the_least_squares_fit_of_the_outputs(make_layer, options):
    """Against `lstsq` of the true outputs on the kept states' features, and better than the plain cut."""
    layer, u = make_layer(4, 6, dt_min=0.05, **options), inputs(8, 60)
    result = aire.prune(layer, 0.5, REFITTED, calibration=[u[:5], u[5:]])
    keep = np.asarray(result.keep[""])
    assert keep.sum() == 3 and result.model.n_states == 3

    x = np.asarray(call(layer, u, method="states"), np.complex128)[..., keep]
    Z = np.stack([x.real, x.imag], axis=3).reshape(8 * 60, -1)
    Du = np.asarray(layer.D[...]) * u
    target = (outputs(layer, u) - Du).reshape(8 * 60, -1)
    weights = np.linalg.lstsq(Z, target, rcond=1e-5)[0]
    fitted = outputs(result.model, u) - Du
    np.testing.assert_allclose(fitted.reshape(target.shape), Z @ weights, atol=1e-3 * np.abs(target).max())

    def error(model):
        return float(np.mean((outputs(model, u) - outputs(layer, u)) ** 2))

    plain = aire.prune(layer, 0.5)
    assert error(result.model) < 0.95 * error(plain.model)
    np.testing.assert_array_equal(keep, plain.keep[""])  # the refit does not change the selection


def test_a_refit_of_a_model_is_in_the_cut_and_in_the_model(make_model):
    model = make_model((6, 6), ssm={"dt_min": 0.05})
    tokens = np.random.default_rng(0).integers(0, 20, (8, 30))
    result = aire.prune(model, 0.5, REFITTED, calibration=[tokens])
    assert result.cut.readouts.keys() == result.keep.keys() == layers(model).keys()
    masked = apply_masked(model, result.cut)
    np.testing.assert_allclose(logits(result.model, tokens), logits(masked, tokens), rtol=1e-3, atol=1e-4)
    plain = aire.prune(model, 0.5)
    full = np.asarray(logits(model, tokens))
    errors = [np.mean((np.asarray(logits(r.model, tokens)) - full) ** 2) for r in (result, plain)]
    assert errors[0] < errors[1]
    assert not plain.cut.readouts and result.states == plain.states
    assert "12 → 6" in result.summary()


def test_a_method_with_a_refit_says_that_it_needs_inputs(make_layer):
    assert REFITTED.needs_calibration and REFITTED.draws and not Method("aire").needs_calibration
    with pytest.raises(UserError, match="needs inputs of the model: pass calibration=batches"):
        aire.prune(make_layer(4, 6), 0.5, REFITTED)
    with pytest.raises(UserError, match="a method with a refit needs inputs of the model: pass calibration=batches"):
        aire.pruning.find_cut(make_layer(4, 6), {"": jnp.arange(6.0)}, REFITTED, ratio=0.5)


# The cache and the compilation.


@pytest.fixture
def evaluator(make_model):
    """The evaluator of a small model with two synthetic splits, and a list of its calls."""
    model = make_model((6, 6), ssm={"dt_min": 0.05})
    rng = np.random.default_rng(0)

    def split():
        return Split(rng.integers(0, 20, (12, 10)), np.full(12, 10, np.int32), rng.integers(0, 10, 12).astype(np.int32))

    evaluate, calls = make_evaluator(model, 12), []

    def counted(model, split):
        calls.append(split)
        return evaluate(model, split)

    return CutEvaluator(model, {"validation": split(), "test": split()}, counted, cache={}), calls


def test_the_cache_tells_readouts_apart(evaluator):
    evaluate, calls = evaluator
    found = layers(evaluate.model)
    keep = {path: some(6, seed=1) for path in found}
    plain = Cut(keep)
    refitted = [Cut(keep, {path: drawn(found[path], keep[path], seed) for path in found}) for seed in range(2)]
    cuts = [plain, *refitted]
    assert len({evaluate.key(cut, split) for cut in cuts for split in ("validation", "test")}) == 6
    losses = [evaluate(cut, "validation").loss for cut in cuts]
    assert len(calls) == 4 and len(set(losses)) == 3  # the uncut model, once, and each cut
    assert [evaluate(cut, "validation").loss for cut in cuts] == losses and len(calls) == 4  # remembered
    again = Cut(dict(reversed(keep.items())), refitted[0].readouts)
    assert evaluate.key(again, "test") == evaluate.key(refitted[0], "test")


def test_one_compilation_serves_cuts_with_different_readouts(make_layer):
    layer, u, compiled = make_layer(4, 6), inputs(), []
    graphdef, _ = nnx.split(layer)

    @jax.jit
    def call(state, u):
        compiled.append(None)
        return nnx.merge(graphdef, state)(u)

    for seed in range(4):
        keep = some(6, seed)
        for readouts in ({}, {"": drawn(layer, keep, seed)}):
            masked_graphdef, state = nnx.split(apply_masked(layer, Cut({"": keep}, readouts)))
            assert masked_graphdef == graphdef
            call(state, u)
    assert len(compiled) == 1


# Mistakes.


def test_mistakes_are_named(make_layer):
    model = nnx.List([S5(4, 6, S5Config(), rngs=nnx.Rngs(i)) for i in range(2)])
    keep = {"0": some(6), "1": np.ones(6, bool)}
    good = drawn(model[0], keep["0"])
    for f in (apply, apply_masked):
        with pytest.raises(UserError, match=r"unknown layers \['2'\]: expected some of \['0', '1'\]"):
            f(model, Cut(keep, {"2": good}))
        with pytest.raises(UserError, match=r"masks for layers \['0'\]: expected one for each of \['0', '1'\]"):
            f(model, Cut({"0": keep["0"]}))
        for wrong in (
            Readout(good.C[:, :, 1:], good.D),
            Readout(good.C[0], good.D),
            Readout(good.C, good.D[1:]),
            Readout(np.concatenate([good.C, good.C]), good.D),
        ):
            with pytest.raises(UserError, match=r"readout of layer '0' has C, D of shapes .*: expected"):
                f(model, Cut(keep, {"0": wrong}))
        for bad in (np.nan, np.inf):
            for wrong in (Readout(good.C * bad, good.D), Readout(good.C, good.D * bad)):
                with pytest.raises(UserError, match="readout of layer '0' holds NaN or infinite values"):
                    f(model, Cut(keep, {"0": wrong}))
    with pytest.raises(UserError, match=r"readout with C \[1, 4, 5\] and D \[4\]: expected C \[1, 4, 6\] and D \[4\]"):
        model[0].with_readout(np.ones((1, 4, 5), complex), np.ones(4))


def test_the_small_and_the_masked_layer_compute_what_fitted_parameters_say(layer):
    keep, u = some(layer.n_states), inputs()
    cut = Cut({"": keep}, {"": drawn(layer, keep)}, {"": refitted(layer, keep)})
    small, masked = apply(layer, cut), apply_masked(layer, cut)
    for name, array in cut.fitted[""].items():
        np.testing.assert_array_equal(getattr(small, name)[...], array)
    expected = by_loop(small, u, np.ones(small.n_states, bool), cut.readouts[""])
    for found in (small, masked):
        np.testing.assert_allclose(outputs(found, u), expected, atol=2e-5 * np.abs(expected).max())
    assert len({c.digest() for c in (cut, Cut(cut.keep, cut.readouts), Cut(cut.keep, {}, cut.fitted))}) == 3


@pytest.mark.parametrize(
    ("fitted", "message"),
    [
        ({"": {"C_re": np.ones(3)}}, "fitted parameter 'C_re' of layer '': expected one of"),
        ({"": {"log_step": np.ones(5, np.float32)}}, "fitted 'log_step' of layer '': expected finite numbers of shape"),
        ({"other": {}}, "unknown layers"),
    ],
)
def test_fitted_parameters_of_another_shape_are_refused(make_layer, fitted, message):
    layer = make_layer(4, 6)
    with pytest.raises(UserError, match=message):
        apply(layer, Cut({"": np.arange(6) < 3}, {}, fitted))
