"""The header of a safetensors file: names, dtypes and shapes of its arrays, and its metadata.

It is read here before the safetensors library reads the arrays, because the library keeps the last of two arrays of one
name, and because shapes have to be compared with a model before memory is reserved for them.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from aire.utils.digests import parse_json
from aire.utils.errors import UserError

MAX_BYTES = 2**22  # a thousand layers need 4 MB
_DTYPES = {
    "BF16": jnp.bfloat16,
    **{"F16": np.float16, "F32": np.float32, "F64": np.float64, "BOOL": np.bool_},
    **{"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64},
    **{"U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64},
}


class Described(NamedTuple):
    """An array that is not read yet."""

    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file says about its content.

    Attributes:
        arrays: shape and dtype by name.
        metadata: texts by name.
    """

    arrays: Mapping[str, Described]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """The number of numbers in all arrays."""
        return sum(math.prod(array.shape) for array in self.arrays.values())


def read_header(file: BinaryIO, source: str) -> Header:
    """Read the header at the start of a file. Whether the file holds what it promises is left to the library.

    Args:
        source: the origin of the file, for messages.
    Raises:
        UserError: the header is damaged or too long, has a name twice, or an array of a dtype that NumPy does not have.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_BYTES:
        raise _damaged(source, f"a header of {length:,} bytes, where at most {MAX_BYTES:,} are read")
    text = file.read(length)
    if len(text) < length or not text.startswith(b"{"):
        raise _damaged(source, "no complete header at its start")
    try:
        fields = parse_json(text, "its header")
    except UserError as error:
        raise _damaged(source, str(error)) from error
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _damaged(source, "its metadata are not texts")
    return Header({name: _array(name, entry, source) for name, entry in fields.items()}, metadata)


def _array(name: str, entry: Any, source: str) -> Described:
    shape, dtype = (entry.get(key) for key in ("shape", "dtype")) if isinstance(entry, dict) else (None, None)
    if not name.isprintable():
        raise _damaged(source, f"an array has the name {name[:100]!r}")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 2**63 for n in shape) or len(shape) > 32:
        raise _damaged(source, f"array {name[:100]!r} has shape {str(shape)[:100]}")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        expected = ", ".join(sorted(_DTYPES))
        raise UserError(f"{source}: array {name[:100]!r} has dtype {str(dtype)[:100]}, expected one of {expected}")
    return Described(tuple(shape), np.dtype(_DTYPES[dtype]))


def _damaged(source: str, reason: str) -> UserError:
    return UserError(f"{source} is damaged or not a safetensors file: {reason}")
