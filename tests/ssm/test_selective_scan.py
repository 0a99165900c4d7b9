"""The selective scan: against a loop in float64, gradients against automatic differentiation, memory, platforms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from aire.ssm import S6, S6Config
from aire.ssm.selective_scan import _rows, selective_scan
from aire.utils.errors import UserError

FORMS = pytest.mark.parametrize("form", ["sequential", "chunked"])
NAMES = ("u", "Delta", "A", "B", "C", "h")


def case(L, B=2, D=3, N=4, seed=0) -> dict[str, np.ndarray]:
    """Decays from nearly 1 to nearly 0."""
    rng = np.random.default_rng(seed)
    return {
        "u": rng.normal(size=(B, L, D)),
        "Delta": np.exp(rng.uniform(-6, 1, size=(B, L, D))),
        "A": -np.exp(rng.uniform(-2, 2, size=(N, D))),
        "B": rng.normal(size=(B, L, N)),
        "C": rng.normal(size=(B, L, N)),
        "h": rng.normal(size=(B, N, D)),
    }


def loop(c: dict[str, np.ndarray], reverse: bool) -> tuple[np.ndarray, np.ndarray]:
    h, y = c["h"].copy(), np.zeros_like(c["u"])
    for t in reversed(range(y.shape[1])) if reverse else range(y.shape[1]):
        for n, A in enumerate(c["A"]):
            Delta = c["Delta"][:, t]
            h[:, n] = np.exp(Delta * A) * h[:, n] + Delta * c["B"][:, t, n, None] * c["u"][:, t]
            y[:, t] += c["C"][:, t, n, None] * h[:, n]
    return y, h


def arrays(c, dtype) -> tuple[jax.Array, ...]:
    return tuple(jnp.asarray(c[name], jnp.float32 if name in "Ah" else dtype) for name in NAMES)


@functools.partial(jax.jit, static_argnames=("reverse", "form"))
def run(*args, reverse=False, form=None):
    return selective_scan(*args, reverse=reverse, form=form)


@FORMS
@pytest.mark.parametrize("L", [1, 2, 37, 64])
def test_values_equal_a_loop(form, L):
    c = case(L)
    for reverse in (False, True):
        y, last = run(*arrays(c, jnp.float32), reverse=reverse, form=form)
        expected = loop(c, reverse)
        assert y.dtype == last.dtype == jnp.float32
        np.testing.assert_allclose(y, expected[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(last, expected[1], rtol=1e-5, atol=1e-5)


@FORMS
def test_no_state_given_means_zeros(form):
    c = case(20) | {"h": np.zeros((2, 4, 3))}
    y, last = run(*arrays(c, jnp.float32)[:-1], form=form)
    for found, expected in zip((y, last), loop(c, False), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@FORMS
def test_inputs_in_bfloat16_are_computed_in_float32(form):
    """The results equal those of the loop on the rounded inputs, to float32 precision."""
    c = case(37)
    given = arrays(c, jnp.bfloat16)
    y, last = run(*given, form=form)
    rounded = {name: np.asarray(a, np.float64) for name, a in zip(NAMES, given, strict=True)}
    for found, expected in zip((y, last), loop(rounded, False), strict=True):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def plain(u, Delta, A, B, C, h, reverse):
    """The definition, step by step, for automatic differentiation."""

    def step(h, inputs):
        u, Delta, B, C = inputs
        h = jnp.exp(Delta[:, None] * A[None]) * h + B[:, :, None] * (Delta * u)[:, None]
        return h, jnp.sum(C[:, :, None] * h, axis=1)

    last, y = lax.scan(step, h, tuple(a.swapaxes(0, 1) for a in (u, Delta, B, C)), reverse=reverse)
    return y.swapaxes(0, 1), last


def loss(scan, weights, *args):
    y, last = scan(*args)
    return jnp.sum(weights[0] * jnp.sin(y)) + jnp.sum(weights[1] * last**2)


@FORMS
@pytest.mark.parametrize("L,dtype", [(1, "float32"), (37, "float32"), (64, "bfloat16")])
def test_gradients_equal_automatic_differentiation_in_float64(form, L, dtype):
    """Gradients of all inputs, through the outputs and the last states."""
    given = arrays(case(L), jnp.dtype(dtype))
    rng = np.random.default_rng(1)
    weights = rng.normal(size=given[0].shape), rng.normal(size=given[-1].shape)
    small = [jnp.asarray(w, jnp.float32) for w in weights]
    for reverse in (False, True):
        scan = functools.partial(selective_scan, reverse=reverse, form=form)
        found = jax.jit(jax.grad(lambda *a, s=scan: loss(s, small, *a), argnums=range(6)))(*given)
        with jax.enable_x64(True):
            exact = [jnp.asarray(np.asarray(a, np.float64)) for a in given]
            scan64 = functools.partial(plain, reverse=reverse)
            expected = jax.jit(jax.grad(lambda *a, s=scan64: loss(s, weights, *a), argnums=range(6)))(*exact)
        for name, a, b, x in zip(NAMES, found, expected, given, strict=True):
            assert a.dtype == x.dtype
            tolerance = 2e-5 if a.dtype == jnp.float32 else 1e-2
            error = np.abs(np.asarray(a, np.float64) - np.asarray(b)).max() / np.abs(b).max()
            assert error < tolerance, (name, reverse, error)


def test_the_batch_is_computed_in_groups_without_a_trace():
    """Six sequences of 2,048 numbers run in two groups of three. Each gives the same results as alone."""
    assert (_rows(6, 2048), _rows(7, 2048), _rows(8, 10), _rows(3, 2**20)) == (3, 1, 8, 1)
    given = arrays(case(9, B=6, D=128, N=16), jnp.float32)

    def value(*args):
        y, last = selective_scan(*args, form="sequential")
        return jnp.sum(y**2) + jnp.sum(last), y

    grad = jax.jit(jax.grad(value, argnums=range(6), has_aux=True))
    found, y = grad(*given)
    total = 0
    for i in range(6):
        one, y_one = grad(*(a if name == "A" else a[i : i + 1] for name, a in zip(NAMES, given, strict=True)))
        np.testing.assert_allclose(y_one[0], y[i], rtol=1e-5, atol=1e-5)
        for name, a, b in zip(NAMES, found, one, strict=True):
            if name != "A":
                np.testing.assert_allclose(a[i], b[0], rtol=1e-4, atol=1e-4 * np.abs(b).max())
        total += np.asarray(one[2], np.float64)
    np.testing.assert_allclose(found[2], total, rtol=1e-4, atol=1e-4 * np.abs(total).max())


def test_hessian_vector_products_are_grad_of_grad():
    given = arrays(case(5), jnp.float32)

    def product(scan, u):
        value = lambda u: jnp.sum(scan(u, *given[1:])[0] ** 3)  # noqa: E731
        return jax.grad(lambda u: jnp.sum(jax.grad(value)(u) * given[0]))(u)

    ours = jax.jit(functools.partial(product, functools.partial(selective_scan, form="sequential")))(given[0])
    theirs = jax.jit(functools.partial(product, functools.partial(plain, reverse=False)))(given[0])
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


def test_no_array_holds_the_states_of_all_steps():
    """A training step at B 16, L 4096, D 512, N 16, compiled only. One such array has 2 GiB."""
    B, L, D, N = 16, 4096, 512, 16
    shapes = [(B, L, D), (B, L, D), (N, D), (B, L, N), (B, L, N), (B, N, D)]
    given = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    for form in ("sequential", "chunked"):
        value = lambda *a, form=form: jnp.sum(selective_scan(*a, form=form)[0] ** 2)  # noqa: E731
        done = jax.jit(jax.grad(value, argnums=range(6))).lower(*given).compile()
        assert done.memory_analysis().temp_size_in_bytes < 1.2 * 2**30


def test_a_program_traced_on_a_cpu_for_a_gpu_has_the_form_of_the_gpu():
    """One loop over chunks in all for a GPU; for a CPU also one over the steps of a chunk."""
    layer = S6(4, 3, S6Config(), rngs=nnx.Rngs(0))
    traced = jax.jit(lambda u: layer(u)).trace(jnp.ones((2, 64, 4)))
    loops = {p: traced.lower(lowering_platforms=(p,)).as_text().count("stablehlo.while") for p in ("cpu", "cuda")}
    assert loops == {"cpu": 2, "cuda": 1}


def test_an_unknown_form_is_refused():
    with pytest.raises(UserError, match=r"form of the scan 'fast': expected one of \['chunked', 'sequential'\]"):
        selective_scan(*arrays(case(2), jnp.float32), form="fast")
