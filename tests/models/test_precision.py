"""What bfloat16 activations cost a trained model: its accuracy, on freshly drawn ListOps of the kind it learned."""

import dataclasses

import pytest

import aire
from aire import zoo
from aire.data import listops
from aire.io.weights import run_as
from aire.training.evaluate import make_evaluator


@pytest.fixture(scope="module")
def expressions(tmp_path_factory):
    """600 expressions of 21 to 99 tokens, as `lra_listops_prune:small` has them, from another seed."""
    sizes = {"train_examples": 1, "validation_examples": 1, "test_examples": 600}
    source = listops.Generated(min_length=20, max_length=100, seed=7, **sizes)
    return listops.load(tmp_path_factory.mktemp("listops"), source, length=100)["test"]


@pytest.mark.parametrize(
    "name",
    ["lra_listops_small"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("lra_listops_s4d_small", "lra_listops_lru_small")],
)
def test_a_trained_model_keeps_its_accuracy_in_bfloat16(name, expressions):
    model = aire.load(zoo.path(name))
    low = run_as(model, dataclasses.replace(model.config, dtype="bfloat16"))
    accuracy = [make_evaluator(m, 100)(m, expressions).accuracy for m in (model, low)]
    assert accuracy[0] > 0.55  # 60 to 62 % on the whole test split
    assert abs(accuracy[1] - accuracy[0]) < 0.015
