"""The benchmark's comparison with other implementations, as far as possible without clones of the real ones."""

import math
import sys

import numpy as np
import pytest

from aire.utils.errors import UserError
from configs import speed
from experiments.speed import side_by_side, speed_naive, speed_reference_layers
from experiments.speed.speed_layers import PASSES
from experiments.speed.speed_reference_s4d import reference_s4d_table
from experiments.speed.speed_reference_s5 import reference_table
from experiments.timing import Compiled

pytestmark = pytest.mark.usefixtures("jax_defaults")
TABLES = {
    "reference": reference_table,
    "reference_s4d": reference_s4d_table,
    "reference_discretax": speed_reference_layers.discretax_table,
    "reference_lru": speed_reference_layers.lru_table,
}


@pytest.mark.parametrize("folder", ["", "tests"])
@pytest.mark.parametrize("key", TABLES)
def test_a_folder_that_is_no_clone_is_named(key, folder):
    config = speed.get_config("smoke")
    config[key] = folder
    with pytest.raises(UserError, match=f"config.{key}='{folder or '.'}': expected a clone of"):
        TABLES[key](config)


# Equinox layers with the names of discretax's and CompreSSM's, computed one step after another.
STANDINS = {
    "reference_discretax": (
        "src/discretax/sequence_mixers/s5.py",
        """
import equinox as eqx, jax, jax.numpy as jnp

class S5SequenceMixer(eqx.Module):
    Lambda_re: jax.Array
    Lambda_im: jax.Array
    B: jax.Array
    C: jax.Array
    D: jax.Array
    log_step: jax.Array
    in_features: int
    conj_sym: bool = eqx.field(static=True, default=True)
    clip_eigs: bool = eqx.field(static=True, default=True)
    discretization: str = eqx.field(static=True, default="zoh")
    step_rescale: float = eqx.field(static=True, default=0.5)

    def __init__(self, in_features, key, state_dim):
        H, P = in_features, state_dim // 2
        keys = jax.random.split(key, 4)
        self.in_features = H
        self.Lambda_re, self.Lambda_im = -jnp.ones(P), -jnp.arange(1.0, P + 1)
        self.B, self.C = (jax.random.normal(k, s) for k, s in zip(keys, ((P, H, 2), (H, P, 2))))
        self.D, self.log_step = jax.random.normal(keys[2], (H,)), jax.random.uniform(keys[3], (P, 1)) - 3

    def __call__(self, u, key):
        a = jax.lax.complex(jnp.minimum(self.Lambda_re, -1e-4), self.Lambda_im)
        decay = jnp.exp(a * self.step_rescale * jnp.exp(self.log_step[:, 0]))
        B, C = (x[..., 0] + 1j * x[..., 1] for x in (self.B, self.C))
        def step(x, u):
            x = decay * x + (decay - 1) / a * (B @ u)
            return x, 2 * (C @ x).real + self.D * u
        return jax.lax.scan(step, jnp.zeros_like(decay), u)[1]
""",
    ),
    "reference_lru": (
        "compressm/models/lru.py",
        """
import equinox as eqx, jax, jax.numpy as jnp

class LRULayer(eqx.Module):
    nu_log: jax.Array
    theta_log: jax.Array
    gamma_log: jax.Array
    B_re: jax.Array
    B_im: jax.Array
    C_re: jax.Array
    C_im: jax.Array
    D: jax.Array

    def __init__(self, state_dim, hidden_dim, *, key):
        H, N = hidden_dim, state_dim
        shapes = {"nu_log": N, "theta_log": N, "gamma_log": N, "D": H}
        shapes |= {"B_re": (N, H), "B_im": (N, H), "C_re": (H, N), "C_im": (H, N)}
        for (name, shape), k in zip(shapes.items(), jax.random.split(key, len(shapes))):
            setattr(self, name, jax.random.normal(k, shape if isinstance(shape, tuple) else (shape,)))

    def __call__(self, u):
        decay = jnp.exp(jax.lax.complex(-jnp.exp(self.nu_log), jnp.exp(self.theta_log)))
        def step(x, u):
            x = decay * x + jnp.exp(self.gamma_log) * ((self.B_re + 1j * self.B_im) @ u)
            return x, ((self.C_re + 1j * self.C_im) @ x).real + self.D * u
        return jax.lax.scan(step, jnp.zeros_like(decay), u)[1]
""",
    ),
}
NUMBERS = {
    "reference_discretax": speed_reference_layers.discretax_numbers,
    "reference_lru": speed_reference_layers.lru_numbers,
}


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """Return a maker of a folder with a stand-in layer. What is imported from it is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def make(file, source):
        path = tmp_path / file
        path.parent.mkdir(parents=True)
        path.write_text(source)
        (tmp_path / file.partition("/")[0] / "__init__.py").write_text("import packages_of_data_sets")
        return tmp_path

    yield make
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("models", "discretax", "compressm"):
            del sys.modules[name]


@pytest.mark.parametrize("ours_first", [False, True])
@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("key", STANDINS)
def test_outputs_and_all_gradients_of_a_layer_agree(key, name, ours_first, standin):
    numbers = NUMBERS[key](str(standin(*STANDINS[key])), [3, 4, 9, 2], name, ours_first, 1)
    assert len(numbers) == 7 and all(number > 0 for number in numbers[:4]) and numbers[-1] < 1e-5


def test_a_wrong_gradient_of_one_parameter_shows(standin):
    file, source = STANDINS["reference_lru"]
    folder = standin(file, source.replace("self.D * u", "jax.lax.stop_gradient(self.D) * u"))
    measure = speed_reference_layers.lru_numbers
    forward, gradients = (measure(str(folder), [3, 4, 9, 2], name, False, 1)[-1] for name in PASSES)
    assert forward < 1e-5 and gradients == 1


@pytest.mark.parametrize(
    ("key", "file", "needs"),
    [
        ("reference_s4d", "models/s4/s4d.py", "torch einops"),
        ("reference_discretax", STANDINS["reference_discretax"][0], "equinox einops"),
        ("reference_lru", STANDINS["reference_lru"][0], "equinox"),
    ],
)
def test_missing_packages_are_named(key, file, needs, standin):
    config = speed.get_config("smoke")
    config[key] = str(standin(file, "import no_such_package"))
    with pytest.raises(UserError, match=rf"needs .*: pip install {needs} \(No module named"):
        TABLES[key](config)


def test_each_row_has_the_median_and_range_of_processes_in_which_both_go_first(monkeypatch, capsys):
    """Hand-computed: three processes, the ratios are 4, 1.5 and 2. Their median is not the ratio of medians."""
    calls = []
    memory = 2**21, 2**20
    runs = iter([[0.4, 0.1, 3, 1, *memory, 1e-6], [0.3, 0.2, 9, 2, *memory, 3e-6], [0.2, 0.1, 4, 5, *memory, 2e-6]])

    def child(function, *arguments, variables):
        calls.append((function, *arguments))
        assert variables == {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        return next(runs)

    monkeypatch.setattr(side_by_side, "child", child)
    config = speed.get_config()
    config.update(processes=3, repetitions=2)
    table = side_by_side.compare(config, ("layer", "other", "agree"), {"row": ("folder", (4,))}, ["forward"], abs)
    times = ("300.0", "200.0 to 400.0", "100.0", "100.0 to 200.0", "2.00", "1.50 to 4.00")
    assert table.rows[0] == (
        *("layer", "pass", "other, ms", "range", "aire, ms", "range", "times as fast", "range"),
        *("compilation, s", "temporary memory, MiB", "agree"),
    )
    assert table.rows[1:] == [("row", "forward", *times, "4.0 → 2.0", "2 → 1", "3e-06")]
    assert calls == [(abs, "folder", (4,), "forward", first, 2) for first in (False, True, False)]
    assert capsys.readouterr().out == "row, forward: 2.00 (1.50 to 4.00) times as fast as other\n"


def test_what_is_not_compiled_has_no_numbers_of_that(monkeypatch):
    monkeypatch.setattr(side_by_side, "child", lambda *_, **__: [0.4, 0.1, math.nan, 1, math.nan, 2**20, 0.0])
    table = side_by_side.compare(speed.get_config(), ("layer", "other", "agree"), {"row": ()}, ["forward"], abs)
    assert table.rows[1][-3:] == ("– → 1.0", "– → 1", "0e+00")


@pytest.mark.parametrize(("ours_first", "order"), [(False, "to" * 5), (True, "ot" * 5)])
def test_the_first_is_compiled_and_called_first(ours_first, order):
    compiled, called = [], []

    def prepare(name, results):
        def call():
            called.append(name)
            return next(results)

        compiled.append(name)
        return Compiled(call, 1, 2, 0), call

    theirs, ours = iter([1.0, 1.0, 1.0, 0, 0]), iter([1.0, 1.5, 1.25, 0, 0])
    numbers = side_by_side.side_by_side(
        lambda: prepare("t", theirs), lambda: prepare("o", ours), lambda a, b: abs(a - b), ours_first, 1
    )
    assert "".join(compiled) == order[:2] and "".join(called) == order
    assert numbers[2:] == [1, 1, 2, 2, 0.5]


def test_a_difference_that_is_not_a_number_is_not_hidden():
    def prepare():
        return Compiled(float, 1, 2, 0), float

    nan = iter([0.0, math.nan, 1.0])
    assert math.isnan(side_by_side.side_by_side(prepare, prepare, lambda a, b: next(nan), False, 1)[-1])
    assert math.isnan(side_by_side.relative_difference([np.ones(2)], [np.array([1, np.nan])]))


def test_differences_are_relative_to_each_array():
    a, b = {"x": np.array([1.0, 2.0]), "y": np.array([100.0])}, {"x": np.array([1.0, 4.0]), "y": np.array([110.0])}
    assert side_by_side.relative_difference(a, b) == 0.5


@pytest.mark.parametrize("name", ["forward", "training step"])
def test_a_naive_twin_is_measured(name):
    numbers = speed_naive.naive_numbers(["s5", 1, 4, 4, 32, 2], name, True, 1)
    assert len(numbers) == 7 and all(number > 0 for number in numbers[:4]) and numbers[-1] < 1e-5
