"""The loss along each update."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.interpolate import PchipInterpolator

from sharpjax._checks import check_choice
from sharpjax.plot._canvas import GREY, Canvas, key, styled
from sharpjax.plot._frames import finite, last_point, names_of, style_of, table
from sharpjax.plot.style import Style

_POINTS = 400


@styled
def landscape(
    results: Any,
    directions: Any = None,
    *,
    scale: str = "both",
    linear: Sequence[str] | None = None,
    titles: tuple[str, str] | None = None,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """The loss at a distance along each optimizer's unit direction.

    Lines join the measured losses by monotone cubics, from the start to the critical step, where
    the loss is back at its start; one whose end was not seen ends in a small bar. A filled mark is
    the lowest loss found; a hollow one the minimum of the quadratic model (slope, sharpness), a
    triangle on the lower edge if it lies below.

    Args:
        results: A `Point` measured with its landscape, a `Comparison` (its last point is drawn), or
            a DataFrame with columns algorithm, distance, loss of one point.
        directions: With a DataFrame: one with the columns of the table "directions", for the
            quadratic models and the critical steps. None draws none.
        scale: Of the distance: "linear", "log", or "both", a panel each.
        linear: The optimizers on the linear axis, whose length they set; by default those whose
            best distance is at most five times the median.
        titles: Of the two panels.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in, with scale "linear" or "log".

    Returns:
        The figure.

    Raises:
        TypeError: results of another type.
        ValueError: no row, a missing column, an unknown scale, or `ax` and both scales.
    """
    check_choice("scale", scale, ("both", "linear", "log"))
    if ax is not None and scale == "both":
        raise ValueError("ax is for one panel: scale must be 'linear' or 'log', got 'both'")
    frame = last_point(table(results, "landscape", ("algorithm", "distance", "loss")))
    if directions is None and hasattr(results, "to_pandas"):
        directions = last_point(results.to_pandas("directions"))
    curves = {name: _Curve(frame, directions, name) for name in names_of(frame)}
    style = style_of(style, curves)
    panels = ["linear", "log"] if scale == "both" else [scale]
    canvas = Canvas(1, len(panels), height=3.2, figure=figure, ax=ax)
    near = [name for name in (_near(curves) if linear is None else linear) if name in curves]
    left_out = len(curves) - len(near)
    without = f", without {left_out} that go far" if left_out else ""
    titles = titles or (f"linear distance{without}", "logarithmic distance")
    for index, (axes, kind) in enumerate(zip(canvas.axes, panels, strict=True)):
        shown = {name: curves[name] for name in near} if kind == "linear" else curves
        if not shown:
            axes.set_axis_off()
            continue
        _panel(axes, shown, kind == "log", style)
        axes.set_xlabel("distance along the unit direction")
        if scale == "both":
            axes.set_title(titles[kind == "log"])
        if index == 0:
            axes.set_ylabel("test loss")
    marks = [key("o", "lowest loss found")]
    if any(math.isfinite(curve.newton) for curve in curves.values()):
        marks.append(key("D", "quadratic model’s minimum", hollow=True))
    canvas.legend(style, curves, marks)
    return canvas.figure


class _Curve:
    """One optimizer's measured losses, what its quadratic model says, and where its line ends."""

    def __init__(self, frame: Any, directions: Any, name: str):
        mine = frame[frame["algorithm"] == name].sort_values("distance")
        distance, loss = finite(mine["distance"]), finite(mine["loss"])
        known = ~np.isnan(distance + loss)
        self.distance, self.loss = distance[known], loss[known]
        at_start = self.distance == 0
        self.start = float(self.loss[at_start][0]) if at_start.any() else math.nan
        at = int(np.argmin(self.loss)) if len(self.loss) else 0
        self.best = self.distance[at : at + 1], self.loss[at : at + 1]
        said: dict[str, Any] = {}
        if directions is not None:
            row = directions[directions["algorithm"] == name]
            said = row.iloc[0].to_dict() if len(row) else {}
        self.newton, self.promise = math.nan, math.nan
        newton, fall = said.get("newton_step", math.nan), said.get("predicted_decrease", math.nan)
        if 0 < newton < math.inf and math.isfinite(fall):
            self.newton, self.promise = float(newton), said.get("loss", self.start) - float(fall)
        self.end, self.seen = self._end(float(said.get("critical_step", math.nan)))

    def _end(self, critical: float) -> tuple[float, bool]:
        """Where the line ends, and whether the loss is known to be back at its start there."""
        if len(self.distance) < 2:
            return (float(self.distance[-1]), True) if len(self.distance) else (0.0, True)
        last = float(self.distance[-1])
        if self.best[0][0] == 0:
            return last, True  # It rises from the start, and out of the picture.
        if 0 < critical <= last:
            return critical, True
        # Not said: the first measured point after the minimum that is back above the start.
        above = (self.loss >= self.start) & (self.distance > self.best[0][0])
        if not above.any():
            return last, False
        i = int(np.argmax(above))
        rest = self.start - self.loss[i - 1]
        rise = self.loss[i] - self.loss[i - 1]
        share = rest / rise if rise > 0 else 1.0
        return float(self.distance[i - 1] + share * (self.distance[i] - self.distance[i - 1])), True


