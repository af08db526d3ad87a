"""How near an optimizer's own training is to the edge of its stability, point by point.

The study's SGD, x ← x − η·m with m ← βm + (1 − β)g, is stable on a quadratic where λ max is below
`sharpjax.adaptive_edge`; Adam, P held fixed, where the largest eigenvalue of P^(−½)HP^(−½) is.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from experiments import paper
from experiments.anatomy_rows import Ritz
from experiments.explanation_rows import Preconditioned
from experiments.report.claims import grouped
from experiments.report.recorded import Run, as_spectrum
from experiments.report.table import Table, number, percent, with_error
from experiments.rows import RitzValue
from sharpjax import adaptive_edge, plot
from sharpjax.plot import label
from sharpjax.plot.style import clipped, family


class Point(NamedTuple):
    """One point of an optimizer's own training."""

    trajectory: tuple[str, str, int]  # (task, optimizer, seed).
    step: int  # From 1.
    # λ max, and how far an eigenvalue is at most; nan if not measured.
    largest: tuple[float, float]
    preconditioned: tuple[float, float]  # The same of P^(−½)HP^(−½) by Adam's P.
    edge: float  # Of the optimizer's stability unclipped; nan if none is known.

    @property
    def decisive(self) -> float:
        """What the edge is of: Adam's preconditioned eigenvalue, any other optimizer's λ max."""
        held = self.preconditioned if self.trajectory[1] == "adam" else self.largest
        return held[0]

    @property
    def share(self) -> float:
        """Of the edge."""
        return self.decisive / self.edge


def points(run: Run) -> list[Point]:
    """Those of every trajectory that is measured at several."""
    per_epoch = -(-run.config.get("examples", 0) // max(run.config.get("batch_size", 1), 1))
    found = []
    for (task, trajectory, seed, epoch, batch), rows in run.points.items():
        if not rows[Ritz] and not rows[Preconditioned]:
            continue
        edge = max((r.edge for r in rows[Preconditioned]), default=math.nan)
        if family(trajectory) == "sgd" and (rate := run.rate_along(trajectory)) > 0:
            edge = adaptive_edge(rate)
        tops = _top(rows[Ritz]), _top(rows[Preconditioned])
        step = (epoch - 1) * per_epoch + batch
        found.append(Point((task, trajectory, seed), step, *tops, edge))
    by_trajectory = grouped((point.trajectory, point) for point in found)
    return [point for several in by_trajectory.values() if len(several) > 1 for point in several]


def _top(rows: list[RitzValue]) -> tuple[float, float]:
    if not rows:
        return math.nan, math.nan
    largest, residual = as_spectrum(rows).largest
    return float(largest), float(residual)


def table(run: Run) -> Table | None:
    """A row a point; a run without a trajectory of several points has none."""
    lines = [
        (
            f"{_name(p.trajectory)}, step {p.step}",
            _held(p.largest),
            _held(p.preconditioned),
            number(p.edge) if math.isfinite(p.edge) else "–",
            percent(p.share, 0) if math.isfinite(p.share) else "–",
        )
        for p in points(run)
    ]
    if not lines:
        return None
    caption = (
        "Largest eigenvalues of the test loss’s Hessian H and, by Adam’s P = √v̂ + ε, of "
        "P^(−½)HP^(−½), ± within how much an eigenvalue is. The edge is (2 + 2β)/((1 − β)η) with "
        "β = 0.9: for SGD of λ max, for Adam of the preconditioned one, P held fixed. Clipped SGD "
        "has what SGD’s would be at the same rate. The last column is in per cent of the edge."
    )
    header = ("", "λ max", "preconditioned", "edge", "of the edge")
    return Table("How near to the edge of stability", header, lines, caption)


def _held(top: tuple[float, float]) -> str:
    return with_error(*top) if math.isfinite(top[0]) else "–"


def _name(trajectory: tuple[str, str, int]) -> str:
    return f"{paper.TASKS[trajectory[0]]}, {_of_seed(trajectory)}"


def _of_seed(trajectory: tuple[str, str, int]) -> str:
    _, optimizer, seed = trajectory
    return label(optimizer) + f", seed {seed}" * (seed > 0)


def figure(found: list[Point], style: plot.Style) -> Figure:
    """The largest eigenvalue of each optimizer over its own training, and its edge."""
    made = Figure(figsize=(5.6, 3.8), layout="constrained")
    axis = made.subplots()
    for trajectory, mine in grouped((p.trajectory, p) for p in found).items():
        look: Any = style.line(trajectory[1]) | {"marker": "o", "markersize": 4}
        steps = [p.step for p in mine]
        axis.plot(steps, [p.decisive for p in mine], label=_of_seed(trajectory), **look)
        if math.isfinite(mine[0].edge):
            if_unclipped = "-." if any(clipped(trajectory[1])) else ":"
            axis.axhline(mine[0].edge, color=look["color"], ls=if_unclipped, lw=1.2)
    axis.set_yscale("log")
    axis.set_xlabel("step")
    axis.set_ylabel("largest eigenvalue")
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8, handlelength=3.5)  # Dashes show beside the marker.
    return made


def figures(run: Run, style: plot.Style) -> Iterable[tuple[str, str, str, Callable[[], Figure]]]:
    """(name, title, caption, what draws it), of a run that has several points a trajectory."""
    found = points(run)
    for task in dict.fromkeys(p.trajectory[0] for p in found):
        mine = [p for p in found if p.trajectory[0] == task]
        yield (
            f"stability_{task}",
            f"The largest eigenvalue along training: {paper.TASKS[task]}",
            "Of the Hessian, and for Adam of the Hessian preconditioned by its P. Dotted: the edge "
            "of stability at the rate of the run; dash-dotted: SGD’s at the rate of clipped SGD.",
            lambda mine=mine: figure(mine, style),
        )
