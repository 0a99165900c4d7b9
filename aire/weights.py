"""A module's arrays by name, with every name, shape and dtype checked on the way in."""

from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import nnx

from aire.errors import UserError


def get_arrays(module: nnx.Module) -> dict[str, np.ndarray]:
    """Every variable of a module by its path, "blocks/0/ssm/B_re"."""
    return {_name(path): np.asarray(v[...]) for path, v in nnx.to_flat_state(nnx.state(module))}


def set_arrays(module: nnx.Module, arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Set every variable of a module, which may be abstract, from arrays by path. float64 stays where JAX allows it.

    Raises:
        UserError: unknown and missing names, other shapes or dtypes, NaN or infinite values. All are listed; `source`
            says where the arrays come from.
    """
    variables = nnx.to_flat_state(nnx.state(module))
    expected = {_name(path): v for path, v in variables}
    problems = [f"unknown {name}" for name in sorted(arrays.keys() - expected.keys())]
    problems += [f"missing {name}" for name in sorted(expected.keys() - arrays.keys())]
    for name in sorted(arrays.keys() & expected.keys()):
        problems += _compare(name, arrays[name], expected[name])
    if problems:
        raise UserError(f"{source} does not fit the model's config: " + "; ".join(problems))
    filled = [(path, v.replace(jnp.asarray(arrays[_name(path)]))) for path, v in variables]
    nnx.update(module, nnx.from_flat_state(filled))


def _compare(name: str, array: np.ndarray, variable: nnx.Variable) -> list[str]:
    if array.shape != variable.shape:
        return [f"{name} has shape {array.shape}, expected {variable.shape}"]
    if array.dtype not in (np.float32, np.float64):
        return [f"{name} has dtype {array.dtype}, expected float32 or float64"]
    bad = int((~np.isfinite(array)).sum())
    return [f"{name} holds {bad} NaN or infinite values"] if bad else []


def _name(path: tuple) -> str:
    return "/".join(map(str, path))
