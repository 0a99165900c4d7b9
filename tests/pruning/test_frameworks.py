"""Models of other frameworks: `Modes.discrete` from plain arrays, and the masks back to the user's own arrays."""

import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aire
from aire import Modes
from aire.utils.errors import UserError

H, N = 3, 8


pytestmark = pytest.mark.usefixtures("jax_defaults")
INPUTS = np.random.default_rng(0).normal(size=(30, H)).astype(np.float32)


def recurrence(Lambda_bar, B_bar, C, D, u):
    """y_k = Re(C x_k) + D u_k step by step, (L, H)."""
    x, outputs = np.zeros(len(Lambda_bar), np.complex128), []
    for u_k in np.asarray(u, np.float64):
        x = Lambda_bar * x + B_bar @ u_k
        outputs.append((C @ x).real + D * u_k)
    return np.stack(outputs)


def prefix(energies: np.ndarray) -> np.ndarray:
    """Each energy over the sum of itself and all that are larger."""
    return np.array([e / energies[energies >= e].sum() for e in energies])


def by_formula(Lambda_bar, B_bar, C) -> np.ndarray:
    """‖C_i‖² ‖B̄_i‖² / (1 − |λ̄_i|²), one state after another."""
    rows = zip(np.asarray(Lambda_bar), np.asarray(B_bar), np.asarray(C).T, strict=True)
    return np.array([np.linalg.norm(c) ** 2 * np.linalg.norm(b) ** 2 / (1 - abs(lam) ** 2) for lam, b, c in rows])


class Diagonal(eqx.Module):
    """x' = Λ x + B u, y = Re(C x) + D u by zero-order hold: a layer of a user of Equinox."""

    log_decay: jax.Array
    frequency: jax.Array
    B: jax.Array
    C: jax.Array
    D: jax.Array
    step: float = eqx.field(static=True)

    def __init__(self, seed, n=N, step=0.1):
        rng = np.random.default_rng(seed)
        self.log_decay = jnp.asarray(rng.uniform(-2, 1, n), jnp.float32)
        self.frequency = jnp.asarray(rng.uniform(0, 20, n), jnp.float32)
        self.B = jnp.asarray(rng.normal(size=(n, H)) + 1j * rng.normal(size=(n, H)), jnp.complex64)
        self.C = jnp.asarray(rng.normal(size=(H, n)) + 1j * rng.normal(size=(H, n)), jnp.complex64)
        self.D = jnp.asarray(rng.normal(size=H), jnp.float32)
        self.step = step

    def discrete(self):
        Lambda = -jnp.exp(self.log_decay) + 1j * self.frequency
        Lambda_bar = jnp.exp(self.step * Lambda)
        return Lambda_bar, ((Lambda_bar - 1) / Lambda)[:, None] * self.B

    def __call__(self, u):
        Lambda_bar, B_bar = self.discrete()

        def one(x, u_k):
            x = Lambda_bar * x + B_bar @ u_k
            return x, (self.C @ x).real + self.D * u_k

        return jax.lax.scan(one, jnp.zeros(Lambda_bar.shape, jnp.complex64), u)[1]


class Equinox(eqx.Module):
    layers: list

    def __call__(self, u):
        for layer in self.layers:
            u = jnp.tanh(layer(u))
        return u


