"""Ctrl-C where nothing can be lost yet. Nothing is imported here that takes time."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Within it, Ctrl-C ends the process with one line and exit code 130.

    An exception would not do: raised in the middle of an import, it comes out as another or not at
    all. For what leaves nothing behind.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Signals are the main thread's.
        return
    previous = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _end(signum, frame):
    os.write(2, b"stopped before anything began.\n")
    os._exit(130)
