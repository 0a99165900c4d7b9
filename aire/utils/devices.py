"""The devices of all processes: one mesh, and how arrays lie on it.

A batch lies with equal numbers of consecutive rows on every device; everything else lies whole on each of them. The
processes hold consecutive rows, so the rows of a batch have the same order on any number of devices, and with them
the masks of dropout. With one device nothing is placed, and every function here returns what it gets.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from aire.utils.errors import UserError

PyTree = Any
_AXIS = "batch"


@functools.cache
def mesh() -> Mesh:
    """All devices on one axis, those of a process side by side."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    return Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))


def check_batch(name: str, size: int, parts: int = 1) -> None:
    """Raise UserError unless a batch divides into parts of equal numbers of rows on every device."""
    n = jax.device_count() * parts
    if size % n:
        of_parts = f" times the {parts} parts" if parts > 1 else ""
        raise UserError(
            f"{name}={size}: expected a multiple of {n}, the {jax.device_count()} devices{of_parts}, such as "
            f"{-(-size // n) * n}"
        )


def process() -> dict[str, int]:
    """Which process this is, and of how many: `process_index` and `process_count`."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return jax.process_index() == 0


def join_rows(batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray | Array]:
    """The batch whose rows are those of all processes. Each passes its own, a multiple of its devices."""
    if jax.device_count() == 1:
        return batch
    return {name: jax.make_array_from_process_local_data(_rows(), x) for name, x in batch.items()}


def divide(*arrays: Array | None) -> tuple[Array | None, ...]:
    """Arrays with their rows on all devices, or whole on each of them if the rows do not divide.

    Every process passes the same whole arrays.
    """
    if (n := jax.device_count()) == 1:
        return arrays
    everywhere = NamedSharding(mesh(), PartitionSpec())
    return tuple(x if x is None else _put(x, everywhere if len(x) % n else _rows()) for x in arrays)


def place(tree: PyTree, *, sharded: bool = False) -> PyTree:
    """The arrays on all devices, whole or `sharded` as `shardings` says. Every process passes the same whole arrays."""
    if jax.device_count() == 1:
        return tree
    return jax.tree.map(_put, tree, shardings(tree, sharded=sharded))


def shardings(tree: PyTree, *, sharded: bool = False) -> PyTree:
    """How `place` places arrays; None with one device, which leaves it to JAX.

    Args:
        tree: arrays or their shapes.
        sharded: divide arrays of two or more axes over the devices, along their longest axis that divides. A device
            then holds its part of parameters and moments, and gets the others when it needs them.
    """
    return jax.tree.map(lambda x: _sharding(x.shape, sharded), tree) if jax.device_count() > 1 else None


def whole() -> NamedSharding | None:
    """The sharding of what lies whole on every device; None with one device."""
    return NamedSharding(mesh(), PartitionSpec()) if jax.device_count() > 1 else None


def on_host(x: Any) -> Any:
    """An array that this process can read, with the parts that lie on the devices of others."""
    if not isinstance(x, Array) or x.is_fully_addressable or x.is_fully_replicated:
        return x
    return np.asarray(_jitted(jnp.copy)(x))


def largest(number: int) -> Array:
    """The largest of the numbers that the processes pass, while it is computed."""
    own = np.full(jax.local_device_count(), number, np.int32)
    return _jitted(jnp.max)(join_rows({"number": own})["number"])


def sum_over_rows(fn: Callable[..., PyTree], *arrays: Array | None) -> PyTree:
    """fn(*arrays), a tree of sums over the rows of the arrays: each device sums its own. For compiled functions.

    If the rows do not divide over the devices, each of them sums all.
    """
    rows = {len(x) for x in arrays if x is not None}
    if jax.device_count() == 1 or any(n % jax.device_count() for n in rows):
        return fn(*arrays)

    def summed(*own: Array | None) -> PyTree:
        return jax.tree.map(lambda x: jax.lax.psum(x, _AXIS), fn(*own))

    own_rows, total = PartitionSpec(_AXIS), PartitionSpec()
    return jax.shard_map(summed, mesh=mesh(), in_specs=own_rows, out_specs=total, check_vma=False)(*arrays)


def _put(x: Any, sharding: NamedSharding) -> Array:
    """An array that every process has whole, on all devices."""
    if isinstance(x, Array) and x.sharding == sharding:
        return x
    if jax.process_count() == 1:
        return jax.device_put(x, sharding)
    host = np.asarray(x)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: np.asarray(host[index]))


def _rows() -> NamedSharding:
    return NamedSharding(mesh(), PartitionSpec(_AXIS))


def _sharding(shape: tuple[int, ...], sharded: bool) -> NamedSharding:
    n = jax.device_count()
    divisible = [axis for axis, size in enumerate(shape) if size and size % n == 0]
    if not sharded or len(shape) < 2 or not divisible:
        return NamedSharding(mesh(), PartitionSpec())
    axis = max(divisible, key=lambda axis: shape[axis])
    return NamedSharding(mesh(), PartitionSpec(*(None,) * axis, _AXIS))


@functools.cache
def _jitted(fn: Callable[[Array], Array]) -> Callable[[Any], Array]:
    """The function, with a result that every process can read."""
    return jax.jit(fn, out_shardings=whole())