def test_an_equinox_model_is_pruned():
    model = Equinox([Diagonal(seed) for seed in range(2)])
    modes = {str(i): Modes.discrete(*layer.discrete(), layer.C) for i, layer in enumerate(model.layers)}
    scores = aire.score(modes, "aire")
    for name, m in modes.items():
        expected = prefix(by_formula(m.Lambda_bar, m.B_bar, m.C[0]))
        np.testing.assert_allclose(scores[name], expected, rtol=1e-4)
    keep = aire.select(scores, ratio=0.5)
    assert sum(int(mask.sum()) for mask in keep.values()) == N
    together = np.concatenate([np.asarray(scores[name]) for name in sorted(scores)])
    kept = np.concatenate([np.asarray(keep[name]) for name in sorted(scores)])
    assert together[kept].min() >= together[~kept].max()

    def cut(layer, mask):
        names = ("log_decay", "frequency", "B", "C")
        taken = [getattr(layer, name)[..., mask] if name == "C" else getattr(layer, name)[mask] for name in names]
        return eqx.tree_at(lambda layer: [getattr(layer, name) for name in names], layer, taken)

    masks = [np.asarray(keep[str(i)]) for i in range(2)]
    small = Equinox([cut(layer, mask) for layer, mask in zip(model.layers, masks, strict=True)])
    masked = Equinox(
        [
            eqx.tree_at(lambda layer: layer.C, layer, layer.C * mask)
            for layer, mask in zip(model.layers, masks, strict=True)
        ]
    )
    assert [layer.B.shape[0] for layer in small.layers] == [mask.sum() for mask in masks]
    y = eqx.filter_jit(small)(INPUTS)
    np.testing.assert_allclose(y, eqx.filter_jit(masked)(INPUTS), rtol=1e-4, atol=1e-5)
    by_hand = INPUTS
    for layer, mask in zip(model.layers, masks, strict=True):
        lam, B = (np.asarray(a)[mask] for a in layer.discrete())
        by_hand = np.tanh(recurrence(lam, B, np.asarray(layer.C)[:, mask], np.asarray(layer.D), by_hand))
    np.testing.assert_allclose(y, by_hand, rtol=1e-3, atol=1e-4)


class Recurrence(nn.Module):
    """A layer of a user of Linen: real parameters, polar eigenvalues."""

    n: int = N

    @nn.compact
    def __call__(self, u):
        radius = self.param("radius", nn.initializers.uniform(0.9), (self.n,))
        angle = self.param("angle", nn.initializers.uniform(3.0), (self.n,))
        B = self.param("B", nn.initializers.normal(1.0), (2, self.n, H))
        C = self.param("C", nn.initializers.normal(1.0), (2, H, self.n))
        lam, B, C = radius * jnp.exp(1j * angle), B[0] + 1j * B[1], C[0] + 1j * C[1]

        def one(x, u_k):
            x = lam * x + B @ u_k
            return x, (C @ x).real

        return jax.lax.scan(one, jnp.zeros(radius.shape, jnp.complex64), u)[1]


class Linen(nn.Module):
    sizes: tuple[int, ...]

    @nn.compact
    def __call__(self, u):
        for n in self.sizes:
            u = jnp.tanh(Recurrence(n)(u))
        return u


def test_a_linen_parameter_tree_is_pruned():
    params = jax.jit(Linen((N, 5)).init)(jax.random.key(0), INPUTS)["params"]
    axes = {"radius": 0, "angle": 0, "B": 1, "C": 2}  # the state axis of each of the user's arrays

    def arrays(p):
        lam = np.asarray(p["radius"]) * np.exp(1j * np.asarray(p["angle"]))
        return lam, *(np.asarray(p[name][0]) + 1j * np.asarray(p[name][1]) for name in ("B", "C"))

    modes = {name: Modes.discrete(*arrays(p)) for name, p in params.items()}
    scores = aire.score(modes, "aire", normalize="none")
    for name, p in params.items():
        np.testing.assert_allclose(scores[name], by_formula(*arrays(p)), rtol=1e-4)
    keep = aire.select(aire.score(modes), ratio=0.4, scope="uniform")
    sizes = tuple(int(keep[name].sum()) for name in params)
    assert sizes == (5, 3)
    small = {
        name: {key: np.compress(np.asarray(keep[name]), p[key], axis=axis) for key, axis in axes.items()}
        for name, p in params.items()
    }
    masked = {name: p | {"C": p["C"] * np.asarray(keep[name])} for name, p in params.items()}
    y = jax.jit(Linen(sizes).apply)({"params": small}, INPUTS)
    np.testing.assert_allclose(y, jax.jit(Linen((N, 5)).apply)({"params": masked}, INPUTS), rtol=1e-4, atol=1e-5)


