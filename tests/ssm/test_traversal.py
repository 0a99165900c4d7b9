"""The traversal finds each layer once, wherever the model holds it, and replaces it in all places."""

from collections import namedtuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.models import Classifier
from aire.ssm import S5, S5Config, layers, map_layers
from aire.ssm.paths import natural_order, path_name
from aire.training.optimizer import parameter_roles
from aire.training.step import split_model
from aire.utils.errors import UserError
from tests.helpers import logits

H, N = 3, 4
Pair = namedtuple("Pair", "left right")
INPUTS = np.random.default_rng(0).normal(size=(2, 15, H)).astype(np.float32)
KEEP = np.array([True, False, False, True])


def layer(seed: int = 0) -> S5:
    return S5(H, N, S5Config(), rngs=nnx.Rngs(seed))


class Twice(nnx.Module):
    """One layer in two attributes, with one dense layer between that is shared, too."""

    def __init__(self):
        self.a = self.b = layer()
        self.before = self.after = nnx.Linear(H, H, rngs=nnx.Rngs(0))

    def __call__(self, u):
        return self.b(self.after(self.a(self.before(u))))


class Listed(nnx.Module):
    def __init__(self):
        tied = layer()
        self.items = nnx.List([tied, layer(1), tied])


class Named(nnx.Module):
    def __init__(self):
        tied = layer()
        self.items = nnx.Dict({"up/down": tied, "7": layer(1), "up": nnx.Dict({"down": layer(2)}), "8": tied})


class PlainOf(nnx.Module):
    """Nested Python containers."""

    def __init__(self, items):
        self.items = nnx.data(items)


class Opaque(nnx.Module, pytree=False):
    """Not a pytree: its containers need no wrapping."""

    def __init__(self):
        tied = layer()
        self.first, self.rest = tied, [tied, layer(1)]


class Ring(nnx.Module):
    """A module that refers to itself, directly and through a child's container."""

    def __init__(self):
        self.ssm, self.me = layer(), self
        self.child = PlainOf((self, self.ssm))


PLACES = {
    "attributes": (Twice, ["a"], lambda m: [(m.a, m.b)]),
    "list": (Listed, ["items/0", "items/1"], lambda m: [(m.items[0], m.items[2]), (m.items[1],)]),
    "dict": (
        Named,
        ["items/7", "items/8", "items/up/down"],
        lambda m: [(m.items["7"],), (m.items["8"], m.items["up/down"]), (m.items["up"]["down"],)],
    ),
    "plain dict": (
        lambda: PlainOf({"b/c": layer(), "~1": layer(1)}),
        ["items/b~1c", "items/~01"],
        lambda m: [(m.items["b/c"],), (m.items["~1"],)],
    ),
    "tuple": (
        lambda: PlainOf((layer(), [layer(1)])),
        ["items/0", "items/1/0"],
        lambda m: [(m.items[0],), (m.items[1][0],)],
    ),
    "not a pytree": (Opaque, ["first", "rest/1"], lambda m: [(m.first, m.rest[0]), (m.rest[1],)]),
    "ring": (Ring, ["child/items/1"], lambda m: [(m.ssm, m.child.items[1], m.me.ssm, m.child.items[0].ssm)]),
}


@pytest.mark.parametrize("case", PLACES)
def test_a_layer_is_found_once_and_replaced_everywhere_by_one_object(case):
    make, paths, places = PLACES[case]
    model, called = make(), []

    def smaller(path, layer):
        called.append(path_name(path))
        return layer.cut(KEEP)

    before = [place[0].B_re[...] for place in places(model)]
    new = map_layers(model, smaller)
    assert list(layers(model)) == paths and sorted(called) == sorted(paths)  # each once
    for of_one in places(new):
        assert all(place is of_one[0] for place in of_one) and of_one[0].n_states == 2
    assert type(new) is type(model) and new is not model
    for of_one, B in zip(places(model), before, strict=True):  # the original keeps its layers and its arrays
        assert all(place is of_one[0] for place in of_one) and of_one[0].n_states == N
        assert of_one[0].B_re[...] is B


def test_a_tied_layer_in_named_tuples_and_nested_plain_containers():
    tied = layer()
    model = PlainOf({"x": (layer(1), tied), "y": [Pair(tied, None)], "z": {"deep": Pair(None, tied)}})
    assert list(layers(model)) == ["items/x/0", "items/x/1"]
    new = map_layers(model, lambda path, layer: layer.cut(KEEP)).items
    assert new["x"][1] is new["y"][0].left is new["z"]["deep"].right and new["x"][1].n_states == 2
    assert isinstance(new["y"][0], Pair) and isinstance(new["x"], tuple) and new["y"][0].right is None


def test_integer_keys_of_a_plain_dict_are_in_the_order_of_numbers():
    """As Flax has them, so that a tied layer has one path in both: 2 comes before 10."""
    tied = layer()
    model = PlainOf({10: tied, 2: tied})
    assert list(layers(model)) == ["items/2"]
    assert set(parameter_roles(model)) == {("items", "2", name) for name in S5.ROLES}
    assert {path[:2] for path, _ in nnx.to_flat_state(nnx.state(model))} == {("items", 2)}


