"""The recurrence in all its forms: against each other, a loop in NumPy, and a convolution by FFT."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import lfilter

from aire.ssm.scan import diagonal_scan
from tests.helpers import forward, stepwise

LENGTHS = [1, 2, 37, 64, 200]


def system(length, batch=2, n=5, seed=0, dtype=np.complex64):
    rng = np.random.default_rng(seed)
    Lambda_bar = np.exp(-rng.uniform(0.001, 0.3, n) + 1j * rng.uniform(-3, 3, n)).astype(dtype)
    v = (rng.normal(size=(length, batch, n)) + 1j * rng.normal(size=(length, batch, n))).astype(dtype)
    return Lambda_bar, v


def pairs(v):
    """Complex (L, B, P) as the scan takes it: real (B, L, 2, P)."""
    return jnp.stack([v.real, v.imag], axis=2).swapaxes(0, 1)


def scan(Lambda_bar, v, *, reverse=False, **options):
    x = np.asarray(diagonal_scan(jnp.asarray(Lambda_bar), pairs(v), reverse=(reverse,), **options))[:, :, 0]
    return (x[:, :, 0] + 1j * x[:, :, 1]).swapaxes(0, 1)


def loop(Lambda_bar, v, reverse):
    x, out = 0, np.zeros_like(v)
    for k in reversed(range(len(v))) if reverse else range(len(v)):
        x = Lambda_bar * x + v[k]
        out[k] = x
    return out


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", ["sequential", "chunked"])
def test_forms_equal_the_loop(form, reverse, length, x64):
    Lambda_bar, v = system(length, dtype=np.complex128)
    np.testing.assert_allclose(
        scan(Lambda_bar, v, reverse=reverse, form=form), loop(Lambda_bar, v, reverse), rtol=1e-10
    )


@pytest.mark.parametrize("form", ["sequential", "chunked"])
def test_forms_equal_fft_convolution(form):
    Lambda_bar, v = system(200)
    kernel = Lambda_bar ** np.arange(200)[:, None]
    padded = np.fft.ifft(np.fft.fft(kernel, 400, axis=0)[:, None] * np.fft.fft(v, 400, axis=0), axis=0)
    np.testing.assert_allclose(scan(Lambda_bar, v, form=form), padded[:200], atol=2e-4)


@pytest.mark.parametrize("form", ["sequential", "chunked"])
def test_two_directions_are_each_alone(form):
    Lambda_bar, v = system(70)
    both = diagonal_scan(jnp.asarray(Lambda_bar), pairs(v), reverse=(False, True), form=form)
    for r, reverse in enumerate((False, True)):
        alone = diagonal_scan(jnp.asarray(Lambda_bar), pairs(v), reverse=(reverse,), form=form)
        np.testing.assert_allclose(both[:, :, r], alone[:, :, 0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 33])
@pytest.mark.parametrize("reverse", [(False,), (True,), (False, True)])
@pytest.mark.parametrize("form", ["sequential", "chunked"])
def test_gradients_equal_automatic_differentiation_of_the_convolution(form, reverse, length, x64):
    """Oracle: the convolution as one dense sum over λ̄ powers, differentiated by JAX in complex arithmetic."""
    Lambda_bar, v = system(length, dtype=np.complex128)
    weights = np.random.default_rng(1).normal(size=(2, length, len(reverse), 2, 5))

    def by_scan(lam, v):
        return jnp.sum(weights * diagonal_scan(lam, v, reverse=reverse, form=form))

    def by_sum(lam, v):
        k = jnp.arange(length)
        total = 0
        for r, backward in enumerate(reverse):
            lag = k[None, :, None] - k[:, None, None] if backward else k[:, None, None] - k[None, :, None]
            powers = jnp.where(lag >= 0, lam[None, None] ** jnp.maximum(lag, 0).astype(lam.dtype), 0)
            x = jnp.einsum("kjn,bjn->bkn", powers, jax.lax.complex(v[:, :, 0], v[:, :, 1]))
            total += jnp.sum(weights[:, :, r, 0] * x.real + weights[:, :, r, 1] * x.imag)
        return total

    arguments = jnp.asarray(Lambda_bar), pairs(v)
    ours, oracle = (jax.jit(jax.grad(f, argnums=(0, 1)))(*arguments) for f in (by_scan, by_sum))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), ours, oracle)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_forms_agree_in_values_and_gradients(dtype):
    """Also on inputs of 8 bits: the recurrence itself stays in float32, so both see the same rounded inputs."""
    Lambda_bar, v = system(150)
    rounded = pairs(v).astype(dtype)
    weights = jax.random.normal(jax.random.key(0), (2, 150, 2, 2, 5))

    def loss(lam, v, form):
        x = diagonal_scan(lam, v, reverse=(False, True), form=form)
        assert x.dtype == jnp.float32
        return jnp.sum(weights * x)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    gradients = [gradient(Lambda_bar, rounded, form) for form in ("sequential", "chunked")]
    for a, b in zip(*gradients, strict=True):
        assert a.dtype == b.dtype
        # One unit in the last place of a bfloat16 is 2^-8 of it: the two forms may round to neighbours.
        np.testing.assert_allclose(
            *(np.asarray(g, np.complex64) for g in (a, b)), rtol=2**-7 if a.dtype == jnp.bfloat16 else 1e-4, atol=1e-4
        )
    exact = np.asarray(rounded, np.float32)
    for r, reverse in enumerate((False, True)):
        found = diagonal_scan(jnp.asarray(Lambda_bar), rounded, reverse=(False, True))[:, :, r]
        expected = loop(Lambda_bar, (exact[:, :, 0] + 1j * exact[:, :, 1]).swapaxes(0, 1), reverse)
        np.testing.assert_allclose(found, pairs(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["sequential", "chunked"])
def test_no_states_and_masked_states(form):
    assert scan(*system(10, n=0), form=form).shape == (10, 2, 0)
    v = system(10, n=3)[1]
    np.testing.assert_allclose(scan(np.zeros(3, np.complex64), v, form=form), v, rtol=1e-6)


@pytest.mark.parametrize("batch,n", [(0, 3), (2, 0)])
def test_gradients_of_nothing(batch, n):
    Lambda_bar, v = system(40, batch=batch, n=n)
    gradient = jax.grad(lambda lam, v: jnp.sum(diagonal_scan(lam, v)), argnums=(0, 1))
    lam, inputs = gradient(jnp.asarray(Lambda_bar), pairs(v))
    assert (lam.shape, inputs.shape) == ((n,), (batch, 40, 2, n)) and not lam.any()


def test_unknown_form_is_named():
    with pytest.raises(ValueError, match="unknown form of the scan 'parallel'"):
        scan(*system(3), form="parallel")


@pytest.mark.parametrize("form", ["sequential", "chunked"])
def test_the_error_over_200_000_steps_is_the_documented_one(form):
    """ε min(L, 1 / (1 − |λ̄|)) of the largest value, for noise and for a constant; measured figures of its docstring."""
    L, distance = 200_000, np.array([1e-3, 1e-4, 1e-5, 1e-6])
    Lambda_bar = (1 - distance) * np.exp(1j * np.array([0.3, 0, 2.0, 1.0]))
    inputs = {"noise": np.random.default_rng(0).normal(size=(L, 4)), "constant": np.ones((L, 4))}
    v = np.stack(list(inputs.values()), axis=1).astype(complex)
    expected = np.stack([lfilter([1], [1, -lam], v[..., i], axis=0) for i, lam in enumerate(Lambda_bar)], axis=-1)
    found = scan(Lambda_bar.astype(np.complex64), v.astype(np.complex64), form=form)
    error = (abs(found - expected).max(axis=0) / abs(expected).max(axis=0)).max(axis=0)
    assert (error <= np.finfo(np.float32).eps * np.minimum(L, 1 / distance)).all()
    assert (error <= [3e-5, 7e-4, 2e-3, 4e-3]).all(), error
    assert (error[2:] > 1e-4).all()  # it is not nothing


def test_steps_do_not_drift_from_the_whole_sequence(make_layer):
    layer = make_layer(2, 4, blocks=1, dt_min=1e-5, dt_max=1e-4)
    u = jax.random.normal(jax.random.key(0), (1, 100_000, 2))
    expected = forward(layer, u)
    assert jnp.abs(stepwise(layer, u) - expected).max() < 1e-6 * jnp.abs(expected).max()
