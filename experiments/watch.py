"""What the person at the terminal sees of a long run, and how Ctrl-C ends it."""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_SECONDS = 20.0  # Between two lines of one stage in a log.


class Interrupted(Exception):
    """The run was asked to stop and has stopped after a whole step."""


class Watch:
    """Bars on a terminal, plain lines in a log; one Ctrl-C asks to stop, a second insists."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True)
        self.stopping = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["Watch"]:
        """Turns the first Ctrl-C (and SIGTERM) into a request to stop after the current step."""

        def ask(signum, frame):
            if self.stopping:
                raise KeyboardInterrupt
            self.stopping = True
            self.say("stopping after this step (Ctrl-C again: at once)")

        previous = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def say(self, line: str) -> None:
        """One plain line."""
        if self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def stage(self, name: str, total: int, done: int = 0) -> Iterator["Stage"]:
        """A stage of `total` steps, of which `done` were there before."""
        started = time.monotonic()
        resumed = f", from step {done}" if done else ""
        if not self.console.is_terminal:
            self.say(f"{name}: {total} steps{resumed}")
            yield Stage(self, name, total, done, None)
            self.say(f"{name}: {time.monotonic() - started:.1f} s")
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self.console) as progress:
            progress.add_task(name, total=total, completed=done, note="")
            yield Stage(self, name, total, done, progress)


class Stage:
    """Reports the steps of one stage."""

    def __init__(self, watch, name, total, done, progress):
        self.watch, self.name, self.total, self.progress = watch, name, total, progress
        self.first, self.started, self.logged = done, time.monotonic(), time.monotonic()

    def step(self, number: int, loss: float) -> None:
        """Step `number` (from 1) is done at this training loss."""
        elapsed = time.monotonic() - self.started
        rate = (number - self.first) / elapsed if elapsed else 0.0
        note = f"loss {loss:.4f}, {rate:.2g} steps/s"
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], completed=number, note=note)
        elif time.monotonic() - self.logged > LOG_SECONDS:
            self.logged = time.monotonic()
            left = (self.total - number) / rate if rate else float("inf")
            self.watch.say(f"{self.name}: step {number}/{self.total}, {note}, {left:.0f} s left")
