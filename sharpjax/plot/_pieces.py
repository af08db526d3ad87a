"""What a direction becomes when it is clipped, and which parts of a loss make its curvature."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from sharpjax.plot._canvas import GREY, Canvas, plain_log, styled
from sharpjax.plot._frames import finite, style_of
from sharpjax.plot.style import COLOURS, MORE_COLOURS, Style

_CURVES = (*COLOURS.values(), *MORE_COLOURS)
_QUANTITIES = {
    "slope": "|slope|",
    "sharpness": "sharpness",
    "best_decrease": "best decrease of the test loss",
}


@styled
def clip_curve(
    found: Any,
    *,
    mark: float | None = 0.05,
    mark_label: str = "5 %",
    looks: Mapping[str, Mapping[str, Any]] | None = None,
    figure: Any = None,
) -> Figure:
    """Slope, sharpness and best decrease of a direction over the clipped fraction.

    The filled mark is each curve's best fraction; a thin line is the unclipped direction.

    Args:
        found: A list of `ClipPoint`, or a DataFrame with columns fraction, slope, sharpness and
            best_decrease; or name -> one of them, a curve each.
        mark: A fraction to mark by a vertical line; None marks none.
        mark_label: What the legend calls it.
        looks: Name -> keywords of `Axes.plot`, such as color and linestyle.
        figure: A figure or subfigure to draw in.

    Returns:
        The figure.
    """
    given_curves = found if isinstance(found, Mapping) else {"": found}
    curves = {name: _curve(points) for name, points in given_curves.items()}
    given = looks or {}
    looks = {
        name: {"color": _CURVES[i % len(_CURVES)], "linestyle": "-", **given.get(name, {})}
        for i, name in enumerate(curves)
    }
    canvas = Canvas(3, 1, height=1.75, figure=figure, sharex=True)
    unclipped = False
    for axes, (field, title) in zip(canvas.axes, _QUANTITIES.items(), strict=True):
        values = []
        for name, curve in curves.items():
            y = np.abs(curve[field]) if field == "slope" else curve[field]
            clips = curve["fraction"] > 0
            axes.plot(100 * curve["fraction"][clips], y[clips], **looks[name])
            for level in y[~clips]:
                unclipped = True
                axes.axhline(level, linewidth=0.7, alpha=0.6, color=looks[name]["color"])
            if field == "best_decrease" and np.isfinite(y[clips]).any():
                best = int(np.nanargmax(np.where(clips, finite(y), np.nan)))
                at = 100 * curve["fraction"][best], y[best]
                axes.plot(*at, "o", markersize=6, color=looks[name]["color"])
            values += [float(v) for v in y if math.isfinite(v)]
        if mark is not None:
            axes.axvline(100 * mark, color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
        _limits(axes, field == "sharpness", values)
        axes.set_title(title)
    axes = canvas.axes[-1]
    axes.set_xscale("log")
    plain_log(axes.xaxis, "%")
    axes.set_xlabel("clipped coordinates")
    grey = {"color": GREY, "linewidth": 0.8}
    handles = [Line2D([], [], label=name, **looks[name]) for name in curves if name]
    handles += [Line2D([], [], ls=(0, (3, 2)), label=mark_label, **grey)] * (mark is not None)
    handles += [Line2D([], [], label="unclipped", **grey)] * unclipped
    canvas.legend(None, (), handles)
    return canvas.figure


def _curve(points: Any) -> dict[str, np.ndarray]:
    """A curve's columns, in the order of its fractions."""
    if hasattr(points, "columns"):
        curve = {c: points[c].to_numpy(float) for c in ("fraction", *_QUANTITIES)}
    else:
        rows = [
            (p.fraction, p.stats.slope, p.stats.sharpness, p.search.best_decrease) for p in points
        ]
        columns = zip(*(map(float, row) for row in rows), strict=True)
        curve = dict(zip(("fraction", *_QUANTITIES), map(np.array, columns), strict=True))
    order = np.argsort(curve["fraction"])
    return {name: values[order] for name, values in curve.items()}


def _limits(axes: Axes, logarithmic: bool, known: list[float]) -> None:
    if logarithmic and known:
        if min(known) <= 0:
            axes.set_yscale("symlog", linthresh=max(map(abs, known)) / 100 or 1)
            axes.yaxis.set_minor_locator(NullLocator())
        else:
            axes.set_yscale("log")
            plain_log(axes.yaxis)
    elif known:
        axes.set_ylim(0, 1.08 * max(known) or 1)


