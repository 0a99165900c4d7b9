"""A model applied step by step or in parts gives the logits of the call on the complete sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from aire.models import Classifier, ModelConfig, streaming
from aire.ssm import LRUConfig, S4DConfig, S5Config, S6Config
from aire.utils.errors import UserError
from tests.helpers import MAMBA

KINDS = {
    "s5": S5Config(bidirectional=False),
    "s4d": S4DConfig(bidirectional=False),
    "lru": LRUConfig(bidirectional=False),
    "s6": S6Config(),
}


def make(ssm, **options) -> Classifier:
    sizes = (12, 4) if ssm.kind == "s4d" else (6, 4)
    if ssm.kind == "s6":
        options = options | MAMBA | {"prenorm": True}
    model = Classifier(ModelConfig(5, 4, 3, sizes, ssm, **options), rngs=nnx.Rngs(0))
    model.eval()
    return model


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "options", [{}, {"pooling": "last", "prenorm": False, "batchnorm": False, "activation": "full_glu"}]
)
def test_steps_and_parts_give_the_logits_of_the_complete_sequence(kind, options):
    model, rng = make(KINDS[kind], **options), np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 5, (3, 12)))

    @jax.jit
    def by_parts(tokens):
        logits, state = streaming.scan(model, tokens[:, :9], streaming.start(model, 3))
        found = [streaming.scan(model, tokens[:, 9:], state)[0]]
        for k in range(9, 12):
            logits, state = streaming.step(model, tokens[:, k], state)
            found.append(logits)
        return found[0], found[-1], found[1]

    @jax.jit
    def whole(tokens):
        return model(tokens), model(tokens[:, :10])

    parts, steps, early = by_parts(tokens)
    full, first_ten = whole(tokens)
    for found, expected in ((parts, full), (steps, full), (early, first_ten)):
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(full).max())


def test_what_cannot_stream_is_named():
    for model, message in (
        (make(S5Config(bidirectional=True)), "one-directional"),
        (make(KINDS["s5"], retrieval=True), "two complete documents"),
        (Classifier(ModelConfig(5, 4, 3, (4,), KINDS["s5"]), rngs=nnx.Rngs(0)), r"training mode.*call model.eval\(\)"),
    ):
        with pytest.raises(UserError, match=message):
            streaming.start(model, 1)
    model = make(KINDS["s5"])
    with pytest.raises(UserError, match=r"input \[3, 4\]: expected integer tokens or floats \(…, 5\)"):
        streaming.step(model, jnp.zeros((3, 4)), streaming.start(model, 3))
