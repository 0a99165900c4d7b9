"""Wrong arguments to every public function, most of a wrong type. Each raises an error that names the argument."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import aire
from aire import convert
from aire.data.tasks import load_task
from aire.models import Classifier, ModelConfig
from aire.pruning import Calibration, Cut, Method, Readout, count_parameters, find_cut, moments, scores
from aire.ssm import LRU, S4D, S5, LRUConfig, Modes, S4DConfig, S5Config, register
from aire.training.loop import TrainConfig
from tests.campaign.attack import Attack, Outcome, attempt
from tests.helpers import below, golden

CASES = 200
Call = Callable[[Any], Any]

NAN, MANY = math.nan, 10**400
TYPES = ("text", 3.5, b"bytes", (1j,), object(), lambda: None)  # wrong for every argument
NOT_NUMBERS = ("0.5", [], {}, 1j, np.array([0.1, 0.2]), np.array("a"), NAN, object())
NOT_INTEGERS = (None, "1", 1.5, -1, True, NAN, MANY, np.array([1, 2]), [])
NOT_NAMES = (3, b"aire", ["aire"], {}, "airy", "aire\0", object(), np.array(["aire"]))
NOT_MAPPINGS = (None, [], "text", 3, ({},), {1: 2}, object())
NOT_ARRAYS = (None, "text", {}, np.array(["a"]), np.array([None]), [[1.0], [1.0, 2.0]], object())


def ragged_model() -> Classifier:
    model = Classifier(ModelConfig(5, 4, 3, (4, 3), S5Config()), rngs=nnx.Rngs(0))
    model.eval()
    return model


def pruning(model: Classifier, x: np.ndarray) -> Iterator[tuple[str, Call, Sequence]]:
    """Functions of aire.pruning: (name of function and argument, the call, wrong values)."""
    path, found = "blocks/0/ssm", aire.score(model)
    keep = aire.select(found, ratio=0.5)
    kept = int(keep[path].sum())
    D = np.zeros(4, np.float32)
    yield "score model", aire.score, (*TYPES, *NOT_MAPPINGS, {}, {"a": None}, {"a": {}})
    yield "score method", lambda v: aire.score(model, v), (None, *NOT_NAMES)
    yield "score normalize", lambda v: aire.score(model, normalize=v), NOT_NAMES
    yield "score unstable", lambda v: aire.score(model, unstable=v), (None, *NOT_NAMES)
    yield "score seed", lambda v: aire.score(model, "random", seed=v), (*NOT_INTEGERS, 2**32, 2**63)
    yield "score moments", lambda v: aire.score(model, "measured", moments=v), (3, "text", {}, {path: 1}, [1], {1: 2})
    yield "select scores", lambda v: aire.select(v, ratio=0.5), (*NOT_MAPPINGS, {})
    yield "select layer", lambda v: aire.select({"a": v}, ratio=0.5), (*NOT_ARRAYS, x, [NAN], [1j], [True], "a", 3)
    yield (
        "select ratio",
        lambda v: aire.select(found, ratio=v),
        (*NOT_NUMBERS, -0.1, 1, MANY, True, {"*": "a"}, {1: 0.5}),
    )
    yield "select threshold", lambda v: aire.select(found, threshold=v), (*NOT_NUMBERS, math.inf, 1e300, MANY)
    yield "select scope", lambda v: aire.select(found, ratio=0.5, scope=v), (None, *NOT_NAMES)
    yield (
        "select leave_whole",
        lambda v: aire.select(found, ratio=0.5, leave_whole=v),
        ("*", 3, None, [3], ["c"], object()),
    )
    yield "cut model", lambda v: aire.cut(v, keep), (None, *TYPES, {}, [])
    yield "cut keep", lambda v: aire.cut(model, v), (*NOT_MAPPINGS, {}, {path: keep[path]})
    masks = (*NOT_ARRAYS, [1, 0, 1, 0], ["True"] * 4, np.ones(3, bool), np.ones((4, 1), bool), True)
    yield "cut mask", lambda v: aire.cut(model, keep | {path: v}), masks
    yield "mask mask", lambda v: aire.mask(model, keep | {path: v}), masks
    yield "cut readouts", lambda v: aire.cut(model, Cut(keep, v)), (*NOT_MAPPINGS, {"b": 1}, {path: (1, 2, 3)})
    yield (
        "cut readout C",
        lambda v: aire.cut(model, Cut(keep, {path: Readout(v, D)})),
        (*NOT_ARRAYS, D, np.full((1, 4, kept), NAN)),
    )
    yield (
        "cut fitted",
        lambda v: aire.cut(model, Cut(keep, {}, {path: v})),
        (*NOT_MAPPINGS, {"C_re": D}, {"log_step": "a"}),
    )
    yield "prune model", lambda v: aire.prune(v, 0.5), (None, *TYPES, {})
    yield "prune ratio", lambda v: aire.prune(model, v), (*NOT_NUMBERS, 1.0, 2)
    yield "prune method", lambda v: aire.prune(model, 0.5, v), (None, *NOT_NAMES)
    yield "prune scope", lambda v: aire.prune(model, 0.5, scope=v), NOT_NAMES
    yield "prune tolerance", lambda v: aire.prune(model, tolerance=v, validate=lambda m: 1.0), (*NOT_NUMBERS, -0.1)
    yield "prune validate", lambda v: aire.prune(model, tolerance=0.1, validate=v), ("text", 3, [], {})
    yield "validate's result", lambda v: aire.prune(model, tolerance=0.1, validate=lambda m: v), (None, *NOT_NUMBERS)
    yield (
        "prune calibration",
        lambda v: aire.prune(model, 0.5, "measured", calibration=v),
        (*TYPES, x, {"x": x}, [], [x, None]),
    )
    yield "calibrate model", lambda v: aire.calibrate(v, [x]), (None, *TYPES)
    batches = (*NOT_ARRAYS, x[0], x[..., :3], x[:, :0])
    yield "calibrate batch", lambda v: aire.calibrate(model, [v]), batches
    yield "calibrate x", lambda v: aire.calibrate(model, [{"x": v}]), batches
    yield (
        "calibrate lengths",
        lambda v: aire.calibrate(model, [{"x": x, "lengths": v}]),
        (3, [3], [0, 3], [3, 9], [3.0, 3.0], "text"),
    )
    yield "Calibration", Calibration, (None, "text", 3, x, {}, object())
    yield "find_cut scores", lambda v: find_cut(model, v, "aire", ratio=0.5), NOT_MAPPINGS
    yield (
        "find_cut calibration",
        lambda v: find_cut(model, found, "aire_refit", ratio=0.5, calibration=v),
        (None, [x], 3),
    )
    yield "Method score", Method, (None, 3, ["aire"])
    yield "Method normalize", lambda v: Method("aire", v), (None, *NOT_NAMES)
    yield "Method scope", lambda v: Method("aire", scope=v), (None, *NOT_NAMES)
    yield "Method refit", lambda v: Method("aire", refit=v), ("refit", 3, [])
    yield "register name", scores.register, (None, 3, "", ["a"], "a\0", b"a")
    yield "register needs", lambda v: scores.register("mine", needs=v), ("modes", ("key", 3), 3, None, {"key": 1})
    yield "register function", lambda v: scores.register("mine")(v), (None, "text", 3)
    yield "white modes", moments.white, (None, *TYPES, model)
    yield "finite_horizon length", lambda v: moments.finite_horizon(aire.modes(model)[path], v), NOT_INTEGERS
    yield "modes model", aire.modes, (None, *TYPES)
    yield "count_parameters", count_parameters, (None, *TYPES)


def results_of_scores(model: Classifier) -> Iterator[tuple[str, Call, Sequence]]:
    """Scores of a user that return something wrong or raise an error."""
    wrong = (None, "text", {}, [1.0], (1, [2]), 3, True, -np.ones(4), np.full(4, NAN), np.ones((4, 1)), 1j * np.ones(4))
    wrong += (np.full(4, math.inf), np.array([None] * 4), np.full(4, 1e300))
    yield "a score's result", lambda v: score_by(model, lambda modes: v), wrong
    yield (
        "a score's error",
        lambda v: score_by(model, lambda modes: raise_(v)),
        (ValueError("a"), KeyError(1), TypeError()),
    )
    yield "a score's arguments", lambda v: score_by(model, v), (lambda: 1, lambda a, b: 1)


def score_by(model: Classifier, fn: Callable) -> Any:
    try:
        scores.register("campaign", overwrite=True)(fn)
        return aire.score(model, "campaign")
    finally:
        del scores.SCORES["campaign"]


def raise_(error: Exception) -> None:
    raise error


def models(model: Classifier, x: np.ndarray, folder: Path) -> Iterator[tuple[str, Call, Sequence]]:
    """Functions that take models, layers or files."""
    layer, tokens, two = model.blocks[0].ssm, np.zeros((2, 8), np.int32), {"retrieval": True}
    yield "model x", model, (*NOT_ARRAYS, x[0], x[..., :3], x[:0], x[:, :0], 1j * x, tokens - 1, tokens + 5, tokens > 0)
    lengths = (*NOT_ARRAYS[1:], [8], [8, 8, 8], [[8, 8]], [8.0, 8.0], [0, 8], [8, 9], [-1, 8], 8, [True, True])
    yield "model lengths", lambda v: model(x, v), lengths
    yield "model rngs", lambda v: model(x, rngs=v), ("text", 3, {}, [])
    pairs = (tokens[:1], np.zeros((2, 3, 8), np.int32), np.zeros((2, 2, 8), np.int32) + 5)
    yield "two documents", Classifier(ModelConfig(5, 4, 3, (4,), **two), rngs=nnx.Rngs(0)), pairs
    yield (
        "layer u",
        layer,
        (*NOT_ARRAYS, x, x[0], np.zeros((0, 8, 4), np.float32), np.zeros((1, 0, 4), np.float32), 1j * x),
    )
    yield "layer states", layer.states, (*NOT_ARRAYS, x)
    yield "layer cut", layer.cut, (*NOT_ARRAYS, [1, 0, 1, 0], [True] * 3)
    yield "layer mask", layer.mask, (*NOT_ARRAYS, [1, 0, 1, 0], [True] * 3)
    yield "layer with_readout C", lambda v: layer.with_readout(v, np.zeros(4)), NOT_ARRAYS
    yield (
        "layer with_parameters",
        layer.with_parameters,
        (*NOT_MAPPINGS, {"nothing": 1}, {"n_states": 3}, {"log_step": "a"}),
    )
    yield "layer initial_state", layer.initial_state, NOT_INTEGERS
    yield "layer step u", lambda v: layer.step(v, layer.initial_state(2)), (*NOT_ARRAYS, x, np.zeros((3, 4)))
    yield "layer step x", lambda v: layer.step(np.zeros((2, 4), np.float32), v), (*NOT_ARRAYS, np.zeros((2, 4)))
    for kind, config in ((S5, S5Config()), (S4D, S4DConfig()), (LRU, LRUConfig())):
        name = kind.__name__
        yield f"{name} d_model", lambda v, k=kind, c=config: k(v, 4, c, rngs=nnx.Rngs(0)), (0, *NOT_INTEGERS)
        yield f"{name} n_states", lambda v, k=kind, c=config: k(4, v, c, rngs=nnx.Rngs(0)), NOT_INTEGERS
        yield f"{name} config", lambda v, k=kind: k(4, 4, v, rngs=nnx.Rngs(0)), (None, *TYPES, {}, kind)
        yield (
            f"{name} rngs",
            lambda v, k=kind, c=config: k(4, 4, c, rngs=v),
            (None, *TYPES, nnx.Rngs(dropout=0), jax.random.key(0)),
        )
    yield "Classifier config", lambda v: Classifier(v, rngs=nnx.Rngs(0)), (None, *TYPES, {})
    yield "Classifier rngs", lambda v: Classifier(model.config, rngs=v), (None, *TYPES)
    yield "ModelConfig state_sizes", lambda v: ModelConfig(5, 4, 3, v), (None, *TYPES, 4, (), (-3,), (4.0,), ("a",))
    yield "ModelConfig d_model", lambda v: ModelConfig(5, v, 3, (4,)), (0, *NOT_INTEGERS)
    yield "ModelConfig ssm", lambda v: ModelConfig(5, 4, 3, (4,), v), (None, *TYPES, {})
    yield "ModelConfig.from_dict", ModelConfig.from_dict, (*NOT_MAPPINGS, {}, {"ssm": 3}, {"ssm": {}})
    yield "map_layers model", lambda v: aire.map_layers(v, lambda p, layer: layer), (None, *TYPES)
    yield "map_layers fn", lambda v: aire.map_layers(model, v), (None, "text", 3)
    yield "register layer", register, (None, *TYPES)
    yield "kernel length", lambda v: S4D(2, 4, S4DConfig(), rngs=nnx.Rngs(0)).kernel(v), (0, *NOT_INTEGERS)
    good = {"Lambda_bar": np.full(2, 0.5), "B_bar": np.ones((2, 1)), "C": np.ones((1, 2))}
    for name in good:
        yield (
            f"Modes {name}",
            lambda v, n=name: Modes.discrete(**good | {n: v}),
            (*NOT_ARRAYS, np.ones((3, 3, 3, 3)), 3),
        )
    yield "Modes channel", lambda v: Modes.discrete(**good, channel=v), (*NOT_ARRAYS[1:], [1, 0], [0], [0.0, 1.0])
    yield "Modes scale", lambda v: Modes.discrete(**good, scale=v), (None, *NOT_NUMBERS, 0, -1)
    yield "save model", lambda v: aire.save(v, folder / "a.safetensors"), (None, *TYPES)
    yield "save path", lambda v: aire.save(model, v), (None, 3, b"a", [], "a\0", "a" * 300, folder)
    yield "load path", aire.load, (None, 3, b"a", [], "a\0", "a" * 300, folder, "nowhere", object())
    yield "zoo name", aire.zoo.load, (None, 3, [], "nowhere", "../lra_listops_small", "a\0", np.array(["a"]))


def imports(folder: Path) -> Iterator[tuple[str, Call, Sequence]]:
    """Functions that import arrays of other programs, load data or take settings."""
    options = {"conj_sym": True, "bidirectional": False, "discretization": "zoh"}
    params = below(next(iter(golden("s5_layers.npz").values())), "param/")
    itself: dict[str, Any] = {}
    itself["a"] = itself
    for name, call in {
        "s5_layer": lambda v: convert.s5_layer(v, **options),
        "s5_model": lambda v: convert.s5_model(v, activation="gelu", prenorm=True, batchnorm=True),
        "s4d_layer": convert.s4d_layer,
        "s4d_model": lambda v: convert.s4d_model(v, prenorm=True),
        "lru_layer": convert.lru_layer,
        "lru_model": convert.lru_model,
    }.items():
        yield name, call, (*NOT_MAPPINGS, {}, itself, {"a": None}, {"a": {"b": object()}})
    for name in params:
        yield (
            f"s5_layer {name}",
            lambda v, n=name: convert.s5_layer(params | {n: v}, **options),
            (None, "a", np.ones(2), [object()]),
        )
    for name in options:
        yield f"s5_layer {name}", lambda v, n=name: convert.s5_layer(params, **options | {n: v}), (None, "text", 3, [])
    yield (
        "s5_layer step_rescale",
        lambda v: convert.s5_layer(params, **options, step_rescale=v),
        (None, *NOT_NUMBERS, 0, -1),
    )
    yield (
        "from_file path",
        lambda v: convert.from_file(v, ragged_model().config),
        (None, 3, b"a", [], "a\0", "nowhere.msgpack"),
    )
    yield "from_file config", lambda v: convert.from_file("nowhere.msgpack", v), (None, *TYPES, {})
    yield (
        "load_task",
        lambda v: load_task(v, folder),
        (*NOT_MAPPINGS, {}, {"task": None}, {"task": []}, {"task": "lists"}),
    )
    yield "TrainConfig.from_dict", TrainConfig.from_dict, NOT_MAPPINGS


def compiled(model: Classifier) -> Iterator[tuple[str, Call, Sequence]]:
    """Functions under jax.jit that need concrete values, and `aire.checked` with wrong values."""
    found = aire.score(model)
    keep, tokens = aire.select(found, ratio=0.5), jnp.zeros((2, 8), jnp.int32)
    yield "traced score", lambda v: jax.jit(lambda m: aire.score(m, v))(model), ("aire", "magnitude")
    yield "traced ratio", lambda v: jax.jit(lambda r: aire.select(found, ratio=r))(v), (0.5,)
    yield "traced mask", lambda v: jax.jit(lambda k: v(model, k))(keep), (aire.cut, aire.mask)
    yield "traced save", lambda v: jax.jit(lambda m: aire.save(m, v))(model), ("a.safetensors",)
    yield "checked tokens", aire.checked(model), (tokens - 1, tokens + 5)
    lengths = (jnp.array([0, 8]), jnp.array([8, 9]))
    yield "checked lengths", lambda v: aire.checked(lambda x, n: model(x, n))(tokens, v), lengths
    yield "checked scores", aire.checked(lambda s: aire.select({"a": s}, ratio=0.5)), (jnp.array([NAN, 1.0]),)


def cases(folder: Path) -> Iterator[tuple[str, Call]]:
    """Return all calls by name."""
    model, x = ragged_model(), np.random.default_rng(0).normal(size=(2, 8, 5)).astype(np.float32)
    groups = pruning(model, x), results_of_scores(model), models(model, x, folder), imports(folder), compiled(model)
    for group in groups:
        for name, call, values in group:
            for value in values:
                yield f"{name}={repr(value)[:40]}", lambda call=call, value=value: call(value)


def run(folder: Path) -> Iterator[Outcome]:
    for name, call in cases(folder):
        yield attempt(name, call, lambda value: False)


ATTACK = Attack("a wrong argument in Python", CASES, run)