def _near(curves: Mapping[str, _Curve]) -> list[str]:
    """Those whose best distance is not far beyond the others'."""
    best = {name: float(curve.best[0].max(initial=0.0)) for name, curve in curves.items()}
    middle = float(np.median([step for step in best.values() if step > 0] or [math.inf]))
    return [name for name, step in best.items() if step <= 5 * middle]


def _panel(axes: Axes, curves: Mapping[str, _Curve], logarithmic: bool, style: Style) -> None:
    known = [curve for curve in curves.values() if len(curve.loss)]
    start = next((c.start for c in known if math.isfinite(c.start)), math.nan)
    lowest = min((float(c.loss.min()) for c in known), default=math.nan)
    depth = (start - lowest) or 1e-3
    deepest = min([lowest, *(c.promise for c in known if math.isfinite(c.promise))])
    bottom = max(deepest, lowest - 0.6 * depth) - 0.1 * depth
    top = start + 0.12 * depth
    steps = _steps(known, logarithmic)
    axes.axhline(start, color=GREY, linewidth=0.8, zorder=1)
    for name, curve in curves.items():
        if len(curve.loss) > 1:
            # Its end and what was measured are on the line exactly.
            seen = np.union1d(steps, [curve.end, *curve.distance])
            seen = seen[(seen >= steps[0]) & (seen <= min(curve.end, steps[-1]))]
            losses = PchipInterpolator(curve.distance, curve.loss)(seen)
            axes.plot(seen, losses, **style.line(name, len(seen)))
            if not curve.seen and curve.end < steps[-1]:
                axes.plot(curve.end, curve.loss[-1], **style.dot(name, "|"), markersize=10)
        step, loss = curve.best
        if len(step) and (step[0] > 0 or not logarithmic):
            axes.plot(step, loss, **style.dot(name), markersize=5, zorder=4)
        if math.isfinite(curve.newton):
            marker = "D" if curve.promise > bottom else "v"
            at = max(curve.promise, bottom + 0.02 * (top - bottom))
            axes.plot(curve.newton, at, **style.hollow(name, marker), zorder=5)
    if math.isfinite(bottom) and bottom < top:
        axes.set_ylim(bottom, top)
    if logarithmic:
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlim(steps[0], steps[-1])


def _steps(curves: list[_Curve], logarithmic: bool) -> np.ndarray:
    """An axis with every best step on it; the search for it may have tried far larger ones.

    The quadratic models' steps stay on it as long as that does not squeeze the curves.
    """
    best = [float(c.best[0][0]) for c in curves if c.best[0][0] > 0]
    best = best or [float(s) for c in curves for s in c.distance if s > 0] or [1.0]
    if logarithmic:
        return np.geomspace(min(best) / 10, 4 * max(best), _POINTS)
    newton = [c.newton for c in curves if math.isfinite(c.newton)]
    far = max([1.6 * max(best), *(1.1 * step for step in newton)])
    return np.linspace(0, min(far, 2.5 * max(best)), _POINTS)
