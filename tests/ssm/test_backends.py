"""The form of the scan: no result depends on it, and it follows the platform that the program is compiled for."""

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from aire.ssm import scan
from aire.training.step import init_state, make_train_step, split_model
from tests.helpers import MAMBA

LENGTH = 37  # not a multiple of the chunk length


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


def lowered(function, *args, platform: str) -> str:
    """The program of a function that is traced here, on a CPU, for a platform."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("kind", ["s5", "s4d", "lru"])
def test_a_program_traced_on_a_cpu_has_the_form_of_its_platform(kind, make_model):
    """The chunked form scans inside chunks, then over chunks; the sequential form has one loop.

    With gradients, S5 and LRU scan forwards and backwards; S4D does so for both factors of its kernel.
    """
    model = make_model((6,), d_model=6, ssm={"kind": kind, "bidirectional": False})
    graphdef, params, rest = nnx.split(model.blocks[0].ssm, nnx.Param, ...)

    def gradient(params, rest, u):
        return jax.grad(lambda p: nnx.merge(graphdef, p, rest)(u).sum())(params)

    scans = 4 if kind == "s4d" else 2
    for platform, loops in {"cpu": 1, "cuda": 2, "tpu": 2}.items():
        text = lowered(gradient, params, rest, jnp.ones((2, 64, 6)), platform=platform)
        assert text.count("stablehlo.while") == loops * scans, platform


def test_a_training_step_traced_on_a_cpu_is_that_of_its_platform(make_model):
    """With recomputed blocks and accumulated gradients. Barriers hold back recomputation, except on a CPU."""
    model = make_model((4,), d_model=4, activation="full_glu", remat=True, dropout=0.1)
    model.train()
    functions, *_ = split_model(model)
    optimizer = optax.sgd(0.1)
    state = jax.eval_shape(lambda: init_state(model, optimizer, jax.random.key(0)))
    batch = {"x": jnp.zeros((4, 64), jnp.uint8), "y": jnp.zeros(4, jnp.int32)}
    step = make_train_step(functions, optimizer, accumulate=2)
    texts = {platform: lowered(step, state, batch, platform=platform) for platform in ("cpu", "cuda", "tpu")}
    barriers = {platform: "optimization_barrier" in text for platform, text in texts.items()}
    assert barriers == {"cpu": False, "cuda": True, "tpu": True}
    loops = {platform: text.count("stablehlo.while") for platform, text in texts.items()}
    # Over the parts of the batch; forwards, forwards again and backwards in two directions, each in one loop or two. A
    # CPU draws random numbers in loops, too.
    assert loops["cuda"] == loops["tpu"] == 1 + 12 > loops["cpu"] >= 1 + 6


def test_a_program_for_several_platforms_runs_here(make_layer):
    """It holds all forms, and the platform that runs it chooses."""
    graphdef, state = nnx.split(make_layer())
    call = jax.jit(lambda state, u: nnx.merge(graphdef, state)(u))
    u = jax.random.normal(jax.random.key(0), (2, LENGTH, 3))
    exported = jax.export.export(call, platforms=("cpu", "cuda", "tpu"))(state, u)
    assert "stablehlo.case" in exported.mlir_module()
    np.testing.assert_allclose(exported.call(state, u), call(state, u), rtol=1e-6)
