"""A user-defined kind of layer works everywhere: training, pruning, files, optimiser groups."""

import csv
import dataclasses
import re
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import aire
from aire.data.pipeline import Split
from aire.io.weights import abstract_model
from aire.models import Classifier, ModelConfig
from aire.pruning import count_parameters, methods
from aire.ssm import KINDS, MIMO, S4D, LayerKind, S5Config, StateSpaceLayer, register, ssm_config
from aire.ssm.base import as_floats
from aire.training import loop
from aire.training.optimizer import OptimizerConfig, label, parameter_roles
from aire.training.step import split_model
from aire.utils.errors import UserError
from tests.helpers import logits

ROOT = Path(__file__).parents[2]
TOKENS = np.random.default_rng(0).integers(0, 20, (2, 30))


@dataclasses.dataclass(frozen=True)
class PolarConfig:
    kind: str = dataclasses.field(default="test_polar", init=False)
    largest: float = 0.95
    bidirectional: bool = False


class Polar(MIMO):
    """λ̄ = r exp(iθ) with r = largest · sigmoid(s), and B̄ = B: no continuous time, no time step."""

    STATE_AXIS: ClassVar = {"squash": 0, "turn": 0, "B_re": 0, "B_im": 0, "C_re": 2, "C_im": 2}
    ROLES: ClassVar = {
        "squash": "eigenvalue",
        "turn": "eigenvalue",
        "B_re": "input",
        "B_im": "input",
        "C_re": "output",
        "C_im": "output",
        "D": "skip",
    }

    def __init__(self, d_model, n_states, config, *, rngs):
        self.config = config
        draw = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))  # noqa: E731
        self.squash, self.turn, self.D = draw(n_states), draw(n_states), draw(d_model)
        self.B_re, self.B_im = draw(n_states, d_model), draw(n_states, d_model)
        R = 1 + config.bidirectional
        self.C_re, self.C_im = draw(R, d_model, n_states), draw(R, d_model, n_states)

    def gain(self):
        Lambda_bar = self.config.largest * jax.nn.sigmoid(self.squash[...])
        Lambda_bar = Lambda_bar.astype(jnp.complex64) * jnp.exp(jax.lax.complex(0 * self.turn[...], self.turn[...]))
        return Lambda_bar, jnp.ones_like(Lambda_bar)


@dataclasses.dataclass(frozen=True)
class DecayConfig:
    """No option at all: not even of directions."""

    kind: str = dataclasses.field(default="test_decay", init=False)


class Decay(StateSpaceLayer):
    """One real decay per channel, from the base class alone: x_k = λ̄ x_{k-1} + u_k, y_k = c x_k + D u_k."""

    STATE_AXIS: ClassVar = {"logit": 0, "C_re": 2, "C_im": 2, "owner": 0}
    ROLES: ClassVar = {"logit": "eigenvalue", "C_re": "output", "C_im": "output", "D": "skip"}

    def __init__(self, d_model, n_states, config, *, rngs):
        self.config = config
        draw = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))  # noqa: E731
        self.logit, self.D = draw(n_states), draw(d_model)
        self.C_re, self.C_im = draw(1, 1, n_states), draw(1, 1, n_states)
        self.owner = Owner(jnp.arange(n_states, dtype=jnp.int32) % d_model)

    def channels(self):
        return self.owner[...]

    def discrete(self):
        Lambda_bar = jax.nn.sigmoid(self.logit[...]).astype(jnp.complex64)
        return Lambda_bar, jnp.ones_like(Lambda_bar)[:, None]

    def drive(self, u):
        v = u.astype(jnp.float32)[..., self.owner[...]]
        return jnp.stack([v, jnp.zeros_like(v)], axis=2)

    def __call__(self, u):
        u = as_floats(u, self.D.dtype)
        x = self.states(u)[:, :, 0]  # (B, L, n)
        y = (x * self.readout()[:1]).real
        spread = jnp.eye(u.shape[-1])[self.owner[...]]
        return jnp.matmul(y, spread, precision="highest") + self.D[...][None, None] * u


class Owner(nnx.Variable):
    """Not trained."""

    def fault(self, array):
        return None if array.dtype == np.int32 else f"has dtype {array.dtype}, expected int32"


@pytest.fixture(autouse=True)
def kinds():
    """Register both kinds during a test."""
    register(LayerKind(PolarConfig, Polar, norm_epsilon=1e-3))
    register(LayerKind(DecayConfig, Decay))
    try:
        yield
    finally:
        del KINDS["test_polar"], KINDS["test_decay"]


@pytest.fixture
def make():
    """A classifier of these layers, made in one compilation."""

    def make_one(ssm, sizes=(6, 5), d_model=8, **options):
        config = ModelConfig(20, d_model, 10, sizes, ssm, **options)
        model = nnx.jit(lambda: Classifier(config, rngs=nnx.Rngs(0)))()
        model.eval()
        return model

    return make_one


ALL = pytest.mark.parametrize("ssm", [PolarConfig(bidirectional=True), PolarConfig(), DecayConfig()])


