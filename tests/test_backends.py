"""What is chosen by backend changes no result: whole models as an accelerator would run them, here on the CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.ssm.scan import default_form

LENGTH = 37  # fills no whole number of chunks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["s5", "s4d", "lru"])
def test_a_model_and_its_gradients_are_those_of_the_cpu(kind, bidirectional, dtype, make_model, monkeypatch):
    ssm = {"kind": kind, "bidirectional": bidirectional}
    model = make_model((6, 3), d_model=6, ssm=ssm, activation="full_glu", dtype=dtype)
    model.train()
    tokens = jax.random.randint(jax.random.key(0), (4, LENGTH), 0, 20)

    def loss(model):
        logits = model(tokens)
        return logits.var(), logits

    results = {}
    for form, backend in (("sequential", "cpu"), ("chunked", "gpu")):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        assert default_form() == form
        results[form] = nnx.jit(nnx.grad(lambda m: loss(m), has_aux=True))(nnx.clone(model))
    # Between two orders of float32 sums; in bfloat16 between neighbours, which then go through two layers.
    tolerance = 1e-4 if dtype == "float32" else 0.05
    for a, b in zip(*map(jax.tree.leaves, results.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(jnp.abs(a).max()), 1e-3))
