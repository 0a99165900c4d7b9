"""Get and set the arrays of a module by name. Names, shapes, dtypes and values are checked before setting."""

from collections.abc import Mapping
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from aire.models import Classifier, MambaLM, MambaLMConfig, ModelConfig
from aire.models.kinds import Config, Model, model_of
from aire.ssm.abstract import abstract
from aire.utils.errors import UserError

MOST_PROBLEMS = 50  # in a message
Abstract = nnx.Variable | jax.ShapeDtypeStruct  # anything with a shape


def get_arrays(module: nnx.Module) -> dict[str, np.ndarray]:
    """Return the arrays of a module by path, such as "blocks/0/ssm/B_re"."""
    return {name: np.asarray(v[...]) for name, v in variables_of(module).items()}


def variables_of(module: nnx.Module) -> dict[str, nnx.Variable]:
    """Return the variables of a module by path. The module may be abstract."""
    return {_name(path): v for path, v in nnx.to_flat_state(nnx.state(module))}


def abstract_model(config: Config) -> Model:
    """Return the model of a config with shapes instead of arrays."""
    return abstract(lambda rngs: model_of(config, rngs=rngs))


@overload
def fill_model(config: ModelConfig, arrays: Mapping[str, np.ndarray], source: str) -> Classifier: ...
@overload
def fill_model(config: MambaLMConfig, arrays: Mapping[str, np.ndarray], source: str) -> MambaLM: ...
def fill_model(config: Config, arrays: Mapping[str, np.ndarray], source: str) -> Model:
    """Build the model of a config from arrays, in evaluation mode. Raise UserError like `check_arrays`."""
    model = abstract_model(config)
    set_arrays(model, arrays, source)
    model.eval()
    return model


def run_as(model: Model, config: Config) -> Model:
    """Return the model with another config of the same sizes, in evaluation mode. Arrays are shared.

    Use it for options that are not learned, such as the precision or a factor on the time steps.
    """
    twin = abstract_model(config)
    nnx.update(twin, nnx.state(model))
    twin.eval()
    return twin


def set_arrays(module: nnx.Module, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Set all variables of a module from arrays by path. The module may be abstract. float64 is kept if x64 is enabled.

    Raises:
        UserError: like `check_arrays`.
    """
    variables = nnx.to_flat_state(nnx.state(module))
    check_arrays(arrays, {_name(path): v for path, v in variables}, source)
    filled = [(path, v.replace(jnp.asarray(arrays[_name(path)]))) for path, v in variables]
    nnx.update(module, nnx.from_flat_state(filled))


def check_arrays(arrays: Mapping[str, Any], expected: Mapping[str, Abstract], source: str) -> None:
    """Compare arrays, or only their names and shapes, with the variables of a model.

    Args:
        arrays: by path. Values are compared only if they are NumPy arrays.
        expected: the variables by path.
        source: the origin of the arrays, for the message.

    Raises:
        UserError: unknown or missing names, wrong shapes or dtypes, NaN or infinite values, invalid channels of an S4D
            layer. The first problems are listed.
    """
    problems = [f"unknown {name[:100]}" for name in sorted(arrays.keys() - expected.keys())]
    problems += [f"missing {name}" for name in sorted(expected.keys() - arrays.keys())]
    for name in sorted(arrays.keys() & expected.keys()):
        problems += _compare(name, arrays[name], expected[name])
    if problems:
        more = [f"and {len(problems) - MOST_PROBLEMS} more"] * (len(problems) > MOST_PROBLEMS)
        raise UserError(f"{source} does not fit the model: " + "; ".join(problems[:MOST_PROBLEMS] + more))


def _compare(name: str, array: Any, variable: Abstract) -> list[str]:
    if array.shape != variable.shape:
        return [f"{name} has shape {array.shape}, expected {variable.shape}"]
    if not isinstance(array, np.ndarray):
        return []
    if check := getattr(type(variable), "fault", None):  # a variable that validates its values, such as S4D's channels
        return [f"{name} {fault}"] if (fault := check(variable, array)) else []
    if array.dtype not in (np.float32, np.float64):
        return [f"{name} has dtype {array.dtype}, expected float32 or float64"]
    bad = int((~np.isfinite(array)).sum())
    return [f"{name} has {bad} NaN or infinite values"] if bad else []


def _name(path: tuple) -> str:
    return "/".join(map(str, path))
