"""What is needed to reproduce a result: versions, commit, machine."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import jax

_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "tensorflow-datasets", "numpy")


def provenance() -> dict:
    """Return the versions of Python and the libraries, the commit of this repository, and the kind of machine."""
    return {
        "commit": _commit(),
        "versions": {"python": platform.python_version()} | {p: importlib.metadata.version(p) for p in _PACKAGES},
        "machine": f"{jax.device_count()} × {jax.devices()[0].device_kind}, {_cores()} of {_processor()}",
    }


def _cores() -> str:
    """Return how many cores this process may use, or the machine has if the system does not say."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return "1 core" if number == 1 else f"{number} cores"


def _processor() -> str:
    """Return the processor's name, or its architecture if the system does not say."""
    described = Path("/proc/cpuinfo")
    names = re.findall(r"^model name\s*:\s*(.+)$", described.read_text(), re.MULTILINE) if described.exists() else []
    return names[0] if names else platform.processor() or platform.machine()


def _commit() -> str:
    """Return the commit, marked if tracked files have changed since; "unknown" if this file is not in Git."""
    folder = Path(__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed copy may be inside another repository
        return git("rev-parse", "HEAD") + (" (with changes)" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
