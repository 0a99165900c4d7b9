"""What a layer is given."""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def as_floats(u: ArrayLike, dtype: jnp.dtype) -> Array:
    """Inputs of a layer as an array of floats: in their own precision (NumPy's float64 in what JAX computes in), or in
    `dtype` where they are integers or booleans."""
    u = jnp.asarray(u)
    return u if jnp.issubdtype(u.dtype, jnp.floating) else u.astype(dtype)
