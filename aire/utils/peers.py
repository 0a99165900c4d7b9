"""Connections between the processes of a run, by which each learns at once that another has ended, and ends, too.

JAX notices it after minutes, or within a collective operation, and says so in many lines.
"""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

_ENDED, _FAILED = b".", b"!"  # sent by a process that ends without an error, or with one that it has shown
_SECONDS = 60.0  # to connect, and to wait for the end of the others
_GRACE = 2.0  # seconds to find an error that another process has found: a wrong setting is wrong for all
_LOST = "error: another process of this run has ended; run the same command again to go on"
# JAX's coordination service lives in the first process. Where its end arrives before `_watch` has ended this process,
# C++ code prints a page to the standard error and aborts. This program passes on everything else.
_FILTER = r"""
import re, signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
dropping = said = False
for line in sys.stdin.buffer:
    if re.match(rb"W\d{4} .*coordination_service", line):
        continue
    dropping |= re.match(rb"[EF]\d{4} .*(coordination_service|client\.h:)", line) is not None
    said |= line.startswith(b"error: ")
    if not dropping or line.startswith(b"error: "):
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()
if dropping and not said:
    print(sys.argv[1], file=sys.stderr)
"""


class Peers:
    """Connections of the first process to all others.

    Args:
        index: of this process.
        count: of all processes.
        host: by which the others reach the first process.
        share: a function that all processes call with an address; it returns that of the first one.
    Raises:
        OSError: no connection.
    """

    def __init__(self, index: int, count: int, host: str, share: Callable[[str], str]):
        self.index = index
        self._connections: dict[int, socket.socket] = {}
        self._watchers: list[threading.Thread] = []
        if index == 0:
            with socket.create_server(("", 0), backlog=count) as server:
                share(f"{host}:{server.getsockname()[1]}")
                server.settimeout(_SECONDS)
                for _ in range(count - 1):
                    connection, _ = server.accept()
                    connection.settimeout(_SECONDS)
                    self._watch(int.from_bytes(_receive(connection, 4), "big"), connection)
        else:
            host, _, port = share("").rpartition(":")
            connection = socket.create_connection((host, int(port)), _SECONDS)
            connection.sendall(index.to_bytes(4, "big"))
            self._watch(0, connection)

    def end(self) -> None:
        """Say that this process ends without an error. The first one waits for the others, because JAX needs it."""
        self._tell(_ENDED, _SECONDS)

    def fail(self) -> None:
        """Say that this process ends with an error."""
        self._tell(_FAILED, 2 * _GRACE)

    def _tell(self, message: bytes, seconds: float) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.sendall(message)
        for watcher in self._watchers if self.index == 0 else ():
            watcher.join(seconds)

    def _watch(self, index: int, connection: socket.socket) -> None:
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._connections[index] = connection
        self._watchers.append(threading.Thread(target=_watch, args=(connection,), daemon=True))
        self._watchers[-1].start()


def _watch(connection: socket.socket) -> None:
    """Wait for the end of another process; end this one, too, if that was an error."""
    if (message := _receive(connection, 1)) != _ENDED:
        time.sleep(_GRACE if message == _FAILED else 0)
        os.write(2, f"{_LOST}\n".encode())
        os._exit(1)
    _receive(connection, 1)


def _receive(connection: socket.socket, size: int) -> bytes:
    with contextlib.suppress(OSError):
        return connection.recv(size, socket.MSG_WAITALL)
    return b""


def filter_errors() -> None:
    """Let `_FILTER` read the standard error of this process from now on."""
    command = [sys.executable, "-S", "-c", _FILTER, _LOST]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
    assert child.stdin is not None
    os.dup2(child.stdin.fileno(), 2)
    child.stdin.close()