@pytest.mark.parametrize("make", [Twice, Listed, Named, Opaque, Ring])
def test_paths_of_tied_layers_are_those_of_their_parameters(make):
    """The optimiser finds the role of a parameter by its path, and Flax lists a shared one under its first."""
    model = make()
    named = {tuple(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert parameter_roles(model).keys() <= named


def test_other_shared_modules_stay_shared_and_variables_are_copies():
    model = Twice()
    new = map_layers(model, lambda path, layer: layer)
    assert new.before is new.after and new.before is not model.before
    assert new.a is new.b and new.a is not model.a and new.a.D is not model.a.D
    new.before.kernel[...] = jnp.zeros((H, H))
    assert np.any(model.before.kernel[...])


def test_a_tied_model_is_pruned_as_one_layer():
    model = Twice()
    result = aire.prune(model, 0.5)
    assert list(result.keep) == list(aire.modes(model)) == list(result.scores) == ["a"]
    assert result.states == (N, N // 2)  # not twice that
    assert result.model.a is result.model.b and result.model.a.n_states == result.model.b.n_states == N // 2
    rows = [line.split() for line in result.summary().splitlines()]
    assert next(row[0] for row in rows if "→" in row) == "a" and "4 → 2" in result.summary()
    shared, dense = H * N * 4 + 3 * N + H, H * H + H  # S5: B and C 2 H each, λ 2, Δ 1 per state; D
    assert result.parameters == (shared + dense, shared + dense - (4 * H + 3) * (N // 2))


def test_a_tied_model_after_a_cut_is_its_cut_layer_applied_twice():
    model = Twice()
    small, dense = jax.jit(model.a.cut(KEEP).__call__), model.before
    W, b = np.asarray(dense.kernel[...]), np.asarray(dense.bias[...])
    expected = small(np.asarray(small(INPUTS @ W + b)) @ W + b)
    for tied in (aire.cut(model, {"a": KEEP}), aire.pruning.mask(model, {"a": KEEP})):
        graphdef, state = nnx.split(tied)
        y = jax.jit(lambda state, u, graphdef=graphdef: nnx.merge(graphdef, state)(u))(state, INPUTS)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    _, params, _ = split_model(aire.cut(model, {"a": KEEP}))
    assert "b" not in params and params["a"]["B_re"].shape == (2, H)  # still tied for whoever trains it


class Delegating(nnx.Module):
    """Looks like a layer from outside, and is none."""

    def __init__(self):
        self.inner = layer()

    @property
    def n_states(self):
        return self.inner.n_states

    def modes(self):
        return self.inner.modes()

    def cut(self, keep):
        return self.inner.cut(keep)

    def mask(self, keep):
        return self.inner.mask(keep)


def test_a_wrapper_that_delegates_is_not_counted():
    model = nnx.List([Delegating(), layer(1)])
    result = aire.prune(model, 0.5)
    assert list(result.keep) == ["0/inner", "1"] and result.states == (2 * N, N)
    assert isinstance(result.model[0], Delegating)
    assert result.model[0].n_states == int(np.sum(result.keep["0/inner"]))


def test_layers_inside_a_layer_are_not_traversed():
    class Outer(S5):
        def __init__(self):
            super().__init__(H, N, S5Config(), rngs=nnx.Rngs(0))
            self.extra = layer(1)

    assert list(layers(nnx.List([Outer()]))) == ["0"]


class Ranker(nnx.Module):
    """A user's module around a classifier."""

    def __init__(self, backbone):
        self.backbone = backbone
        self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x, lengths=None):
        return self.scale[...] * self.backbone(x, lengths)


def test_a_classifier_inside_another_module_knows_its_sizes_after_a_cut(make_model, tmp_path):
    tokens = np.random.default_rng(0).integers(0, 20, (2, 30))
    model = Ranker(make_model((6, 4), d_model=8))
    result = aire.prune(model, 0.5)
    sizes = tuple(int(np.sum(mask)) for mask in result.keep.values())
    assert list(result.keep) == ["backbone/blocks/0/ssm", "backbone/blocks/1/ssm"]
    assert result.model.backbone.config.state_sizes == sizes and sum(sizes) == 5
    assert model.backbone.config.state_sizes == (6, 4)
    aire.save(result.model.backbone, tmp_path / "backbone.safetensors")
    loaded = aire.load(tmp_path / "backbone.safetensors")
    assert isinstance(loaded, Classifier) and loaded.config == result.model.backbone.config
    np.testing.assert_array_equal(logits(loaded, tokens), logits(result.model.backbone, tokens))


@pytest.mark.parametrize(
    "path,name",
    [
        ((), ""),
        (("blocks", 0, "ssm"), "blocks/0/ssm"),
        (("blocks/0", "ssm"), "blocks~10/ssm"),
        (("a~1b",), "a~01b"),
        (("a/b",), "a~1b"),
        (("", "a"), "/a"),
    ],
)
def test_path_names_by_hand(path, name):
    assert path_name(path) == name


def test_path_names_of_awkward_keys_are_never_the_same():
    """All paths of up to three parts from awkward ones, which read alike when merely joined."""
    parts = ["a", "a/a", "~", "~1", "~0", "/", "a~1a"]
    paths = [(p,) for p in parts] + [(p, q) for p in parts for q in parts]
    paths += [(p, q, r) for p in parts for q in parts for r in parts]
    assert len({path_name(path) for path in paths}) == len(paths)


def test_layers_are_in_the_order_of_numbers():
    names = ["blocks/10/ssm", "blocks/2/ssm", "blocks/2/a", "a", "blocks/9/ssm"]
    expected = ["a", "blocks/2/a", "blocks/2/ssm", "blocks/9/ssm", "blocks/10/ssm"]
    assert sorted(names, key=natural_order) == expected


def test_a_model_without_a_layer_is_refused():
    with pytest.raises(UserError, match="Linear contains no state space layer"):
        map_layers(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), lambda path, layer: layer)