def test_options_come_from_names_as_in_a_config_or_a_file():
    assert ssm_config({"kind": "test_polar", "largest": 0.5}) == PolarConfig(0.5)
    with pytest.raises(UserError, match=r"ssm.kind='polar': expected one of \[.*'s6', 'test_decay', 'test_polar'\]"):
        ssm_config({"kind": "polar"})


@ALL
def test_the_layer_is_the_recurrence_that_its_modes_say(ssm):
    """Each state alone, by NumPy's loop."""
    layer = KINDS[ssm.kind].layer(3, 5, ssm, rngs=nnx.Rngs(0)).cut(np.array([1, 0, 1, 1, 1], bool))
    u = np.random.default_rng(0).normal(size=(1, 12, 3)).astype(np.float32)
    m = jax.tree.map(np.asarray, layer.modes())
    y = np.asarray(layer.D[...]) * u.astype(np.float64)
    for i in range(4):
        feeds = m.B_bar[i] if m.B_bar.shape[1] == 3 else np.eye(3)[m.channel[i]]
        for r in range(len(m.C)):
            reads = m.C[r, :, i] if m.C.shape[1] == 3 else np.eye(3)[m.channel[i]] * m.C[r, 0, i]
            x = 0
            for k in range(12) if r == 0 else reversed(range(12)):
                x = m.Lambda_bar[i] * x + u[0, k] @ feeds
                y[0, k] += (reads * x).real
    np.testing.assert_allclose(jax.jit(lambda u: layer(u))(u), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ssm", [PolarConfig(bidirectional=True), DecayConfig()])
def test_every_method_prunes_it(make, ssm):
    model = make(ssm)
    full, names = np.asarray(logits(model, TOKENS)), methods.data_free()
    assert {"aire", "last", "random", "lamp"} <= set(names)
    for name in names:  # to one size, so that the cuts share their compilations
        assert aire.prune(model, 0.4, name, scope="uniform").model.config.state_sizes == (4, 3), name
    for name in ("aire", "measured"):
        result = aire.prune(model, 0.4, name, calibration=[TOKENS])
        assert sum(result.model.config.state_sizes) == round(0.6 * 11)
        masked = aire.mask(model, result.cut)
        np.testing.assert_allclose(logits(result.model, TOKENS), logits(masked, TOKENS), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(logits(model, TOKENS), full)


def test_its_energies_are_those_of_its_modes(make):
    """‖C_i‖² ‖B̄_i‖² / (1 − |λ̄_i|²) from its parameters under their own names."""
    model = make(PolarConfig(bidirectional=True))
    p = {name: np.asarray(getattr(model.blocks[0].ssm, name)[...], np.float64) for name in Polar.STATE_AXIS}
    radius = 0.95 / (1 + np.exp(-p["squash"]))
    B = (p["B_re"] ** 2 + p["B_im"] ** 2).sum(axis=1)
    C = (p["C_re"] ** 2 + p["C_im"] ** 2).sum(axis=(0, 1))
    found = aire.score(model, normalize="none")["blocks/0/ssm"]
    np.testing.assert_allclose(found, B * C / (1 - radius**2), rtol=1e-4)


@ALL
def test_it_survives_a_file_cut_and_uncut(make, ssm, tmp_path):
    whole = make(ssm)
    for model in (whole, aire.prune(whole, 0.6).model):
        aire.save(model, tmp_path / "model.safetensors")
        loaded = aire.load(tmp_path / "model.safetensors")
        assert loaded.config == model.config and loaded.config.ssm == ssm
        np.testing.assert_array_equal(logits(loaded, TOKENS), logits(model, TOKENS))
        assert aire.prune(loaded, 0.5).states.before == sum(model.config.state_sizes)


def test_a_file_of_a_kind_that_is_not_registered_is_refused(make, tmp_path):
    aire.save(make(PolarConfig()), tmp_path / "model.safetensors")
    polar = KINDS.pop("test_polar")
    try:
        with pytest.raises(UserError, match=r"ssm\.kind='test_polar': expected one of"):
            aire.load(tmp_path / "model.safetensors")
    finally:
        register(polar)


@pytest.mark.parametrize("groups,B", [("standard", "ssm"), ("BandCdecay", "ssm_decay"), ("BfastandCdecay", "regular")])
def test_the_optimiser_groups_parameters_by_role_and_not_by_name(make, groups, B):
    model = make(PolarConfig(), (4,))
    config = OptimizerConfig(0.1, 0.1, 0.1, groups)
    labels = label(split_model(model)[1], config, parameter_roles(model))["blocks"][0]
    assert labels["ssm"] == {
        **{"squash": "ssm", "turn": "ssm", "B_re": B, "B_im": B},
        **dict.fromkeys(("C_re", "C_im", "D"), "regular"),
    }
    assert set(jax.tree.leaves(labels["norm"])) == {"regular"}


@pytest.mark.parametrize("ssm", [PolarConfig(bidirectional=True), DecayConfig()])
def test_it_trains(make, ssm, tmp_path):
    """Eight steps on sequences whose class is their only token; the model that validates best is pruned."""
    rng = np.random.default_rng(0)

    def split(n):
        y = rng.integers(0, 10, n).astype(np.int32)
        return Split(np.repeat(y[:, None], 12, axis=1).astype(np.uint8), np.full(n, 12, np.int32), y)

    train = loop.TrainConfig(
        batch_size=32,
        epochs=2,
        warmup_epochs=0,
        evaluate_every=4,
        optimizer=OptimizerConfig(lr=0.02, ssm_lr=0.01, weight_decay=0.01),
    )
    model = make(ssm)
    data = {"train": split(128), "validation": split(32)}
    trained = loop.train(model, data, train, seed=0, folder=tmp_path, fingerprint={})
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    losses = [float(r["value"]) for r in rows if r["metric"] == "train/loss"]
    assert losses[-1] < losses[0]
    poles = "squash" if ssm.kind == "test_polar" else "logit"
    before, after = (np.asarray(getattr(m.blocks[0].ssm, poles)[...]) for m in (model, trained.model))
    assert 0 < np.abs(after - before).max() <= 8 * 0.01 * 1.01  # Adam moves by the rate at most, the SSM's here
    assert aire.prune(trained.model, 0.5).states.after == round(0.5 * 11)


def test_the_block_knows_its_norms_epsilon():
    model = abstract_model(ModelConfig(20, 8, 10, (6,), PolarConfig(), batchnorm=False))
    assert model.blocks[0].norm.epsilon == 1e-3


class Doubled(nnx.Module):
    """A user-defined block: one layer and a residual."""

    def __init__(self, config, n_states, *, rngs):
        self.ssm = Polar(config.d_model, n_states, config.ssm, rngs=rngs)

    def __call__(self, x, rngs=None):
        return x + self.ssm(x)


def test_a_kind_may_bring_its_own_block(make):
    register(LayerKind(PolarConfig, Polar, block=f"{__name__}:Doubled"))
    model = make(PolarConfig())
    assert type(model.blocks[0]) is Doubled and list(aire.modes(model)) == ["blocks/0/ssm", "blocks/1/ssm"]
    assert aire.prune(model, 0.5).model.config.state_sizes != (6, 5)
    per_layer, dense = 6 * (2 + 4 * 8) + 8, 20 * 8 + 8 + 8 * 10 + 10
    assert count_parameters(model) == per_layer + 5 * (2 + 4 * 8) + 8 + dense


def test_states_are_counted_per_channel_where_the_kind_says_so():
    kind = LayerKind(DecayConfig, Decay, per_channel=True)
    assert kind.n_states(3, 8) == 24 and kind.describe_states(3) == "3 states per channel"
    assert KINDS["test_polar"].n_states(3, 8) == 3 and KINDS["test_polar"].describe_states(3) == "3 states"


def test_registering_again_replaces():
    register(LayerKind(PolarConfig, Polar, norm_epsilon=0.5))
    assert KINDS["test_polar"].norm_epsilon == 0.5


@dataclasses.dataclass(frozen=True)
class Nameless:
    largest: float = 0.5


@dataclasses.dataclass(frozen=True)
class Undecided:
    kind: str


@dataclasses.dataclass
class Changeable:
    kind: str = "test_changeable"


class NoDataclass:
    kind = "test_none"


@pytest.mark.parametrize(
    "config,layer,message",
    [
        (Nameless, Polar, "Nameless has no field `kind` with the kind's name as default"),
        (Undecided, Polar, "Undecided has no field `kind` with the kind's name as default"),
        (Changeable, Polar, "Changeable.* is not a frozen dataclass"),
        (NoDataclass, Polar, "NoDataclass.* is not a frozen dataclass"),
        (PolarConfig(), Polar, "PolarConfig.* is not a frozen dataclass"),
        (PolarConfig, nnx.Linear, "Linear.* is not an aire.ssm.StateSpaceLayer"),
        (PolarConfig, "Polar", "'Polar' is not an aire.ssm.StateSpaceLayer"),
    ],
)
def test_mistakes_are_named(config, layer, message):
    before = dict(KINDS)
    with pytest.raises(UserError, match=message):
        register(LayerKind(config, layer))
    assert before == KINDS


def test_nothing_asks_which_kind_a_layer_is():
    """All that depends on it is in its entry of the registry."""
    asking = re.compile(r"\bkind\s*(==|!=|\bin\s*[(\[{])")
    for folder in ("aire", "experiments", "configs"):
        files = sorted((ROOT / folder).rglob("*.py"))
        assert files
        for path in files:
            found = [line for line in path.read_text().splitlines() if asking.search(line)]
            assert not found, f"{path.relative_to(ROOT)}: {found}"


@pytest.mark.parametrize("kind", ["s5", "s4d"])
def test_the_packages_own_kinds_say_the_role_of_every_parameter(kind):
    layer = KINDS[kind].layer(4, 8, KINDS[kind].config(), rngs=nnx.Rngs(0))
    names = {str(path[-1]) for path, _ in nnx.to_flat_state(nnx.state(layer, nnx.Param))}
    assert names == set(layer.ROLES) and set(layer.STATE_AXIS) <= names | {"channel"}
    assert KINDS["s5"].config is S5Config and KINDS["s4d"].layer is S4D
