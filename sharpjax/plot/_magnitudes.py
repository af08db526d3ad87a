"""Which magnitudes the coordinates of an update have, and how alike two updates are."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sharpjax._checks import check_choice
from sharpjax.plot._canvas import INK, TEXT, Canvas, minus, plain_log, powers, styled
from sharpjax.plot._frames import last_point, names_of, style_of, table
from sharpjax.plot.style import Style, label

_COLUMNS = ("algorithm", "quantity", "lower", "upper", "count")
_COSINES = {
    "cosine": "cosine of two updates",
    "overlap": "shared top coordinates",
    "curvature": "curvature vᵢᵀHvⱼ",
}


@styled
def histogram(
    results: Any,
    *,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """How many coordinates have which magnitude, both axes logarithmic.

    On the right, or alone with `ax`, every update, divided by its root mean square, since
    optimizers have their own scales. On the left the gradient, where there is one, and another
    quantity as bars where the table has one. What is exactly zero lies left of both axes.

    Args:
        results: A `Point`, a `Comparison` (its last point is drawn), or a DataFrame with columns
            algorithm, quantity ("update", "gradient" or another), lower, upper (log₁₀) and count of
            one point.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw the updates in.

    Returns:
        The figure.

    Raises:
        TypeError: results of another type.
        ValueError: no row, or a missing column.
    """
    frame = last_point(table(results, "histogram", _COLUMNS))
    rows = frame[frame["quantity"] == "update"]
    others = [str(q) for q in frame["quantity"].unique() if q != "update"]
    if "trajectory" in frame.columns and frame["trajectory"].nunique() > 1:
        others = []  # Each optimizer where it is has a gradient of its own.
    names = names_of(rows)
    style = style_of(style, names)
    both = ax is None and bool(others) and bool(names)
    canvas = Canvas(1, 1 + both, height=3.2, figure=figure, ax=ax)
    if others and ax is None:
        _sources(canvas.axes[0], frame, others, style)
    if names:
        axes = canvas.axes[-1]
        for name in names:
            mine = rows[rows["algorithm"] == name]
            x, y = _outline(mine)
            look = style.line(name, len(x)) | {"linewidth": 1.2}
            axes.plot(x - _log_rms(mine), y, **look)
        _axes(axes, "|update| / its root mean square")
        axes.set_title("every optimizer’s update")
    canvas.axes[0].set_ylabel("coordinates")
    canvas.legend(style, names)
    return canvas.figure


def _sources(axes: Axes, frame: Any, quantities: list[str], style: Style) -> None:
    """What the updates are made of: the gradient as a line, SGD's momentum as bars."""
    titles = []
    for quantity in quantities:
        rows = frame[frame["quantity"] == quantity]
        if quantity == "gradient":
            axes.plot(*_outline(rows), color=INK, linewidth=1.1, zorder=3)
            titles.append("gradient (line)")
            continue
        owner = next(iter(names_of(rows)), "")
        colour = style.colour(owner)
        low = rows["lower"].to_numpy(float)
        inner = rows[np.isfinite(low) & (rows["count"].to_numpy() > 0)]
        if len(inner):
            width = (inner["upper"] - inner["lower"]).iloc[0]
            look = {"align": "edge", "color": colour, "edgecolor": colour, "linewidth": 0.4}
            axes.bar(inner["lower"], inner["count"], width, **look)
        titles.insert(0, f"{label(owner)}’s {quantity} (bars)" if owner else f"{quantity} (bars)")
        least = rows[~np.isfinite(low)]
        if len(least):
            share = 100 * least["count"].sum() / rows["count"].sum()
            text = f"{share:.3g} % zero or\nbelow $10^{{{least['upper'].max():g}}}$"
            axes.text(0.03, 0.97, text, transform=axes.transAxes, va="top", fontsize=TEXT - 1)
    _axes(axes, "magnitude")
    axes.set_title(", ".join(titles))


def _axes(axes: Axes, xlabel: str) -> None:
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.6)  # One coordinate shows; none falls off.
    plain_log(axes.yaxis)
    powers(axes.xaxis)
    axes.set_xlabel(xlabel)


