"""The naive models agree with ours in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.ssm.selective_scan import selective_scan
from experiments.speed.naive import naive_selective_scan, naive_twin

pytestmark = pytest.mark.usefixtures("jax_defaults")


@pytest.mark.parametrize(
    ("kind", "activation", "bidirectional"),
    [("s5", "half_glu1", True), ("s5", "half_glu2", False), ("s4d", "glu", True)],
)
def test_same_logits_and_gradients(make_model, kind, activation, bidirectional):
    ssm = {"kind": kind, "bidirectional": bidirectional}
    ours = make_model(state_sizes=(8,), d_model=4, activation=activation, ssm=ssm)
    theirs = naive_twin(ours)
    tokens = jax.random.randint(jax.random.key(0), (3, 9), 0, 20)
    for model in (ours, theirs):
        model.train()

    @nnx.jit
    def value_and_gradients(model):
        def loss(model):
            logits = model(tokens)
            return jnp.sum(logits**2), logits

        gradients, logits = nnx.grad(loss, has_aux=True)(model)
        return logits, nnx.to_pure_dict(gradients)

    (y, a), (y_theirs, b) = value_and_gradients(ours), value_and_gradients(theirs)
    np.testing.assert_allclose(y_theirs, y, rtol=1e-4, atol=1e-5)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4 * max(1, float(jnp.abs(x).max())))


def test_the_naive_selective_scan_agrees():
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = (2, 9, 3), (2, 9, 3), (4, 3), (2, 9, 4), (2, 9, 4)
    u, Delta, A, B, C = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    inputs = u, jax.nn.softplus(Delta), -jnp.exp(A), B, C
    scans = naive_selective_scan, lambda *inputs: selective_scan(*inputs)[0]
    losses = [lambda *inputs, scan=scan: jnp.sum(jnp.sin(scan(*inputs))) for scan in scans]
    naive, ours = (jax.jit(jax.value_and_grad(loss, argnums=range(5)))(*inputs) for loss in losses)
    for a, b in zip(*map(jax.tree.leaves, (naive, ours)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
