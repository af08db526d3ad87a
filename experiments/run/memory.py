"""This machine's memory: what it cannot hold, said before it is made, and what it gets back."""

import contextlib
import ctypes
import functools
import os
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.config import Config, TaskConfig

GIB = 2**30
_COMPILED = "/jax/core/compile/backend_compile_duration"


def machine_memory() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_memory() -> int:
    """Bytes that this process holds in memory; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def give_back() -> None:
    """Returns freed memory to the machine: glibc keeps it, gigabytes after a large compilation."""
    with contextlib.suppress(AttributeError, OSError):  # Other C libraries have no such function.
        ctypes.CDLL(None).malloc_trim(0)


@functools.cache  # A listener stays: once a process.
def give_back_after_compiling() -> None:
    """From now on, freed memory is returned after each compilation of a second or more.

    A program runs right after it was compiled: what compiling left behind would add to its peak.
    """

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == _COMPILED and seconds >= 1:
            give_back()

    jax.monitoring.register_event_duration_secs_listener(listen)


def check_memory(config: Config, names: Sequence[str]) -> None:
    """Raises where a task's parameters or its encoded text alone are more than the memory.

    Raises:
      ValueError: they are; with what they need and what there is.
    """
    memory = machine_memory()
    for name in names:
        about: TaskConfig = getattr(config, name)
        rows = config.examples + ((config.warmup_examples or 0) if config.warmup_steps else 0)
        text = 4 * rows * (2 * about.length + about.target_length)
        parameters = 0 if about.checkpoint else 4 * least_parameters(about)
        for what, size in (("encoded text", text), ("model's parameters", parameters)):
            if size > memory:
                raise ValueError(
                    f"{name}: the {what} would take {size / GIB:,.0f} GiB, "
                    f"but this machine has {memory / GIB:,.0f}"
                )


def least_parameters(about: TaskConfig) -> int:
    """A lower bound of a made model's parameters: one embedding, attention, feed-forward layers."""
    block = 4 * about.d_model**2 + 2 * about.d_model * about.d_ff
    return about.vocab_size * about.d_model + about.layers * block
