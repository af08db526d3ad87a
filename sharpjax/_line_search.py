"""The least loss along a line from evaluations alone, at any scale and within a budget.

Only the host's numbers: `sharpjax.landscape` says what the loss at a step is.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import scipy.optimize

SMALLEST, LARGEST = 1e-30, 1e30


class BudgetSpent(Exception):
    """No evaluation is left."""


class Line:
    """The loss along a line, as far as it has been seen."""

    def __init__(
        self, losses_at: Callable[[Sequence[float]], Sequence[float]], budget: int, epsilon: float
    ):
        self._losses_at = losses_at
        self._left = budget
        self._epsilon = epsilon
        self.seen: dict[float, float] = {}

    def look(self, *steps: float) -> None:
        """Evaluates together what has not been seen; raises once the budget is spent."""
        new = [s for s in dict.fromkeys(map(float, steps)) if s not in self.seen]
        affordable = new[: self._left]
        if affordable:
            self._left -= len(affordable)
            losses = map(float, self._losses_at(affordable))
            self.seen |= dict(zip(affordable, losses, strict=True))
        if len(affordable) < len(new):
            raise BudgetSpent

    def rise(self, step: float) -> float:
        """loss(step) − loss(0); what is not finite counts as above everything, −∞ too."""
        self.look(step)
        loss = self.seen[float(step)]
        return loss - self.seen[0.0] if math.isfinite(loss) else math.inf

    @property
    def floor(self) -> float:
        """What a loss must change by to be seen: a few units in its last digit."""
        return 4 * self._epsilon * abs(self.seen[0.0])

    def lowers(self, step: float) -> bool:
        """Whether the loss at a step is seen to be below its start."""
        return self.rise(step) < -self.floor

    def least(self, end: float = math.inf) -> float:
        """The step of least loss up to `end`, or beyond where that is seen to be lower still.

        0 unless it lowers the loss visibly.
        """
        within = min((s for s in self.steps() if s <= end), key=self.rise)
        beyond = min(self.steps(), key=self.rise)
        best = beyond if self.rise(beyond) < self.rise(within) - self.floor else within
        return best if self.lowers(best) else 0.0

    def steps(self) -> list[float]:
        """All that were seen, in ascending order."""
        return sorted(self.seen)


def search(line: Line, first: float, points: int) -> tuple[str, float, float]:
    """(status, best step, critical step) of a line whose loss at 0 is finite.

    A step that is seen to lower the loss is sought from `first`: upwards while nothing can be seen,
    downwards while the loss is higher. From there, larger steps are tried until the loss is back at
    its start. That brackets the critical step and the least loss, which a grid of `points` and
    Brent's method then refine.
    """
    critical, end = math.nan, math.inf
    try:
        lower = _find_lower(line, first)
        if lower is None:
            return _nothing_lower(line)
        best, last = _descend(line, lower)
        if last == best or line.seen[last] == -math.inf:
            return "unbounded", line.least(), math.inf
        back = _first_back(line)
        critical = math.inf if back is None else _crossing(line, *back)
        end = min(critical, 4 * min(step for step in line.seen if step > best))
        line.look(*(end * i / points for i in range(1, points)), end)
        earlier = _first_back(line)
        if earlier is not None and earlier[1] < (1 - 1e-3) * critical:
            critical = math.nan  # Unknown, should the budget end here.
            critical = _crossing(line, *earlier)
        _refine(line, line.least(end))
    except BudgetSpent:
        return "budget", line.least(end), critical
    if -math.inf in line.seen.values():
        return "unbounded", line.least(), math.inf
    return "minimum", line.least(end), critical


def _find_lower(line: Line, first: float) -> float | None:
    """A step that is seen to lower the loss; None if there is none."""
    first = min(max(first, 4 * SMALLEST), LARGEST / 4)
    ladder = [first / 2, first, 2 * first]
    line.look(*ladder)
    best = min(ladder, key=line.rise)
    if line.lowers(best):
        return best
    heights = [line.rise(step) > line.floor for step in ladder]
    if heights[0]:
        low, high = _walk(line, ladder[0], lambda step, factor: step / factor)[::-1]
    elif any(heights):
        low, high = ladder[heights.index(True) - 1], ladder[heights.index(True)]
    else:
        low, high = _walk(line, ladder[-1], lambda step, factor: step * factor)
    if not SMALLEST < low < high < LARGEST:
        return None
    # Where nothing is seen, the loss may also be back at its start: half of it then lowers it.
    for step in (high, low, low / 2):
        if line.lowers(step):
            return step
    while high > 2 * low:
        middle = math.sqrt(low * high)
        if line.lowers(middle):
            return middle
        low, high = (low, middle) if line.rise(middle) > line.floor else (middle, high)
    return None


def _walk(line: Line, step: float, move: Callable[[float, float], float]) -> tuple[float, float]:
    """Ever faster from a step to the first that is seen otherwise: (the last alike, that one).

    Alike are steps that are seen to be higher, or of which nothing is seen.
    """
    height = line.rise(step) > line.floor
    factor = 2.0
    while True:
        following = move(step, factor)
        if not SMALLEST < following < LARGEST:
            return step, following
        if line.lowers(following) or (line.rise(following) > line.floor) != height:
            return step, following
        step, factor = following, min(factor**2, 256.0)


def _nothing_lower(line: Line) -> tuple[str, float, float]:
    visible = [step for step in line.seen if abs(line.rise(step)) > line.floor]
    if visible and not any(math.isfinite(line.seen[step]) for step in visible):
        return "not finite", math.nan, math.nan
    return "no decrease", 0.0, 0.0


def _descend(line: Line, best: float) -> tuple[float, float]:
    """(the step of least loss on the way, the last step of the way).

    Up to the first step that is back at the start. If the loss never is, up to `LARGEST`, and then
    both are the same where it was still falling.
    """
    # The first step that lowers the loss on the way down: the minimum may lie below it.
    while best == line.steps()[1] and best > SMALLEST:
        if not line.rise(best / 2) < line.rise(best) - line.floor:
            break
        best /= 2
    last, falls, alike = best, True, 0
    while True:
        # Ever faster while nothing new is seen, but not so fast as to jump over a rise nearby.
        following = last * (2.0 if alike < 3 else 4.0 if alike < 6 else 16.0 if falls else 256.0)
        if following > LARGEST:
            break
        last = following
        if not line.rise(last) < 0:
            break
        fell, falls = falls, line.rise(last) < line.rise(best) - line.floor
        best = last if falls else best
        alike = alike + 1 if falls == fell else 1
    return best, last


def _first_back(line: Line) -> tuple[float, float] | None:
    """The neighbours between which a loss that was lower first is back at its start."""
    low = None
    for step in line.steps():
        if low is not None and not line.rise(step) < 0:
            return low, step
        if low is not None or line.lowers(step):
            low = step
    return None


def _crossing(line: Line, low: float, high: float) -> float:
    """Where the loss is back at its start, to 1e-4 of the step; the edge of what is finite."""
    while high > 4 * low or (math.isinf(line.rise(high)) and high > (1 + 1e-4) * low):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if line.rise(middle) < 0 else (low, middle)
    if math.isinf(line.rise(high)):
        return high
    tolerance: Any = {"xtol": 1e-4 * low, "rtol": 1e-4}
    root: Any = scipy.optimize.brentq(line.rise, low, high, **tolerance)
    return float(root)


def _refine(line: Line, best: float) -> None:
    """Brent's method between the neighbours of the least loss so far, to a thousandth of it."""
    steps = line.steps()
    i = steps.index(best)
    if 0 < i < len(steps) - 1:
        scipy.optimize.minimize_scalar(
            lambda step: line.rise(float(step)),
            bounds=(steps[i - 1], steps[i + 1]),
            method="bounded",
            options={"maxiter": 8, "xatol": 1e-3 * best},
        )
