"""A module's arrays by name, with every name, shape and dtype checked on the way in."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aire.models import Classifier, ModelConfig
from aire.utils.errors import UserError

Abstract = nnx.Variable | jax.ShapeDtypeStruct  # what has a shape to compare with


def get_arrays(module: nnx.Module) -> dict[str, np.ndarray]:
    """Every variable of a module by its path, "blocks/0/ssm/B_re"."""
    return {name: np.asarray(v[...]) for name, v in variables_of(module).items()}


def variables_of(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Every variable of a module, which may be abstract, by its path."""
    return {_name(path): v for path, v in nnx.to_flat_state(nnx.state(module))}


def abstract_model(config: ModelConfig) -> Classifier:
    """The model that a config describes, with shapes in place of arrays."""
    return nnx.eval_shape(lambda: Classifier(config, rngs=nnx.Rngs(0)))


def fill_model(config: ModelConfig, arrays: Mapping[str, np.ndarray], source: str) -> Classifier:
    """The model that a config describes, in evaluation mode, with the given arrays; as `set_arrays`."""
    model = abstract_model(config)
    set_arrays(model, arrays, source)
    model.eval()
    return model


def run_as(model: Classifier, config: ModelConfig) -> Classifier:
    """The model with its arrays under another config of the same sizes, in evaluation mode; arrays are shared.

    For options that are no part of what was learned, such as the precision or a factor on the time steps.
    """
    twin = abstract_model(config)
    nnx.update(twin, nnx.state(model))
    twin.eval()
    return twin


def set_arrays(module: nnx.Module, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Set every variable of a module, which may be abstract, from arrays by path. float64 stays where JAX allows it.

    Raises:
        UserError: as `check_arrays`.
    """
    variables = nnx.to_flat_state(nnx.state(module))
    check_arrays(arrays, {_name(path): v for path, v in variables}, source)
    filled = [(path, v.replace(jnp.asarray(arrays[_name(path)]))) for path, v in variables]
    nnx.update(module, nnx.from_flat_state(filled))


def check_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, Abstract], source: str) -> None:
    """Compare arrays with what a model expects.

    Raises:
        UserError: unknown and missing names, other shapes or dtypes, NaN or infinite values, channels of a bank that
            are out of order. All are listed; `source` says where the arrays come from.
    """
    problems = [f"unknown {name}" for name in sorted(arrays.keys() - expected.keys())]
    problems += [f"missing {name}" for name in sorted(expected.keys() - arrays.keys())]
    for name in sorted(arrays.keys() & expected.keys()):
        problems += _compare(name, arrays[name], expected[name])
    if problems:
        raise UserError(f"{source} does not fit the model: " + "; ".join(problems))


def _compare(name: str, array: np.ndarray, variable: Abstract) -> list[str]:
    if array.shape != variable.shape:
        return [f"{name} has shape {array.shape}, expected {variable.shape}"]
    if hasattr(type(variable), "fault"):  # a variable that knows which values it can have, such as a bank's channels
        return [f"{name} {fault}"] if (fault := variable.fault(array)) else []
    if array.dtype not in (np.float32, np.float64):
        return [f"{name} has dtype {array.dtype}, expected float32 or float64"]
    bad = int((~np.isfinite(array)).sum())
    return [f"{name} holds {bad} NaN or infinite values"] if bad else []


def _name(path: tuple) -> str:
    return "/".join(map(str, path))
