"""Progress against a fake clock: what a log says, how often, and whether it is true."""

import io
import itertools
import threading
import time

import pytest
from rich.console import Console

from experiments.run.progress import Watch, duration


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def watch(clock):
    """Of a log: its console is no terminal."""
    return Watch(Console(file=io.StringIO()), clock)


def pass_time(clock, watch, seconds):
    """As the thread does it: a look every second."""
    for _ in range(seconds):
        clock.now += 1
        watch.remind()


def test_measurements_count_in_the_time_left(watch, clock, capsys):
    """100 steps of 1 s, every tenth of 61 s; the first of each kind compiles for 30 s more."""
    kinds = dict.fromkeys(range(10, 101, 10), "measurement")
    cost = lambda n: (61 if n in kinds else 1) + 30 * (n in (1, 10))  # noqa: E731
    with watch.stage("training", 100, kinds=kinds) as stage:
        for number in range(1, 101):
            clock.now += cost(number)
            stage.step(number, 2.0)
            truth = sum(cost(n) for n in range(number + 1, 101))
            said = stage.left()
            if number < 10:
                assert said == "time left not known before the first measurement"
            elif number < 20:
                assert said.startswith("at most ") and truth <= 60 * int(said.split()[2]) + 30
            else:
                assert said == f"{duration(truth)} left"
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 100 steps" and lines[-1] == "training: 760.0 s"
    assert "training: step 20/100, loss 2.0000" in "\n".join(lines)


def test_a_resumed_stage_counts_what_it_does_itself(watch, clock):
    with watch.stage("training", 100, done=90, kinds={10: "measurement", 95: "measurement"}) as s:
        for number in (91, 92):
            clock.now += 3
            s.step(number, 1.0)
        assert s.left() == "time left not known before the first measurement"
        for number, took in ((93, 3), (94, 3), (95, 50)):
            clock.now += took
            s.step(number, 1.0)
        assert s.left() == "15 s left"


def test_a_log_has_a_line_every_half_minute_that_names_what_goes_on(watch, clock, capsys):
    times = []
    say = watch.say
    watch.say = lambda line: (times.append(clock.now), say(line))
    with watch.stage("mlm, sgd trajectory", 9, kinds={2: "measurement"}) as stage:
        pass_time(clock, watch, 5)
        stage.step(1, 2.0)
        with watch.doing("slope and sharpness"):
            pass_time(clock, watch, 100)
        with watch.doing("float64 check"):
            pass_time(clock, watch, 95)
    times.append(clock.now)
    assert max(later - sooner for sooner, later in itertools.pairwise(times)) <= 30
    said = capsys.readouterr().err
    where = "mlm, sgd trajectory: step 2/9 (measurement), "
    assert f"{where}slope and sharpness, 22 s so far" in said
    assert f"{where}float64 check" in said and said.count("so far") == 7


def test_what_stands_alone_is_said_when_it_takes_long(watch, clock, capsys):
    pass_time(clock, watch, 60)
    with watch.doing("mlm: text and model"), watch.doing(""):  # A part without a name.
        pass_time(clock, watch, 30)
    assert capsys.readouterr().err == "mlm: text and model, 27 s so far\n"
    pass_time(clock, watch, 60)  # Nothing goes on.
    assert capsys.readouterr().err == ""


def test_the_thread_looks_by_itself_and_ends(clock, capsys):
    watch = Watch(Console(file=io.StringIO()), clock)
    before = threading.active_count()
    with watch.doing("a long compilation"):
        clock.now += 40
        for _ in range(50):  # It looks every second; what is long here blocks the main thread.
            time.sleep(0.1)
            if watch._spoke == clock.now:
                break
    assert "a long compilation, 40 s so far" in capsys.readouterr().err
    assert threading.active_count() == before


def test_a_terminal_shows_a_bar_with_what_goes_on(clock):
    file = io.StringIO()
    watch = Watch(Console(file=file, force_terminal=True, width=200), clock)
    with watch.stage("training", 3) as stage:
        clock.now += 2
        stage.step(1, 2.5)
        with watch.doing("float64 check"):
            stage.progress.refresh()
        watch.remind()
    assert "1/3" in file.getvalue() and "loss 2.5000" in file.getvalue()
    assert "float64 check" in file.getvalue()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (119, "119 s"), (750, "12 min"), (12240, "3.4 h")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words
