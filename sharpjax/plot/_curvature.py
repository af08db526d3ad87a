"""What the curvature is made of: its spectrum, its Gauss-Newton part, and the span of updates."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from sharpjax.plot._canvas import GREY, INK, TEXT, Canvas, key, plain_log, styled
from sharpjax.plot._frames import finite, style_of, table
from sharpjax.plot.style import Style, label
from sharpjax.spectrum import Spectrum, spectral_density
from sharpjax.subspace import span_step


@styled
def spectrum(
    found: Any,
    marks: Mapping[str, float] | None = None,
    *,
    edge: float | None = None,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """The density of the Hessian's eigenvalues, and where each direction's sharpness lies in it.

    Each Ritz value is blurred by 15 % of its size, as the axis widens with it. The edges are
    resolved best; near zero a hump stands for very many eigenvalues. The band is the standard error
    over random starts. Of `BlockSpectra`, each block's density is a row of shades.

    Args:
        found: A `Spectrum`, or `BlockSpectra`.
        marks: Name -> sharpness, drawn as a line of the optimizer's colour.
        edge: Where stability ends, such as `adaptive_edge` of a preconditioned spectrum: dashed.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in.

    Returns:
        The figure.
    """
    marks = {name: float(value) for name, value in (marks or {}).items()}
    style = style_of(style, marks)
    values, weights = np.asarray(found.eigenvalues, float), np.asarray(found.weights, float)
    grouped = hasattr(found, "labels")
    rows = len(found.labels) if grouped else 0
    height = 1.3 + 0.22 * rows if grouped else 3.4
    canvas = Canvas(height=max(height, 2.4), figure=figure, ax=ax)
    (axes,) = canvas.axes
    low, high = float(values.min()), float(values.max())
    right = high if edge is None else max(high, float(edge))
    reach = max(abs(low), abs(right)) or 1.0
    # Linear within what Lanczos resolves and directions reach.
    heavy = np.abs(values[(weights > 1e-4) & (values != 0)])
    seen = [abs(v) for v in marks.values() if v and math.isfinite(v)]
    inner = max(reach * 1e-5, 0.3 * min([reach, *heavy, *seen]))
    grid = _symlog_grid(min(low, -inner), max(right, inner), inner)
    if grouped:
        densities = [_density(v, w, grid, inner)[0] for v, w in zip(values, weights, strict=True)]
        shades = np.log10(np.maximum(densities, np.max(densities) * 1e-8))
        axes.pcolormesh(grid, np.arange(rows), shades, cmap="Greys", shading="nearest")
        said = [" ".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in found.labels]
        axes.set_yticks(range(rows), said, fontsize=TEXT - 1.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.grid(visible=False)
        distance = float(np.asarray(found.distance).mean())
        axes.set_title(f"mean Jensen–Shannon distance between blocks: {distance:.3g}")
    else:
        density, error = _density(values, weights, grid, inner)
        bottom = max(density.max() * 1e-9, 1e-12)
        axes.plot(grid, density, color=INK, linewidth=1.2)
        least, most = np.maximum(density - error, bottom), density + error
        axes.fill_between(grid, least, most, color=INK, alpha=0.15, linewidth=0)
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom, density.max() * 30)
        axes.set_ylabel("density of eigenvalues")
        axes.axvline(high, color=GREY, linewidth=0.8)
        at = {"transform": axes.get_xaxis_transform(), "ha": "right", "va": "top"}
        axes.text(high, 0.98, "λ max ", **at)
    if edge is not None:
        axes.axvline(float(edge), color=INK, linewidth=1, linestyle=(0, (4, 2)))
        at = {"transform": axes.get_xaxis_transform(), "ha": "right", "va": "top"}
        axes.text(float(edge), 0.91, "edge ", **at)
    _symlog_axis(axes, min(low, -inner), max(right, inner), inner)
    for name, value in marks.items():
        if math.isfinite(value):
            axes.axvline(value, ymin=0.0, ymax=0.9, **style.line(name))
    coloured = "; coloured: sharpness of each direction" if marks else ""
    axes.set_xlabel("eigenvalue" + coloured)
    canvas.legend(style, [n for n, v in marks.items() if math.isfinite(v)])
    return canvas.figure


def _symlog_grid(low: float, high: float, inner: float) -> np.ndarray:
    reach = 1.5 * max(-low, high)
    magnitudes = np.geomspace(inner, reach, 400)
    grid = np.concatenate([-magnitudes[::-1], np.linspace(-inner, inner, 41)[1:-1], magnitudes])
    return grid[(grid > 1.5 * low) & (grid < 1.5 * high)]


def _density(values, weights, grid, inner) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the random starts, and its standard error, 0 with one."""
    width = np.maximum(0.15 * np.abs(grid), inner / 2)
    starts = Spectrum(values, weights, np.zeros_like(values), values.shape[-1])
    density, error = spectral_density(starts, grid, width)
    return np.asarray(density, float), np.nan_to_num(np.asarray(error, float))


