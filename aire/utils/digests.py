"""SHA-256 digests of bytes, files, arrays and JSON records, in hexadecimal: every digest of the package is made here.

A sealed record is a JSON object that contains the digest of its other fields under "sha256". `seal` adds it and
`unseal` compares it, so a record that changed on the disk is an error and not another result.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aire.utils.errors import UserError
from aire.utils.files import reading

SEAL = "sha256"  # the field of the digest in a sealed record


class DamagedError(UserError):
    """A file differs from what was written to it."""


def of_bytes(data: bytes) -> str:
    """Return the digest of bytes."""
    return hashlib.sha256(data).hexdigest()


def of_text(text: str) -> str:
    """Return the digest of a text in UTF-8. File names that are not UTF-8 keep their bytes."""
    return of_bytes(text.encode(errors="surrogateescape"))


def of_file(path: str | Path) -> str:
    """Return the digest of a file. Raise UserError if it cannot be read."""
    with reading(path), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_array(array: ArrayLike) -> str:
    """Return the digest of the values of an array in C order, without its shape and dtype."""
    return hashlib.sha256(_bytes(array)).hexdigest()


def of_arrays(arrays: Mapping[str, ArrayLike]) -> str:
    """Return one digest of named arrays with their shapes and dtypes, independent of their order."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(_bytes(array))
    return sha.hexdigest()


def changed(arrays: Mapping[str, ArrayLike], digests: Mapping[str, str]) -> list[str]:
    """Return the names of the arrays whose values differ from their digests."""
    return [name for name, array in arrays.items() if of_array(array) != digests.get(name)]


def _bytes(array: ArrayLike) -> memoryview:
    """View the values of an array in C order as bytes."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


# JSON records ---------------------------------------------------------------------------------------------------------


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the digest of its fields, which does not depend on their order and layout."""
    return {**record, SEAL: _of_record(record)}


def is_sealed(record: Mapping[str, Any]) -> bool:
    """Return whether a record has a digest. Records of older versions have none."""
    return SEAL in record


def unseal(record: Any, where: object, *, required: bool = False) -> dict[str, Any]:
    """Return a sealed record without its digest.

    Args:
        record: the value of a JSON text.
        where: the file, for messages.
        required: refuse a record without a digest. Otherwise it is returned as it is, because files of older versions
            have none.
    Raises:
        DamagedError: the record is not a JSON object, or differs from its digest.
    """
    if not isinstance(record, dict):
        raise DamagedError(f"{where} is damaged: expected a JSON object, found {type(record).__name__}")
    content = {name: value for name, value in record.items() if name != SEAL}
    if len(content) == len(record):
        if required:
            raise DamagedError(f"{where} is damaged: its digest {SEAL!r} is missing")
    elif record[SEAL] != _of_record(content):
        raise DamagedError(f"{where} is damaged: it differs from what was written (SHA-256)")
    return content


def parse_json(text: str | bytes, where: object) -> Any:
    """Parse a JSON text from a source that is not trusted.

    Raises:
        DamagedError: the text is not JSON in UTF-8, an object has the same name twice, or it is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except RecursionError:
        raise DamagedError(f"{where} is not valid JSON: nested too deeply") from None
    except ValueError as error:  # also a number of thousands of digits, and bytes that are not UTF-8
        raise DamagedError(f"{where} is not valid JSON: {str(error)[:200]}") from error


def _distinct(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"the name {name[:100]!r} occurs twice in an object")
        fields[name] = value
    return fields


def _of_record(record: Mapping[str, Any]) -> str:
    # As JSON returns it, because the order of names is that of strings: 10 before 2.
    return of_text(json.dumps(json.loads(json.dumps(record)), sort_keys=True, separators=(",", ":")))
