"""Run the snippets of the README and the pages in order, in one namespace, and check what the text says of them."""

import re
from pathlib import Path

import jax
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import aire
from aire.data.tasks import TASKS, load_task
from aire.pruning import METHODS
from aire.pruning.scores import SCORES
from aire.ssm import KINDS

ROOT = Path(__file__).parent.parent
PAGES = {  # the number of snippets
    "README.md": 1,
    "docs/index.md": 3,
    "docs/extend.md": 5,
    "docs/own_models.md": 1,
    "docs/use.md": 3,
    "docs/selective.md": 1,
}
# One group, so that one worker runs the snippets once.
pytestmark = [pytest.mark.usefixtures("jax_defaults"), pytest.mark.xdist_group("pages")]
REGISTRIES = (SCORES, METHODS, KINDS, TASKS)


def snippets(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def ran(tmp_path_factory, jax_defaults):
    """The namespace after all snippets. What they registered is removed again."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(0, 15, (4, 30)), np.array([30, 21, 9, 30], np.int32)
    batches = [{"x": rng.integers(0, 15, (8, 30)), "lengths": np.full(8, 30, np.int32)} for _ in range(2)]
    names = {"__name__": "readme", "tokens": tokens, "lengths": lengths, "batches": batches}
    names["accuracy"] = lambda model: sum(map(reaching, aire.modes(model).values())) / 128  # falls with every state cut
    before = [dict(registry) for registry in REGISTRIES]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # some of them save files
        jaxtyping.config.update("jaxtyping_disable", True)  # the checks reject the symbolic sizes of an export
        try:
            for page in PAGES:
                for number, code in enumerate(snippets(page), 1):
                    exec(compile(code, f"{page}, snippet {number}", "exec"), names)
            jaxtyping.config.update("jaxtyping_disable", False)
            yield names | {"folder": folder}
        finally:
            jaxtyping.config.update("jaxtyping_disable", False)
            for registry, own in zip(REGISTRIES, before, strict=True):
                registry.clear()
                registry.update(own)


def states(model) -> int:
    return sum(model.config.state_sizes)


def reaching(modes) -> int:
    """The number of states that reach an output."""
    return int(np.any(np.asarray(modes.C) != 0, axis=(0, 1)).sum())


def test_every_snippet_is_found():
    pages = ["README.md", *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))]
    assert {page: len(found) for page in pages if (found := snippets(page))} == PAGES  # none is missing


def test_a_model_is_pruned_and_saved(ran):
    full = states(ran["model"])
    assert ran["result"].states == (full, round(0.7 * full)) and states(ran["smaller"]) == round(0.7 * full)
    assert ran["logits"].shape == (4, 10) and "energy kept" in ran["result"].summary()
    loaded = aire.load(ran["folder"] / "pruned.safetensors")
    np.testing.assert_array_equal(loaded(ran["tokens"], ran["lengths"]), ran["logits"])


def test_the_single_steps_give_the_model_of_prune(ran):
    for a, b in zip(jax.tree.leaves(ran["smaller"]), jax.tree.leaves(ran["result"].model), strict=True):
        np.testing.assert_array_equal(a, b)


def test_calibrated_pruning_keeps_its_ratio_and_a_tolerance_finds_the_ratio(ran):
    full = states(ran["model"])
    assert states(ran["calibrated"].model) == round(0.4 * full) and "held-out" in ran["calibrated"].summary()
    assert full - states(ran["within"].model) == 1  # 1 of 128 is within 0.01, 2 are not


def test_user_defined_scores_keep_the_highest_states(ran):
    """In each layer, no state that is cut scores higher than one that is kept."""
    moments = aire.calibrate(ran["model"], ran["batches"])
    for path, m in aire.modes(ran["model"]).items():
        swing = moments[path].energy().sum(axis=0)
        for result, values in ((ran["slowest"], np.abs(m.Lambda_bar)), (ran["swung"], swing)):
            keep = np.asarray(result.keep[path])
            assert keep.any() and values[keep].min() >= values[~keep].max(initial=0)


def test_the_refit_loses_less_than_the_plain_cut(ran):
    """Compare the output of the first layer on the inputs of the fit."""
    model, plain = ran["model"], ran["result"]
    for path, mask in ran["refitted"].keep.items():
        np.testing.assert_array_equal(mask, plain.keep[path])
    x = np.concatenate([batch["x"] for batch in ran["batches"]])
    assert model.config.prenorm
    u = model.blocks[0].norm(model.encoder(jax.nn.one_hot(x, model.config.d_input)))
    full, *cut = (np.asarray(m.blocks[0].ssm(u)) for m in (model, plain.model, ran["refitted"].model))
    errors = [np.mean((y - full) ** 2) for y in cut]
    assert errors[1] < 0.9 * errors[0]


def test_a_user_defined_layer_is_pruned_and_saved(ran):
    leaky = ran["leaky"]
    leaky.eval()
    result = aire.prune(leaky, 0.5, "last")
    assert result.states == (12, 6) and leaky.config.ssm == ran["LeakyConfig"]()
    aire.save(result.model, ran["folder"] / "leaky.safetensors")
    loaded, tokens = aire.load(ran["folder"] / "leaky.safetensors"), ran["tokens"]
    np.testing.assert_array_equal(loaded(tokens), result.model(tokens))
    np.testing.assert_allclose(loaded(tokens), aire.mask(leaky, result.keep)(tokens), rtol=1e-4, atol=1e-5)


def test_a_user_defined_task_is_found_by_name(ran):
    task = load_task({"task": "parity", "length": 12, "examples": 20}, ran["folder"])
    assert task.description() == "parity of random bits: 20 / 20 / 20 / 20 examples of up to 12 steps, 2 classes"
    for split in task.splits.values():
        np.testing.assert_array_equal(split.y, [sum(map(int, x)) % 2 for x in split.x])


def test_plain_arrays_are_cut(ran):
    rng = np.random.default_rng(0)
    lam, B, C = rng.uniform(-0.9, 0.9, 16), rng.normal(size=(16, 3)), rng.normal(size=(2, 16))
    energies = (B**2).sum(axis=1) * (C**2).sum(axis=0) / (1 - lam**2)
    strongest = np.sort(np.argsort(energies)[8:])
    np.testing.assert_array_equal(ran["Lambda_bar"], lam[strongest])
    np.testing.assert_array_equal(ran["B_bar"], B[strongest])
    np.testing.assert_array_equal(ran["C"], C[:, strongest])


def test_streaming_ends_with_the_logits_of_the_complete_sequence(ran):
    expected = ran["forward"](ran["tokens"])
    np.testing.assert_allclose(ran["so_far"], expected, atol=1e-5 * np.abs(expected).max())
    assert (ran["folder"] / "whole.bin").stat().st_size and (ran["folder"] / "step.bin").stat().st_size


def test_the_optimiser_is_cut_with_the_model(ran):
    params = nnx.to_pure_dict(nnx.state(ran["half"], nnx.Param))
    assert jax.tree.map(np.shape, ran["opt_state"][0].mu) == jax.tree.map(np.shape, params)