def _symlog_axis(axes: Axes, low: float, high: float, inner: float) -> None:
    axes.set_xscale("symlog", linthresh=inner, linscale=0.5)
    first, last = math.ceil(math.log10(2 * inner)), math.ceil(math.log10(1.6 * max(high, -low)))
    decades = [10.0**k for k in range(first, last, max(1, (last - first) // 4))]
    axes.set_xticks(sorted([0.0, *decades, *(-d for d in decades)]))
    axes.set_xlim(1.6 * low, 1.6 * high)
    axes.xaxis.set_minor_locator(NullLocator())


@styled
def gauss_newton(
    found: Mapping[str, Any],
    *,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """Each direction's sharpness, its Gauss-Newton part and the residual, logarithmic.

    Hollow marks are negative. The bar is the standard error.

    Args:
        found: Name -> `GaussNewton`.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in.

    Returns:
        The figure.
    """
    style = style_of(style, found)
    canvas = Canvas(height=max(2.6, 0.6 + 0.36 * len(found)), figure=figure, ax=ax)
    (axes,) = canvas.axes
    kinds = (("sharpness", -0.2, "s"), ("gauss_newton", 0.0, "o"), ("residual", 0.2, "^"))
    for y, (name, parts) in enumerate(found.items()):
        for field, shift, marker in kinds:
            value, error = float(getattr(parts, field)), float(getattr(parts, f"{field}_se"))
            if not math.isfinite(value) or value == 0:
                continue
            error = min(error, 0.999 * abs(value)) if math.isfinite(error) else 0.0
            colour = style.colour(name)
            look = {"color": colour, "markerfacecolor": colour if value > 0 else "white"}
            at = abs(value), y + shift
            axes.errorbar(*at, xerr=error, fmt=marker, markersize=5.5, linewidth=1, **look)
    axes.set_xscale("log")
    plain_log(axes.xaxis)
    _names(axes, [label(name) for name in found])
    axes.set_xlabel("magnitude; hollow: negative")
    marks = (("s", "sharpness vᵀHv"), ("o", "Gauss–Newton vᵀGv"), ("^", "residual"))
    canvas.legend(None, (), [key(*mark) for mark in marks])
    return canvas.figure


@styled
def span(
    found: Any,
    decreases: Any,
    *,
    style: Style | None = None,
    figure: Any = None,
) -> Figure:
    """How far down each direction goes, and the curvature within the span of all of them.

    On the left the best decrease along each direction, beside what its quadratic model promises
    and, where it is known, what the loss does at the model's step; a triangle lies outside the
    axis. On the right the Hessian's eigenvalues within the span, with their standard errors;
    filled: surely positive, so that the best step in the span goes along them.

    Args:
        found: A `SpanModel`, or the `SpanStep` that `span_step` makes of one.
        decreases: Name -> `LineSearch`, or a DataFrame with columns algorithm, best_decrease,
            predicted_decrease, and model_decrease if known. The name "span" is the best step in the
            span.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.

    Returns:
        The figure.
    """
    step = span_step(found) if hasattr(found, "curvature") else found
    rows = _decreases(found, step, decreases)
    style = style_of(style, (name for name, *_ in rows if name != "span"))
    height = max(2.8, 0.9 + 0.27 * len(rows))
    canvas = Canvas(1, 2, height=height, figure=figure, width_ratios=(1.5, 1))
    left, right = canvas.axes
    top = 1.6 * max((best for _, best, *_ in rows if best > 0), default=1.0)
    for y, (name, best, predicted, model) in enumerate(rows):
        left.barh(y, best, height=0.6, color=style.colour(name), alpha=0.85)
        for value, marker in ((predicted, "D"), (model, "o")):
            if math.isfinite(value):
                marker = ">" if value > top else "<" if value < -0.2 * top else marker
                at = min(max(value, -0.2 * top), top)
                left.plot(at, y, **style.hollow(name, marker), zorder=4, clip_on=False)
    _names(left, ["best in the span" if n == "span" else label(n) for n, *_ in rows])
    left.set_xlim(-0.2 * top, top)
    left.axvline(0, color=GREY, linewidth=0.8)
    left.xaxis.set_major_locator(MaxNLocator(5))
    left.set_xlabel("decrease of the test loss")
    left.set_title("how far down")
    values, errors = finite(step.eigenvalues), np.nan_to_num(finite(step.eigenvalues_se))
    for i, (value, error, kept) in enumerate(zip(values, errors, step.kept, strict=True)):
        look = {"color": INK, "markerfacecolor": INK if kept else "white"}
        right.errorbar(i + 1, value, error, fmt="o", markersize=5.5, linewidth=1, **look)
    right.set_yscale("symlog", linthresh=max(np.nanmax(np.abs(values), initial=0) * 1e-4, 1e-12))
    right.yaxis.set_minor_locator(NullLocator())
    right.axhline(0, color=GREY, linewidth=0.8)
    right.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    right.set_xlabel("eigenvector within the span")
    right.set_title("curvature; filled: trusted")
    marks = [key("s", "best along the direction")]
    marks.append(key("D", "the quadratic model’s promise", hollow=True))
    if any(math.isfinite(model) for *_, model in rows):
        marks.append(key("o", "the loss at the model’s step", hollow=True))
    canvas.legend(None, (), marks)
    return canvas.figure


def _decreases(found: Any, step: Any, decreases: Any) -> list[tuple[str, float, float, float]]:
    """(name, best, predicted, at the model's step) of each direction; NaN where it is unknown."""
    if not isinstance(decreases, Mapping):
        needs = ("algorithm", "best_decrease", "predicted_decrease")
        frame = table(decreases, "decreases", needs)
        if "model_decrease" not in frame.columns:
            frame = frame.assign(model_decrease=math.nan)
        return list(frame[[*needs, "model_decrease"]].itertuples(index=False, name=None))
    promised = {"span": float(step.predicted_decrease)}
    if hasattr(found, "curvature"):
        for i, name in enumerate(found.names):
            slope, curvature = float(found.slopes[i]), float(found.curvature[i, i])
            promised[name] = slope**2 / (2 * curvature) if curvature > 0 else math.nan
    return [
        (name, float(search.best_decrease), promised.get(name, math.nan), math.nan)
        for name, search in decreases.items()
    ]


def _names(axes: Axes, said: list[str]) -> None:
    axes.set_yticks(range(len(said)), said)
    axes.set_ylim(len(said) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
