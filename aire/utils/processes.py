"""The processes of one run: they start together, agree on what depends on a clock or a signal, and end together."""

import importlib.util
import os
import socket
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from aire.utils import devices
from aire.utils.checks import is_integer
from aire.utils.errors import UserError
from aire.utils.peers import Peers, filter_errors

_ADDRESS_BYTES = 300
_GRACE = 5.0  # seconds in which the end of another process explains an error of a collective operation


def start(distributed: Sequence[Any] = ()) -> None:
    """Join the other processes of this run, if there are any. Call it before anything else uses JAX.

    Args:
        distributed: ("host:port", processes, index): an address of process 0 that all processes reach, how many there
            are, and which this is. Empty: as SLURM or a TPU pod says, else a single process.
    Raises:
        UserError: `distributed` has another form, or the others cannot be reached.
    """
    if len(distributed) and not _is_address(distributed):
        raise UserError(
            f"distributed={tuple(distributed)}: expected () or ('host:port', processes, index), "
            "with an index from 0 to processes - 1"
        )
    if not len(distributed) and not (_in_slurm_step() or _on_tpu()):
        return
    global _peers
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `stopping`
    jax.config.update("jax_enable_recoverability", True)  # else JAX ends the others, too, with a page of messages
    filter_errors()
    try:
        jax.distributed.initialize(*distributed)
        index, count = jax.process_index(), jax.process_count()
        host = distributed[0].rpartition(":")[0] if distributed else socket.gethostname()
        _peers = Peers(index, count, host, _of_first) if count > 1 else None
    except (RuntimeError, ValueError, OSError) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"the processes of this run do not find each other: {words}") from error


def _is_address(value: Sequence[Any]) -> bool:
    if len(value) != 3 or not isinstance(value[0], str) or not all(map(is_integer, value[1:])):
        return False
    host, _, port = value[0].rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 2**16 and 0 <= value[2] < value[1]


def _in_slurm_step() -> bool:
    """Whether `srun` started several processes. The script of a job and an interactive allocation are one process."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1


def _on_tpu() -> bool:
    chips = Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists()
    return chips and importlib.util.find_spec("libtpu") is not None


class Agreement:
    """The largest of the numbers that the processes pass, the same for all of them.

    With several processes it is that of the previous call, because to wait for this one would be to wait for the step
    that the devices are computing. All processes must make the same calls.
    """

    def __init__(self) -> None:
        self._previous: Array | None = None

    def __call__(self, number: int) -> int:
        if jax.process_count() == 1:
            return number
        previous, self._previous = self._previous, devices.largest(number)
        return 0 if previous is None else int(previous)


class Timer:
    """Whether so many seconds have passed since the last restart, the same for all processes."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self.restart()

    def restart(self) -> None:
        self._start, self._agreement = time.monotonic(), Agreement()

    def is_over(self) -> bool:
        return bool(self._agreement(time.monotonic() - self._start >= self._seconds))


def of_first(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that the first process passes; all pass arrays of the same names, shapes and dtypes."""
    if jax.process_count() == 1:
        return dict(arrays)
    # As bytes, because JAX would round float64.
    raw = {name: np.frombuffer(np.ascontiguousarray(a).tobytes(), np.uint8) for name, a in arrays.items()}
    sent = multihost_utils.broadcast_one_to_all({name: a for name, a in raw.items() if a.size})
    return {
        name: np.frombuffer(np.asarray(sent[name]).tobytes(), a.dtype).reshape(a.shape) if a.size else a
        for name, a in arrays.items()
    }


_peers: Peers | None = None


def _of_first(text: str) -> str:
    """The text that the first process passes."""
    padded = np.frombuffer(text.encode().ljust(_ADDRESS_BYTES), np.uint8)
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode().strip()


def are_several() -> bool:
    """Whether `start` has joined other processes. Unlike JAX's own count, it starts no device."""
    return _peers is not None


def is_first() -> bool:
    """Whether this process prints for all. Like `are_several`, it starts no device."""
    return _peers is None or _peers.index == 0


def end() -> None:
    """Let the others know that this process ends without an error."""
    if _peers is not None:
        _peers.end()


def fail(error: Exception | str) -> None:
    """End this process of several, and with it the others. Return if it is the only one."""
    if _peers is None:
        return
    if isinstance(error, jax.errors.JaxRuntimeError):
        time.sleep(_GRACE)  # if the end of another process has caused it, `_watch` says so
    sys.stdout.flush()
    print(error if isinstance(error, str) else "".join(traceback.format_exception(error)), file=sys.stderr, flush=True)
    _peers.fail()
    os._exit(1)  # JAX would wait for the others first
