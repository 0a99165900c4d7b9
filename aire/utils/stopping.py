"""Stop on SIGTERM, SIGHUP or SIGINT, or when time is over: where nothing is lost, or at once on a second signal.

    with stopping.on_signals():
        prepare()                   # a signal raises Stopped here
        with stopping.deferred():
            for step in steps:
                run(step)           # not here,
                stopping.check()    # but here

Signals do nothing outside `on_signals`, as in a user's program. In a run of several processes, a signal to one of them
stops all, at the same `check`.
"""

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from aire.utils import processes

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name))


class Stopped(BaseException):
    """A signal, or the end of a time limit (number 0), stops this process.

    The notes (`add_note`) say what was saved and how to go on.

    Not an Exception, because code that goes on after errors must not go on after it.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}" if number else "stopped because the time is over")
        self.number = number

    @property
    def exit_code(self) -> int:
        return 128 + self.number if self.number else 0


SAME_SIGNAL = 0.1  # seconds; `timeout` and `srun` send a signal to the process and again to its group

RETRY = 0.01  # seconds until a signal is raised again where it was lost

_requested: int | None = None  # the first signal, until it is raised
_deferred = False
_repeated = 0  # signals of this module's own, which the thread should not take for new ones
_deadline = math.inf  # of `time.monotonic`
_agree = processes.Agreement()


def check() -> None:
    """Raise Stopped if a signal has arrived, at any process, or if the time is over."""
    time_is_over = time.monotonic() >= _deadline
    if code := _agree(1 + _requested if _requested is not None else int(time_is_over)):
        raise Stopped(code - 1)


@contextmanager
def time_limit(minutes: float) -> Iterator[None]:
    """Let `check` raise Stopped in the block after so many minutes; 0 is no limit."""
    global _deadline
    _deadline = time.monotonic() + 60 * minutes if minutes else math.inf
    try:
        yield
    finally:
        _deadline = math.inf


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait for the next `check` in the block."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


@contextmanager
def on_signals() -> Iterator[None]:
    """Handle the signals in the block, in the main thread. A signal that is ignored, as by nohup, stays ignored."""
    global _requested
    own = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    # A thread reads the signals from a pipe, because Python calls a handler only between two instructions of the main
    # thread, which may be in a long compilation.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _raise) for number in own}
    hook = sys.unraisablehook
    sys.unraisablehook = lambda lost: _raise_again() if isinstance(lost.exc_value, Stopped) else hook(lost)
    watcher = threading.Thread(target=_watch, args=(reading, own), name="signals", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook
        signal.set_wakeup_fd(before)
        os.close(writing)  # ends the thread
        watcher.join()
        os.close(reading)
        _requested = None


def _raise(number: int, _) -> None:
    """Handle a signal in the main thread."""
    global _requested
    _requested = _requested or number
    if not _deferred and not processes.are_several():  # several processes stop together, at a `check`
        raise Stopped(_requested)


def _raise_again() -> None:
    """Raise Stopped soon, because it was raised in a finaliser or a callback of the collector, which loses it."""

    main = threading.get_ident()

    def interrupt() -> None:
        global _repeated
        if _requested is not None:
            _repeated += 1
            # A real signal, because `_thread.interrupt_main` would not end a system call that waits.
            signal.pthread_kill(main, _requested)

    timer = threading.Timer(RETRY, interrupt)
    timer.daemon = True
    timer.start()


def _watch(pipe: int, numbers: list[int]) -> None:
    """Announce the first signal, and end the process on the second."""
    global _repeated
    first: float | None = None
    while received := os.read(pipe, 1):
        number, now = received[0], time.monotonic()
        if number not in numbers:  # of another handler of this process
            continue
        if _repeated:
            _repeated -= 1
            continue
        if first is None:
            first, name = now, signal.Signals(number).name
            os.write(2, f"{name}: stopping where nothing is lost; a second signal stops at once\n".encode())
        elif now - first > SAME_SIGNAL:
            os._exit(128 + number)