def _outline(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Middles and counts of the bins, with the empty ones, that are not recorded, beside gaps."""
    values = rows[["lower", "upper", "count"]].to_numpy(float)
    values = values[np.isfinite(values).all(axis=1) & (values[:, 2] > 0)]
    x, y, end = [], [], math.inf
    for lower, upper, count in values[np.argsort(values[:, 0])]:
        half = (upper - lower) / 2
        if lower > end + half:
            x += [end + half, lower - half]
            y += [0, 0]
        x.append(lower + half)
        y.append(count)
        end = upper
    return np.array(x), np.array(y)


def _log_rms(rows: Any) -> float:
    """log₁₀ of the root mean square of the binned magnitudes."""
    x, y = _outline(rows)
    return math.log10(np.sum(y * 100**x) / rows["count"].sum()) / 2 if len(x) else 0.0


@styled
def cosines(
    results: Any,
    *,
    values: Sequence[str] = ("cosine", "overlap"),
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """How alike the updates are, pair by pair.

    Args:
        results: A `Point`, a `Comparison` (its last point is drawn), or a DataFrame with columns
            algorithm, other and `values` of one point.
        values: "cosine" of the two updates, "overlap" (of the row's top coordinates, the share that
            is among the column's), "curvature" between their unit directions; a panel each, those
            that were not measured left out.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in, for one panel.

    Returns:
        The figure.

    Raises:
        TypeError: results of another type.
        ValueError: no row, an unknown value, none that was measured, or several and one `ax`.
    """
    for value in values:
        check_choice("values", value, tuple(_COSINES))
    frame = last_point(table(results, "cosines", ("algorithm", "other", *values)))
    shown = [value for value in values if frame[value].notna().any()]
    if not shown:
        raise ValueError(f"none of {list(values)} was measured at this point")
    if ax is not None and len(shown) > 1:
        raise ValueError(f"ax is for one panel: values must be one, got {list(values)}")
    names = names_of(frame)
    grids = {v: _grid(frame, v, names) for v in shown}
    across = 2 if len(shown) > 1 and len(names) <= 8 else 1
    down = math.ceil(len(shown) / across)
    height = 3.7 if len(names) <= 8 else 2.0 + 0.13 * len(names)
    canvas = Canvas(down, across, height=height, figure=figure, ax=ax)
    for number, (axes, (value, grid)) in enumerate(zip(canvas.axes, grids.items(), strict=False)):
        limit = np.nanmax(np.abs(grid)) or 1.0
        low, high = {"cosine": (-1, 1), "overlap": (0, 1)}.get(value, (-limit, limit))
        colours = "Blues" if value == "overlap" else "PuOr_r"
        shades = axes.imshow(grid, cmap=colours, vmin=low, vmax=high, aspect="auto")
        size = TEXT - 1.5 if len(names) <= 12 else 5
        said = [label(name) for name in names]
        axes.set_xticks(range(len(names)), said, rotation=90, fontsize=size)
        axes.set_yticks(range(len(names)), said if number % across == 0 else [], fontsize=size)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.set_title(_COSINES[value])
        if len(names) <= 8:
            numbers(axes, grid, limit=max(abs(low), abs(high)), form=".2g")
        else:
            canvas.figure.colorbar(shades, ax=axes, shrink=0.7)
    for axes in canvas.axes[len(shown) :]:
        axes.set_axis_off()
    return canvas.figure


def _grid(frame: Any, value: str, names: list[str]) -> np.ndarray:
    grid = np.full((len(names), len(names)), np.nan)
    at = {name: i for i, name in enumerate(names)}
    for name, other, found in frame[["algorithm", "other", value]].itertuples(index=False):
        grid[at[name], at[other]] = found
    return grid


def numbers(axes: Axes, grid: np.ndarray, *, limit: float, form: str, least: float = 0.0) -> None:
    """Writes into each cell of an image what it is, where it is at least so large."""
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value) and abs(value) >= least:
            ink = "white" if abs(value) > 0.65 * limit else "#222222"
            text = minus(format(float(value), form))
            axes.text(j, i, text, ha="center", va="center", fontsize=TEXT - 3, color=ink)
