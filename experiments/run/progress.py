"""What the person at the terminal sees of a long run, and how Ctrl-C ends it."""

import contextlib
import dataclasses
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LOG_SECONDS = 20.0  # Between two lines of one stage's steps in a log.
# After so long without a line, a log is told what goes on. A thread looks every second, so that no
# half minute passes without one.
QUIET_SECONDS = 27.0
STEP = "step"


class Interrupted(Exception):
    """The run was asked to stop and has stopped after a whole step."""


@dataclasses.dataclass
class _Activity:
    name: str
    started: float


class Watch:
    """Bars on a terminal, plain lines in a log; one Ctrl-C asks to stop, a second insists."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self.console = console or Console(stderr=True)
        self.clock = clock
        self.stopping = False
        self._activities: list[_Activity] = []  # The innermost last.
        self._stage: Stage | None = None
        self._spoke = clock()

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
        self._spoke = self.clock()
        if self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Names what goes on: a bar shows it; where there is none, a line does each half minute."""
        with self._active(what):
            yield

    @contextlib.contextmanager
    def stage(
        self, name: str, total: int, done: int = 0, kinds: Mapping[int, str] | None = None
    ) -> Iterator["Stage"]:
        """A stage of `total` steps, of which `done` were there before.

        Args:
          name: What it is called.
          total: The number of its last step.
          done: The number of the last step that was there before.
          kinds: What each step is that is not like most: the time left counts every kind by itself.
        """
        started = self.clock()
        resumed = f", from step {done}" if done else ""
        with contextlib.ExitStack() as held:
            if self.console.is_terminal:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TimeElapsedColumn(),
                    TextColumn("{task.fields[note]}"),
                )
                progress = held.enter_context(Progress(*columns, console=self.console))
                progress.add_task(name, total=total, completed=done, note="")
            else:
                progress = None
                self.say(f"{name}: {total} steps{resumed}")
            activity = held.enter_context(self._active(name))
            self._stage = Stage(self, name, total, done, kinds or {}, activity, progress)
            try:
                yield self._stage
            finally:
                self._stage = None
        if progress is None:
            self.say(f"{name}: {self.clock() - started:.1f} s")

    def remind(self) -> None:
        """Says what goes on, if no bar shows it and nothing was said for a while."""
        now, activities = self.clock(), tuple(self._activities)
        shown = self._stage is not None and self._stage.progress is not None
        if shown or not activities or now - self._spoke < QUIET_SECONDS:
            return
        self.say(f"{_names(activities)}, {duration(now - activities[-1].started)} so far")

    @contextlib.contextmanager
    def _active(self, name: str) -> Iterator[_Activity]:
        activity = _Activity(name, self.clock())
        if not self._activities:
            self._spoke = activity.started  # Before it, nothing was to be said.
        with self._reminded():
            self._activities.append(activity)
            self._show()
            try:
                yield activity
            finally:
                self._activities.remove(activity)
                self._show()

    @contextlib.contextmanager
    def _reminded(self) -> Iterator[None]:
        """A thread that reminds, for as long as anything goes on: what is long blocks this one."""
        if self._activities:
            yield
            return
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(1.0):
                self.remind()

        thread = threading.Thread(target=look, name="reminder", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _show(self) -> None:
        if self._stage is not None:
            self._stage.show(_names(self._activities[1:]))


def _names(activities: Sequence[_Activity]) -> str:
    return ", ".join(filter(None, (activity.name for activity in activities)))


@dataclasses.dataclass
class Stage:
    """Reports the steps of one stage."""

    watch: Watch
    name: str
    total: int
    done: int  # The number of the last step that was there before.
    kinds: Mapping[int, str]
    activity: _Activity
    progress: Progress | None

    def __post_init__(self):
        self.note = ""
        self.started = self.ended = self.logged = self.watch.clock()
        left = range(self.done + 1, self.total + 1)
        special = Counter(kind for number, kind in self.kinds.items() if number in left)
        self.ahead = special + Counter({STEP: len(left) - special.total()})
        self.took: dict[str, list[float]] = {}
        self._name_next(self.done + 1)

    def step(self, number: int, loss: float) -> None:
        """Step `number` (from 1) is done at this training loss."""
        now, kind = self.watch.clock(), self.kinds.get(number, STEP)
        self.took.setdefault(kind, []).append(now - self.ended)
        self.ahead[kind] -= 1
        self.ended = self.activity.started = now
        self._name_next(number + 1)
        rate = (number - self.done) / (now - self.started) if now > self.started else 0.0
        self.note = f"loss {loss:.4f}, {rate:.2g} steps/s, {self.left()}"
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], completed=number, note=self.note)
        elif now - self.logged > LOG_SECONDS:
            self.logged = now
            self.watch.say(f"{self.name}: step {number}/{self.total}, {self.note}")

    def left(self) -> str:
        """What is known of the time left: each kind of step takes what it took before.

        The first of a kind compiles. It says at most how long the others take, and where there are
        many of them, as of plain steps, nothing.
        """
        total, at_most = 0.0, False
        for kind, count in self.ahead.items():
            if count <= 0:
                continue
            took = self.took.get(kind, [])
            if not took or (kind == STEP and len(took) == 1):
                return f"time left not known before {'another' if took else 'the first'} {kind}"
            at_most |= len(took) == 1
            total += count * (took[0] if len(took) == 1 else sum(took[1:]) / (len(took) - 1))
        return f"{'at most ' * at_most}{duration(total)} left"

    def _name_next(self, number: int) -> None:
        where = f"{self.name}: step {number}/{self.total}" if number <= self.total else self.name
        kind = self.kinds.get(number)
        self.activity.name = f"{where} ({kind})" if kind else where

    def show(self, what: str) -> None:
        """On a bar: what goes on within the step."""
        if self.progress is not None:
            note = ", ".join(filter(None, (self.note, what)))
            self.progress.update(self.progress.task_ids[0], note=note)


def duration(seconds: float) -> str:
    """As people say it: 45 s, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
