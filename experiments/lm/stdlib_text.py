"""Text that every machine has: the sources of Python's standard library, as bytes, split by module."""

import dataclasses
import hashlib
import sys
import sysconfig
from pathlib import Path

import numpy as np

from aire.data.pipeline import Split
from aire.utils import digests
from aire.utils.errors import UserError

# Tables of characters and generated texts; and what some systems install apart from Python.
_LEFT_OUT = {"encodings", "pydoc_data"} | {"distutils", "ensurepip", "idlelib", "lib2to3", "tkinter", "turtle", "venv"}
_BUCKETS = {0: "test", 1: "validation"}  # of 10; the others are for training


@dataclasses.dataclass(frozen=True)
class TextConfig:
    """Sizes of the data.

    Attributes:
        length: bytes of a window that are predicted.
        train_examples, validation_examples, test_examples: windows, at most; 0: all.
    """

    length: int
    train_examples: int = 0
    validation_examples: int = 0
    test_examples: int = 0


def sources(folder: Path | None = None) -> dict[str, dict[str, bytes]]:
    """The sources of each split, by top-level module, without tests and what is not everywhere.

    A package is in one split. The SHA-256 of its name decides in which, so that the splits of two versions of Python
    differ only in what the modules contain.

    Args:
        folder: of the library; that of this Python by default.
    Raises:
        UserError: the folder has no sources.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    found: dict[str, dict[str, bytes]] = {"train": {}, "validation": {}, "test": {}}
    for name in sorted(sys.stdlib_module_names - _LEFT_OUT):
        files = [path for path in (root / f"{name}.py",) if path.is_file()] or sorted((root / name).rglob("*.py"))
        kept = [path for path in files if not {"test", "tests", "__pycache__"} & set(path.relative_to(root).parts)]
        if kept:
            found[split_of(name)][name] = b"\n".join(path.read_bytes() for path in kept)
    if not all(found.values()):
        raise UserError(f"{root} has no sources of the standard library: expected those of a complete Python")
    return found


def split_of(module: str) -> str:
    """The split that a top-level module belongs to."""
    return _BUCKETS.get(int(hashlib.sha256(module.encode()).hexdigest(), 16) % 10, "train")


def windows(text: bytes, length: int, most: int) -> Split:
    """Cut a text into windows without overlap: inputs x, and y, the byte that follows each of x.

    Args:
        text: at least length + 1 bytes. An incomplete last window is dropped.
        length: bytes of a window.
        most: number of windows, drawn at random but always the same; 0: all.
    """
    data = np.frombuffer(text, np.uint8)
    n = (len(data) - 1) // length
    if not n:
        raise UserError(f"data.length={length}: the shortest split has only {len(data)} bytes")
    chosen = np.sort(np.random.default_rng(0).permutation(n)[: most or n])
    places = chosen[:, None] * length + np.arange(length)
    return Split(data[places], np.full(len(chosen), length, np.int32), data[places + 1].astype(np.int32))


def load(config: TextConfig) -> tuple[dict[str, Split], dict[str, dict]]:
    """Return the splits, and what they are made of: modules, bytes, windows and SHA-256 of each."""
    splits, described = {}, {}
    for name, modules in sources().items():
        text = b"\n".join(modules.values())
        splits[name] = windows(text, config.length, getattr(config, f"{name}_examples"))
        described[name] = {
            "modules": list(modules),
            "bytes": len(text),
            "windows": len(splits[name]),
            "sha256": digests.of_bytes(text),
        }
    return splits, described
