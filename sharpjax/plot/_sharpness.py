"""Sharpness over training, and against slope."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpjax.plot import _labels
from sharpjax.plot._canvas import GREY, TEXT, Canvas, key, minus, plain_log, styled
from sharpjax.plot._frames import by, finite, names_of, panel_title, split, style_of, table
from sharpjax.plot.style import Style, clipped, label

_SAID = {
    "ratio": "sharpness / |SGD’s|",
    "sharpness": "sharpness vᵀHv",
    "step_ratio": "step ratio ‖u‖ / Newton step",
    "best_decrease": "best decrease of the test loss",
    "predicted_decrease": "predicted decrease",
    "update_norm": "‖u‖",
}
_MOST_TICKS = 8


@styled
def sharpness(
    results: Any,
    *,
    value: str | None = None,
    x: str = "step",
    panels: Sequence[str] | None = None,
    title: Callable[[tuple], str] | None = None,
    reference: Any = None,
    reference_label: str = "reference",
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """Every optimizer's sharpness over the steps at which it was measured, logarithmic.

    Where several rows share a step (batches, seeds), the point is their mean and the bar their
    standard deviation; a single row's bar is its standard error. A triangle on the lower edge is a
    mean that is zero or negative. Few steps stand side by side, so that bars do not overlap.

    Args:
        results: A `Comparison`, a `Point`, or a DataFrame with columns `x`, `algorithm`, `value`.
        value: A column of the table "directions": "ratio" (the default where each point has an
            "sgd"), "sharpness" (else), "step_ratio" (with lines at the quadratic's minimum, 1, and
            its edge, 2), or another.
        x: The column of the horizontal axis.
        panels: Columns whose combinations have a panel each; by default a panel a trajectory.
        title: Their values -> what stands above the panel.
        reference: A DataFrame with the same columns, drawn hollow beside.
        reference_label: What the legend calls it.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in, for one panel.

    Returns:
        The figure.

    Raises:
        TypeError: results of another type.
        ValueError: no row, a missing column, or several panels and one `ax`.
    """
    frame = table(results, "directions", ("algorithm", x))
    if value is None:
        # On trajectories of their own, only SGD has SGD's sharpness beside it.
        known = "ratio" in frame.columns and np.isfinite(finite(frame["ratio"])).any()
        if known and "sharpness" in frame.columns:
            missing = np.isfinite(finite(frame["sharpness"])) & ~np.isfinite(finite(frame["ratio"]))
            known = not missing.any()
        value = "ratio" if known else "sharpness"
    frame = table(frame, "directions", (value,))
    cells = split(frame, panels)
    if ax is not None and len(cells) > 1:
        raise ValueError(f"ax is for one panel, and there are {len(cells)}: {[*cells]}")
    names = names_of(frame)
    style = style_of(style, names)
    across = min(2, len(cells))
    down = math.ceil(len(cells) / across)
    height = 2.7 if across > 1 else 3.4
    canvas = Canvas(down, across, height=height, figure=figure, ax=ax)
    hollow = {} if reference is None else split(reference, panels)
    drawn = False
    for number, (axes, (at, rows)) in enumerate(zip(canvas.axes, cells.items(), strict=False)):
        drawn |= _panel(axes, rows, hollow.get(at), names, style, value, x)
        axes.set_title(panel_title(title, at))
        if number >= len(cells) - across:
            axes.set_xlabel(x)
        if number % across == 0:
            axes.set_ylabel(_SAID.get(value, value.replace("_", " ")))
    for axes in canvas.axes[len(cells) :]:
        axes.set_axis_off()
    canvas.legend(style, names, [key("o", reference_label, hollow=True)] if drawn else [])
    return canvas.figure


def _panel(axes, rows, reference, names, style: Style, value: str, x: str) -> bool:
    """Draws one panel; whether the reference has anything to show there."""
    steps = sorted(rows[x].unique())
    side_by_side = len(steps) <= _MOST_TICKS
    known = finite(rows[value])
    axes.set_yscale("log" if (known > 0).any() else "symlog")
    lowest = [v for v in known if v > 0]
    drawn = False
    for index, name in enumerate(names):
        shift = (index - (len(names) - 1) / 2) * min(0.07, 0.5 / len(names)) * side_by_side
        place = {step: (i if side_by_side else step) + shift for i, step in enumerate(steps)}
        mine = rows[rows["algorithm"] == name]
        points = [(place[s], *_summary(r, value)) for (s,), r in by(mine, [x]).items()]
        above = [p for p in sorted(points) if p[1] > 0]
        if above:
            at, mean, spread = np.array(above).T
            low = np.minimum(spread, 0.999 * mean)
            look = style.line(name)
            look = {"marker": "o", "markersize": 3.6 if side_by_side else 2} | look
            axes.errorbar(at, mean, (low, spread), elinewidth=0.9, **look)
        below = [p[0] for p in points if p[1] <= 0]
        edge = axes.get_xaxis_transform()
        axes.plot(below, [0.02] * len(below), **style.hollow(name, "v"), transform=edge)
        if reference is not None:
            said = reference[(reference["algorithm"] == name) & reference[x].isin(steps)]
            at = [place[step] + 0.03 * side_by_side for step in said[x]]
            axes.plot(at, said[value], **style.hollow(name, "o"), zorder=4)
            drawn |= bool(len(said))
            lowest += [v for v in said[value] if v > 0]
    if side_by_side:
        axes.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        axes.set_xlim(-0.45, len(steps) - 0.55)
        axes.grid(axis="x", visible=False)
    if lowest:
        axes.set_ylim(min(lowest) / 3, None)
    plain_log(axes.yaxis)
    if value == "step_ratio":
        for level in (1, 2):
            axes.axhline(level, color=GREY, linewidth=0.8, zorder=1)
    return drawn


def _summary(rows: Any, value: str) -> tuple[float, float]:
    """Mean and deviation of several rows, or one row's value and its standard error."""
    values = finite(rows[value])
    values = values[~np.isnan(values)]
    if len(values) != 1:
        return (values.mean(), values.std(ddof=1)) if len(values) else (math.nan, math.nan)
    error = math.nan
    if f"{value}_se" in rows.columns:
        error = float(rows[f"{value}_se"].iloc[0])
    elif value == "ratio" and {"sharpness", "sharpness_se"} <= {*rows.columns}:
        one = rows.iloc[0]
        error = abs(values[0] * one["sharpness_se"] / one["sharpness"]) if one["sharpness"] else 0.0
    return values[0], error if math.isfinite(error) else 0.0


