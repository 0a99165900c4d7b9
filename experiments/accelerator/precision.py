"""The precision of the layers on this device: outputs, gradients and AIRE scores beside NumPy's float64."""

from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

import aire
from aire.pruning import GateMoments
from aire.ssm import StateSpaceLayer
from experiments.accelerator.oracle import ORACLES
from experiments.speed.speed_layers import make

HEADER = "layer", "what", "matmuls", "largest relative error", "tolerance", "within"
_EPSILON = 1e-6  # of the central differences, in float64


def rows(kind: str, config: ConfigDict) -> Iterator[tuple[str, ...]]:
    """Compare a new layer of this kind in two directions, with each precision of matmuls."""
    p = config.precision
    layer = make(kind, p.d_model, p.states)
    rng = np.random.default_rng(0)
    u, weights = (rng.normal(size=(p.batch, p.length, p.d_model)).astype(np.float32) for _ in range(2))
    expected = _expected(kind, layer, u, weights)
    for name, tolerance in config.tolerances.items():
        with jax.default_matmul_precision(None if name == "default" else name):
            found = _found(layer, u, weights)
        for what, error in _errors(found, expected).items():
            yield kind, what, name, f"{error:.1e}", f"{tolerance:.0e}", "yes" if error <= tolerance else "NO"


def _errors(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return the largest errors: of outputs relative to the largest output, of each score relative to itself.

    The derivative along a random direction is compared, relative to the gradient's norm. NaN counts as infinite.
    """
    slope = found["gradient"] @ expected["direction"] - expected["slope"]
    errors = {
        "outputs": np.abs(found["y"] - expected["y"]).max() / np.abs(expected["y"]).max(),
        "gradients": np.abs(slope) / np.linalg.norm(found["gradient"]),
        "AIRE scores": np.max(np.abs(found["scores"] / expected["scores"] - 1)),
    }
    return {name: float(error) if np.isfinite(error) else float("inf") for name, error in errors.items()}


def _expected(kind: str, layer: StateSpaceLayer, u: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The oracle's outputs and scores, and the slope of Σ weights · y along a direction of all parameters and u."""
    trained, fixed = (_float64(nnx.state(layer, kinds)) for kinds in (nnx.Param, nnx.Not(nnx.Param)))
    rng = np.random.default_rng(1)
    inputs = trained | {"u": u.astype(np.float64)}
    direction = {name: rng.normal(size=a.shape) for name, a in inputs.items()}

    def answer(distance: float):
        moved = {name: a + distance * direction[name] for name, a in inputs.items()}
        return ORACLES[kind](moved | fixed, moved["u"])

    y, scores = answer(0.0)
    after, before = (np.sum(weights * answer(sign * _EPSILON).y) for sign in (1, -1))
    return {"y": y, "scores": scores, "slope": (after - before) / (2 * _EPSILON), "direction": _flat(direction)}


def _found(layer: StateSpaceLayer, u: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The layer's outputs, scores and gradient, by the forms of the scan that this platform has."""
    graphdef, trained, fixed = nnx.split(layer, nnx.Param, ...)

    def loss(trained, u):
        y = nnx.merge(graphdef, trained, fixed)(u)
        return jnp.sum(weights * y), y

    (_, y), (by_parameters, by_u) = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(trained, jnp.asarray(u))
    gradient = _flat(_float64(by_parameters) | {"u": np.asarray(by_u, np.float64)})
    return {"y": np.asarray(y, np.float64), "scores": _scores(layer, u), "gradient": gradient}


def _scores(layer: StateSpaceLayer, u: np.ndarray) -> np.ndarray:
    moments = {"layer": _gate_moments(layer, u)} if layer.SELECTIVE else None
    found = aire.score({"layer": layer.modes()}, "aire", moments=moments, normalize="none")
    return np.asarray(found["layer"], np.float64)


def _gate_moments(layer: StateSpaceLayer, u: np.ndarray) -> GateMoments:
    graphdef, state = nnx.split(layer)
    sums: Callable = jax.jit(lambda state, u: nnx.merge(graphdef, state).gate_sums(u, jnp.ones(u.shape[:2])))
    steps = float(np.prod(u.shape[:2]))
    found = {name: np.asarray(a, np.float64) for name, a in sums(state, jnp.asarray(u)).items()}
    return GateMoments(steps, output=0.0, **found)


def _float64(state: nnx.State) -> dict[str, np.ndarray]:
    return {name: np.asarray(a, np.float64) for name, a in nnx.to_pure_dict(state).items()}


def _flat(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])
