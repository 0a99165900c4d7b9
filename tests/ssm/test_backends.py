"""What is chosen by platform: no result depends on it, and it is that of the platform compiled for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.ssm import S5, S5Config, scan
from tests.helpers import MAMBA

LENGTH = 37  # fills no whole number of chunks


@pytest.mark.parametrize("bidirectional,dtype", [(False, "float32"), (True, "bfloat16")])
@pytest.mark.parametrize("kind", ["s5", "s4d", "lru", "s6"])
def test_a_model_and_its_gradients_do_not_depend_on_the_form(kind, bidirectional, dtype, make_model, monkeypatch):
    ssm = {"kind": kind, "bidirectional": bidirectional}
    options = MAMBA if kind == "s6" else {"activation": "full_glu"}
    model = make_model((6,), d_model=6, ssm=ssm, dtype=dtype, **options)
    model.train()
    tokens = jax.random.randint(jax.random.key(0), (4, LENGTH), 0, 20)

    def loss(model):
        logits = model(tokens)
        return logits.var(), logits

    results = {}
    for form in ("sequential", "chunked"):
        monkeypatch.setitem(scan.PLATFORM_FORMS, "cpu", form)
        results[form] = nnx.jit(nnx.grad(lambda m: loss(m), has_aux=True))(nnx.clone(model))
    # Between two orders of float32 sums; in bfloat16 between neighbours.
    tolerance = 1e-4 if dtype == "float32" else 0.05
    for a, b in zip(*map(jax.tree.leaves, results.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(float(jnp.abs(a).max()), 1e-3))


def test_a_program_traced_on_a_cpu_for_a_gpu_has_the_form_of_the_gpu():
    """The chunked form scans inside chunks, then over chunks; the sequential form has one loop."""
    graphdef, state = nnx.split(S5(4, 3, S5Config(), rngs=nnx.Rngs(0)))
    traced = jax.jit(lambda state, u: nnx.merge(graphdef, state)(u)).trace(state, jnp.ones((2, 64, 4)))
    loops = {p: traced.lower(lowering_platforms=(p,)).as_text().count("stablehlo.while") for p in ("cpu", "cuda")}
    assert loops == {"cpu": 1, "cuda": 2}