@styled
def parts(
    found: Mapping[str, Any],
    labels: Sequence[str] | None = None,
    *,
    style: Style | None = None,
    figure: Any = None,
) -> Figure:
    """Which parts of a loss make each direction's slope and sharpness.

    Shares of the sums over all parts' magnitudes, so that they stay within [−1, 1]; the bar is the
    standard error. A positive share of the slope goes downhill.

    Args:
        found: Name -> `PartStats`, arrays [P].
        labels: [P], what the parts are; by default their numbers.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.

    Returns:
        The figure.

    Raises:
        ValueError: as many labels as there are not parts.
    """
    count = len(np.asarray(next(iter(found.values())).slope))
    said = [str(i + 1) for i in range(count)] if labels is None else [str(one) for one in labels]
    if len(said) != count:
        raise ValueError(f"labels must have one for each of {count} parts, got {len(said)}")
    style = style_of(style, found)
    canvas = Canvas(2, 1, height=2.3, figure=figure, sharex=True)
    panels = (("slope", -1, "share of the slope"), ("sharpness", 1, "share of the sharpness"))
    for axes, (field, sign, title) in zip(canvas.axes, panels, strict=True):
        for index, (name, stats) in enumerate(found.items()):
            values = finite(getattr(stats, field))
            errors = np.nan_to_num(finite(getattr(stats, f"{field}_se")))
            scale = np.nansum(np.abs(values)) or 1.0
            x = np.arange(count) + (index - (len(found) - 1) / 2) * min(0.06, 0.5 / len(found))
            look = {"marker": "o", "markersize": 3.5, "elinewidth": 0.9} | style.line(name)
            axes.errorbar(x, sign * values / scale, errors / scale, **look)
        axes.axhline(0, color=GREY, linewidth=0.8, zorder=1)
        axes.set_title(title)
    axes = canvas.axes[-1]
    wide = sum(map(len, said)) > 60
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if wide else {}
    axes.set_xticks(range(count), said, **turned)
    axes.set_xlabel("part of the loss")
    canvas.legend(style, found)
    return canvas.figure


@styled
def plane(
    found: Any,
    names: tuple[str, str] = ("a", "b"),
    *,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """The loss over the plane of two updates, as lines of equal loss, with both directions.

    The first update points along x, the part of the second that is orthogonal to it along y. A dot
    on a direction is where the update itself leads; an arrow at the border, that it leads beyond.
    The cross is the least loss on the grid. Levels are close together where the loss is low.

    Args:
        found: A `LossPlane`: losses [Y, X] at x [X] and y [Y]; `of_a` and `of_b` are the updates'
            (x, y).
        names: What the two updates are called.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in.

    Returns:
        The figure.
    """
    style = style_of(style, names)
    canvas = Canvas(height=4.6, figure=figure, ax=ax)
    (axes,) = canvas.axes
    x, y, losses = (finite(value) for value in (found.x, found.y, found.losses))
    low, start = np.nanmin(losses), _at_origin(x, y, losses)
    # Up to three times as far above the start as the least loss is below it.
    most = min(np.nanmax(losses), start + 3 * max(start - low, 1e-12 + 1e-6 * abs(start)))
    levels = low + (most - low) * np.linspace(0, 1, 18) ** 1.5
    levels = np.unique(levels)
    if len(levels) > 1:
        shades = axes.contourf(x, y, losses, levels=levels, cmap="Blues_r", extend="max")
        axes.contour(x, y, losses, levels=levels, colors="white", linewidths=0.4)
        axes.contour(x, y, losses, levels=[start], colors=GREY, linewidths=1.2)
        said = "loss; grey line: as at the start"
        canvas.figure.colorbar(shades, ax=axes, label=said, ticks=levels[::4], format="%.4g")
    row, column = np.unravel_index(np.nanargmin(losses), losses.shape)
    axes.plot(x[column], y[row], "x", color="white", markersize=8, markeredgewidth=1.8)
    for name, end in zip(names, (found.of_a, found.of_b), strict=True):
        tip = np.asarray(end, float)
        border = _to_border(tip, x, y)
        axes.plot([0, border[0]], [0, border[1]], **style.line(name) | {"marker": ""})
        inside = np.linalg.norm(tip) <= np.linalg.norm(border)
        if inside:
            axes.plot(*tip, **style.dot(name), markersize=7, markeredgecolor="white", zorder=4)
        else:
            arrow = {"arrowstyle": "-|>", "color": style.colour(name), "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", border, 0.9 * border, arrowprops=arrow)
    axes.set_xlim(x[0], x[-1])
    axes.set_ylim(y[0], y[-1])
    # Angles are true unless that would leave a sliver.
    if 0.25 < np.ptp(x) / np.ptp(y) < 4:
        axes.set_aspect("equal", adjustable="box")
    axes.grid(visible=False)
    axes.set_xlabel("distance along the first update")
    axes.set_ylabel("orthogonal to it, towards the second")
    canvas.legend(style, names)
    return canvas.figure


def _to_border(tip: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where the ray from the origin through `tip` leaves the grid."""
    reach = [
        (edge[-1] if part > 0 else edge[0]) / part
        for part, edge in zip(tip, (x, y), strict=True)
        if part != 0
    ]
    return tip * min(reach, default=0.0)


def _at_origin(x: np.ndarray, y: np.ndarray, losses: np.ndarray) -> float:
    """The loss at the grid point next to the origin."""
    return float(losses[int(np.argmin(np.abs(y))), int(np.argmin(np.abs(x)))])
