"""The S6 layer: the mixer against a loop in float64, caches, initialisation, cutting and masking."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.ssm import S6, S6Config
from aire.ssm.abstract import abstract
from aire.ssm.s6_parameters import split_x_proj
from aire.utils.errors import UserError
from tests.helpers import forward

H, N = 5, 6
OPTIONS = [
    {},
    {"bidirectional": True},
    {"use_bias": True, "conv_bias": False, "d_conv": 2, "expand": 3},
    {"dt_rank": 3, "d_conv": 1},
]
ALL = pytest.mark.parametrize("options", OPTIONS, ids=["plain", "two directions", "biases", "rank"])


def make(n_states=N, seed=0, **options) -> S6:
    return S6(H, n_states, S6Config(**options), rngs=nnx.Rngs(seed))


def perturbed(n_states=N, **options) -> S6:
    """A layer in which no parameter has a special value such as zero or one."""
    rng, layer = np.random.default_rng(1), make(n_states, **options)
    for name, array in params(layer).items():
        setattr(layer, name, nnx.Param(jnp.asarray(array + 0.3 * rng.normal(size=array.shape), jnp.float32)))
    return layer


def params(layer: S6) -> dict[str, np.ndarray]:
    state = nnx.to_pure_dict(nnx.state(layer, nnx.Param))
    return {name: np.asarray(array, np.float64) for name, array in state.items()}


def inputs(B=2, L=12):
    return np.random.default_rng(0).normal(size=(B, L, H)).astype(np.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def loop(layer: S6, u: np.ndarray) -> np.ndarray:
    """The mixer in float64, one sequence, channel by channel and step by step, from the parameters."""
    p, u = params(layer), np.asarray(u, np.float64)
    D, n = p["A_log"].shape
    R, width = p["dt_proj"].shape[1], p["conv_weight"].shape[1]
    x_proj = np.concatenate([p["x_proj_dt"], p["x_proj_B"], *p["x_proj_C"]])
    np.testing.assert_array_equal(layer.x_proj, x_proj)
    y = np.zeros(u.shape)
    for b, sequence in enumerate(u):
        xz = sequence @ p["in_proj"].T + p.get("in_proj_bias", 0)
        x, z = xz[:, :D], xz[:, D:]
        conv = np.zeros_like(x)
        for t in range(len(x)):
            for k in range(width):
                if t - k >= 0:
                    conv[t] += p["conv_weight"][:, width - 1 - k] * x[t - k]
        x = silu(conv + p.get("conv_bias", 0))
        rows = x @ x_proj.T
        Delta = np.log1p(np.exp(rows[:, :R] @ p["dt_proj"].T + p["dt_bias"]))
        out = p["D"] * x
        for r in range(1 + layer.config.bidirectional):
            B, C = rows[:, R : R + n], rows[:, R + n + r * n : R + 2 * n + r * n]
            h = np.zeros((D, n))
            for t in range(len(x)) if r == 0 else reversed(range(len(x))):
                h = np.exp(-np.exp(p["A_log"]) * Delta[t][:, None]) * h + np.outer(Delta[t] * x[t], B[t])
                out[t] += h @ C[t]
        y[b] = (out * silu(z)) @ p["out_proj"].T + p.get("out_proj_bias", 0)
    return y


@ALL
def test_layer_equals_a_loop(options):
    layer, u = perturbed(**options), inputs()
    np.testing.assert_allclose(forward(layer, u), loop(layer, u), rtol=2e-4, atol=2e-4)


def test_integers_are_converted_and_bfloat16_stays():
    layer, u = perturbed(), inputs()
    assert forward(layer, np.ones((1, 4, H), np.int32)).dtype == jnp.float32
    y = forward(layer, jnp.asarray(u, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    exact = loop(layer, u)
    assert np.abs(np.asarray(y, np.float64) - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("options", [OPTIONS[0], *OPTIONS[2:]])
def test_steps_and_parts_equal_the_sequence(options):
    """Prompts of 1, 2 and 9 steps, then steps; the caches are the state."""
    layer, u = perturbed(**options), inputs()
    expected = loop(layer, u)
    scan, step = (jax.jit(lambda u, s, f=f: getattr(layer, f)(u, s)) for f in ("scan", "step"))
    for prompt in (1, 2, 9):
        y, state = scan(u[:, :prompt], layer.initial_state(2))
        found = [y]
        for t in range(prompt, 12):
            y, state = step(u[:, t], state)
            found.append(y[:, None])
        np.testing.assert_allclose(np.concatenate(found, axis=1), expected, rtol=2e-4, atol=2e-4)


def test_two_directions_need_the_sequence():
    layer = make(bidirectional=True)
    for call, u in ((layer.step, jnp.zeros((1, H))), (layer.scan, jnp.zeros((1, 2, H)))):
        with pytest.raises(UserError, match="needs a one-directional layer"):
            call(u, layer.initial_state(1))


@ALL
def test_cut_equals_mask(options):
    layer, u = perturbed(**options), inputs()
    keep = np.array([1, 0, 0, 1, 1, 0], bool)
    cut, masked = layer.cut(keep), layer.mask(keep)
    assert (cut.n_states, masked.n_states) == (3, N)
    assert cut.A_log.shape == (layer.D.size, 3)
    assert cut.x_proj.shape == (layer.x_proj.shape[0] - 3 * (2 + layer.config.bidirectional), layer.D.size)
    y = forward(cut, u)
    np.testing.assert_allclose(y, loop(cut, u), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(y, forward(masked, u), rtol=1e-4, atol=1e-5)
    assert np.abs(y - forward(layer, u)).max() > 1e-3
    for same in (layer.cut(np.ones(N, bool)), layer.mask(np.ones(N, bool))):
        for name, array in params(layer).items():
            np.testing.assert_array_equal(params(same)[name], array)
    joined = split_x_proj(np.asarray(layer.x_proj), layer.dt_proj.shape[1], len(layer.reverse))
    for name, array in joined.items():
        np.testing.assert_array_equal(array, getattr(layer, name)[...])
    twice = cut.cut(np.array([0, 1, 1], bool))
    for name, array in params(layer.cut(np.array([0, 0, 0, 1, 1, 0], bool))).items():
        np.testing.assert_array_equal(params(twice)[name], array)


@ALL
def test_without_states_only_the_skip_is_left(options):
    layer, u = perturbed(**options), inputs()
    empty = layer.cut(np.zeros(N, bool))
    assert empty.n_states == 0 and empty.initial_state(2).h.size == 0
    y = forward(empty, u)
    np.testing.assert_allclose(y, loop(empty, u), rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(y, forward(layer.mask(np.zeros(N, bool)), u), rtol=1e-4, atol=1e-5)


def test_initial_values_are_the_references():
    """Ranges and special values of state-spaces/mamba, on a layer large enough to fill the ranges."""
    layer = S6(128, 4, S6Config(use_bias=True), rngs=nnx.Rngs(0))
    p = params(layer)
    assert {name: a.shape for name, a in p.items()} == {
        "in_proj": (512, 128),
        "in_proj_bias": (512,),
        "conv_weight": (256, 4),
        "conv_bias": (256,),
        "x_proj_dt": (8, 256),
        "x_proj_B": (4, 256),
        "x_proj_C": (1, 4, 256),
        "dt_proj": (256, 8),
        "dt_bias": (256,),
        "A_log": (256, 4),
        "D": (256,),
        "out_proj": (128, 256),
        "out_proj_bias": (128,),
    }
    fan_in = {"in_proj": 128, "conv_weight": 4, "conv_bias": 4, "dt_proj": 8, "out_proj": 256}
    fan_in |= dict.fromkeys(("x_proj_dt", "x_proj_B", "x_proj_C"), 256)
    for name, fan in fan_in.items():
        bound = fan**-0.5
        assert 0.95 * bound < np.abs(p[name]).max() <= bound, name
        assert abs(p[name].std() / (bound / 3**0.5) - 1) < 0.1, name
    np.testing.assert_allclose(np.exp(p["A_log"]), np.tile(np.arange(1, 5.0), (256, 1)), rtol=1e-6)
    assert (p["D"] == 1).all() and not p["in_proj_bias"].any() and not p["out_proj_bias"].any()
    dt = np.log1p(np.exp(p["dt_bias"]))
    assert 0.001 * 0.999 < dt.min() < 0.0012 and 0.085 < dt.max() < 0.1001
    assert abs(np.log(dt).mean() - np.log(0.01)) < 0.15  # log-uniform
    floored = params(S6(128, 4, S6Config(dt_min=1e-6, dt_floor=0.01), rngs=nnx.Rngs(0)))["dt_bias"]
    assert np.log1p(np.exp(floored)).min() > 0.0099


def test_the_rank_follows_the_features():
    assert [S6Config().rank(h) for h in (1, 16, 17, 768)] == [1, 1, 2, 48] and S6Config(dt_rank=5).rank(768) == 5


def test_an_abstract_layer_computes_nothing():
    """A_log alone has 512 GiB."""
    layer = abstract(lambda rngs: S6(2**16, 2**20, S6Config(), rngs=rngs))
    assert layer.A_log.shape == (2**17, 2**20)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"expand": 0}, "expand=0: expected a whole number from 1 to 64"),
        ({"d_conv": 0}, "d_conv=0: expected a whole number"),
        ({"dt_rank": -1}, "dt_rank=-1: expected a whole number from 0"),
        ({"dt_floor": 0.0}, "dt_floor=0.0: expected a number > 0"),
        ({"dt_min": 0.2}, "dt_min=0.2, dt_max=0.1: expected dt_min <= dt_max"),
        ({"use_bias": 1}, "use_bias=1: expected True or False"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        S6Config(**options)