def test_modes_of_two_directions_and_of_a_bank():
    rng = np.random.default_rng(0)
    lam, B = np.array([0.5, 0.8, -0.6]), rng.normal(size=(3, 1))
    C = rng.normal(size=(2, 1, 3))
    modes = Modes.discrete(lam, B, C, channel=[0, 0, 4])
    expected = np.array([sum(C[r, 0, i] ** 2 for r in range(2)) * B[i, 0] ** 2 / (1 - lam[i] ** 2) for i in range(3)])
    np.testing.assert_allclose(aire.score({"": modes}, normalize="none")[""], expected, rtol=1e-5)
    found = aire.score({"": modes}, normalize="channel")[""]
    np.testing.assert_allclose(found, [*prefix(expected[:2]), 1], rtol=1e-5)


def test_the_margin_keeps_the_digits_that_the_eigenvalues_have(x64):
    lam = 1 - np.array([1e-3, 1e-9])
    modes = Modes.discrete(lam, np.ones((2, 1)), np.ones((1, 2)))
    np.testing.assert_allclose(modes.margin, [1.999e-3, 2e-9], rtol=1e-6)
    assert modes.margin.dtype == np.float64 and modes.C.dtype == np.complex128


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.complex128, np.int32])
def test_numpy_arrays_of_any_precision_are_accepted_without_a_warning(dtype):
    """They are converted to the precision that JAX is set to."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        modes = Modes.discrete([0.5, 0.25], np.ones((2, 3), dtype), np.ones((4, 2), dtype))
    assert modes.Lambda_bar.dtype == modes.B_bar.dtype == modes.C.dtype == np.complex64
    assert modes.margin.dtype == np.float32 and modes.channel.dtype == np.int32 and modes.C.shape == (1, 4, 2)
    np.testing.assert_allclose(modes.margin, [0.75, 0.9375])
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(modes))


def test_an_unstable_mode_has_no_positive_margin_and_is_refused():
    modes = {"mine": Modes.discrete([0.5, 1.0, 1.1j], np.ones((3, 1)), np.ones((1, 3)))}
    assert [float(m) > 0 for m in modes["mine"].margin] == [True, False, False]
    with pytest.raises(UserError, match="layer 'mine': state 2 is unstable"):
        aire.score(modes)


class Refusing:
    """Refuses the conversion to NumPy, as a PyTorch tensor that requires a gradient does."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("call detach() first")


@pytest.mark.parametrize(
    "change,message",
    [
        ({"Lambda_bar": np.ones((2, 2))}, r"modes from Lambda_bar \[2, 2\]"),
        ({"Lambda_bar": 0.5}, r"Lambda_bar \[\]"),
        ({"B_bar": np.ones(2)}, r"B_bar \[2\].*expected Lambda_bar \(n,\)"),
        ({"B_bar": np.ones((3, 2))}, r"B_bar \[3, 2\]"),
        ({"C": np.ones((2, 3))}, r"C \[2, 3\]"),
        ({"C": np.ones(2)}, r"C \[2\]"),
        ({"channel": [0]}, r"channel \[1\]"),
        ({"channel": [1, 0]}, "channel: expected integers in ascending order"),
        ({"channel": [0.0, 1.0]}, "channel: expected integers in ascending order"),
        ({"channel": np.array([1, 0], np.uint8)}, "channel: expected integers in ascending order"),
        ({"Lambda_bar": ["a", "b"]}, "Lambda_bar has dtype <U1: expected real or complex numbers"),
        ({"C": np.ones((1, 2), bool)}, "C has dtype bool: expected real or complex numbers"),
        ({"B_bar": jnp.ones((2, 1), jnp.bfloat16)}, "B_bar has dtype bfloat16: expected real or complex numbers"),
        ({"C": Refusing()}, r"C cannot be read as a NumPy array: call detach\(\) first"),
    ],
)
def test_mistakes_are_named(change, message):
    good = {"Lambda_bar": np.full(2, 0.5), "B_bar": np.ones((2, 1)), "C": np.ones((1, 2))}
    Modes.discrete(**good)
    with pytest.raises(UserError, match=message):
        Modes.discrete(**good | change)