@styled
def atlas(
    results: Any,
    *,
    labels: bool = False,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """Sharpness against |slope|: what a direction promises, and at what curvature.

    A quadratic falls by slope²/(2·sharpness) at most, so that grey lines join directions of equal
    promise: further to the lower right is better. Small marks and thin lines are earlier points of
    a comparison, the large mark its last. A triangle on the lower edge is a sharpness that is zero
    or negative, where the quadratic has no minimum.

    Args:
        results: A `Comparison`, a `Point`, or a DataFrame with columns algorithm, slope,
            sharpness and, for several points, step.
        labels: Whether names stand beside the marks, instead of in a legend: for many optimizers.
            In axes of the caller's, whose limits and size must not change any more.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in.

    Returns:
        The figure.

    Raises:
        TypeError: results of another type.
        ValueError: no row, or a missing column.
    """
    frame = table(results, "directions", ("algorithm", "slope", "sharpness"))
    names = names_of(frame)
    style = style_of(style, names)
    canvas = Canvas(height=5.6 if labels else 4.2, figure=figure, ax=ax)
    (axes,) = canvas.axes
    edge = axes.get_xaxis_transform()
    axes.set_xscale("log")
    axes.set_yscale("log")
    marks = {}
    for name in names:
        mine = frame[frame["algorithm"] == name]
        mine = mine.sort_values("step", kind="stable") if "step" in mine.columns else mine
        slope, curvature = finite(mine["slope"]), finite(mine["sharpness"])
        above = (curvature > 0) & (slope != 0)
        x, y = np.abs(slope[above]), curvature[above]
        if len(x) > 1:
            axes.plot(x, y, **style.line(name) | {"linewidth": 0.7, "alpha": 0.6})
            axes.plot(x[:-1], y[:-1], **style.dot(name, style.marker(name) or "o"), markersize=2)
        look = style.dot if style.line(name)["linestyle"] == "-" else style.hollow
        axes.plot(
            x[-1:], y[-1:], **look(name, style.marker(name) or "o") | {"markersize": 7}, zorder=4
        )
        if len(x):
            marks[name] = x[-1], y[-1]
        below = np.abs(slope[(curvature <= 0) & (slope != 0)])
        axes.plot(below, [0.02] * len(below), **style.hollow(name, "v"), transform=edge)
    axes.margins(0.12)
    _equal_decrease(axes)
    plain_log(axes.xaxis)
    plain_log(axes.yaxis)
    axes.set_xlabel("|slope| along the unit direction")
    axes.set_ylabel("sharpness vᵀHv")
    hollow = any(any(clipped(name)) for name in names)
    extra = [key("o", "clipped", hollow=True)] if hollow else []
    canvas.legend(style, [n for n in names if not labels or n not in marks], extra)
    if labels and marks:
        axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
        colours = [style.colour(name) for name in marks]
        _labels.write(axes, [*marks.values()], [label(name) for name in marks], colours)
    return canvas.figure


def _equal_decrease(axes: Axes) -> None:
    """Lines of equal slope²/(2·sharpness), a power of ten each, labelled where they leave."""
    axes.autoscale_view()
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    least, most = left**2 / (2 * high), right**2 / (2 * low)
    first, last = math.ceil(math.log10(least)), math.floor(math.log10(most))
    every = max(1, math.ceil((last - first) / 9))
    for exponent in range(first, last + 1, every):
        decrease = 10.0**exponent
        ends = np.array([left, right])
        axes.plot(ends, ends**2 / (2 * decrease), color="#c4c4c4", linewidth=0.8, zorder=1)
        at_top = math.sqrt(2 * decrease * high)
        x, y = (at_top, high) if at_top < right else (right, right**2 / (2 * decrease))
        said = minus(f"$10^{{{exponent}}}$")
        where = {"ha": "right", "va": "top", "fontsize": TEXT - 1.5, "color": "#777777"}
        axes.annotate(said, (x, y), (-3, -3), textcoords="offset points", **where)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.set_title("grey: equal predicted decrease", color="#777777", fontsize=TEXT - 1)
