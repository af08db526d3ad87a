"""Training losses."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sharpjax.plot._canvas import Canvas, key, styled
from sharpjax.plot._frames import by, finite, names_of, panel_title, style_of, table
from sharpjax.plot.style import Style, clipped

_DOTTED = 60  # Lines of so many points have a dot on each.


@styled
def convergence(
    results: Any,
    *,
    x: str = "step",
    smooth: int | None = None,
    panels: Sequence[str] = (),
    title: Callable[[tuple], str] | None = None,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """The training loss of each trajectory.

    Rows that share a step (seeds, or the batches of an epoch) are averaged. A cross is where a loss
    was no longer finite, on the upper edge if it had left the picture before; the axis ends a
    little above where the trajectories start.

    Args:
        results: A `Comparison`, or a DataFrame with columns `x`, algorithm and loss; a loss that is
            not finite is a run that diverged there.
        x: The column of the horizontal axis.
        smooth: Each point is the mean over so many steps; None takes a hundredth of them.
        panels: Columns whose combinations have a panel each.
        title: Their values -> what stands above the panel.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in, for one panel.

    Returns:
        The figure.

    Raises:
        TypeError: results of another type.
        ValueError: no row, a missing column, or several panels and one `ax`.
    """
    frame = table(results, "convergence", (x, "algorithm", "loss"))
    cells = by(frame, panels)
    if ax is not None and len(cells) > 1:
        raise ValueError(f"ax is for one panel, and there are {len(cells)}: {[*cells]}")
    names = names_of(frame)
    style = style_of(style, names)
    canvas = Canvas(len(cells), height=3.4, figure=figure, ax=ax)
    crossed = False
    for axes, (at, rows) in zip(canvas.axes, cells.items(), strict=True):
        crossed |= _panel(axes, rows, x, smooth, style)
        axes.set_title(panel_title(title, at))
        axes.set_ylabel("training loss")
    canvas.axes[-1].set_xlabel(x)
    canvas.legend(style, names, [key("x", "diverged")] if crossed else [])
    return canvas.figure


def _panel(axes: Axes, rows: Any, x: str, smooth: int | None, style: Style) -> bool:
    """Draws the curves; whether one of them diverged."""
    names = names_of(rows)
    curves, lost = {}, {}
    for name in names:
        mine = rows[rows["algorithm"] == name]
        known = mine[~np.isnan(finite(mine["loss"]))]
        if len(known) < len(mine):
            lost[name] = float(mine[np.isnan(finite(mine["loss"]))][x].min())
        mean = known.groupby(x)["loss"].mean()
        width = max(1, len(mean) // 100) if smooth is None else smooth
        curves[name] = _smoothed(mean.index.to_numpy(float), mean.to_numpy(float), width)
    # A run that explodes before it diverges would flatten all the others: it leaves at the top.
    top = 1.05 * max((y[0] for _, y in curves.values() if len(y)), default=1.0)
    for name, (at, loss) in curves.items():
        if len(at):
            dots = {"marker": "o", "markersize": 3.5} if len(at) <= _DOTTED else {}
            if dots and any(clipped(name)):
                # A hollow dot is seen on the line of an unclipped form that runs the same way.
                dots["markerfacecolor"] = "white"
            axes.plot(at, loss, **dots | style.line(name, len(at)))
        if name in lost:
            step, end = (at[-1], loss[-1]) if len(at) else (lost[name], math.inf)
            look = {**style.dot(name, "x"), "markersize": 9, "markeredgewidth": 2}
            axes.plot(step, min(end, 0.99 * top), **look)
    if any(loss.max(initial=-math.inf) > top for _, loss in curves.values()):
        axes.set_ylim(max(0.0, axes.get_ylim()[0]), top)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    return bool(lost)


def _smoothed(x: np.ndarray, y: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over consecutive runs of `width` points, the last one of what is left."""
    if width <= 1 or not len(y):
        return x, y
    starts = np.arange(0, len(y), width)
    counts = np.diff(np.append(starts, len(y)))
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts
