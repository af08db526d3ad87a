"""Where a direction's sharpness sits: coordinates, blocks, and the Hessian's diagonal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from sharpjax.plot._canvas import GREY, TEXT, Canvas, minus, plain_log, powers, styled
from sharpjax.plot._frames import style_of
from sharpjax.plot._magnitudes import numbers
from sharpjax.plot.style import Style, label

_BIN = 0.25


@styled
def lorenz(
    found: Mapping[str, Any],
    fractions: Sequence[float],
    *,
    style: Style | None = None,
    figure: Any = None,
) -> Figure:
    """The share of vᵀHv, and of ‖v‖² = 1, that lies in the top coordinates.

    The band is the standard error. A share may leave [0, 1], since coordinates may contribute
    negatively; a direction whose whole sharpness is not two standard errors above zero has no
    share that means anything, is left out on the left, and named there.

    Args:
        found: Name -> `SharpnessByRank`.
        fractions: [F], what `sharpness_by_rank` was called with; the last one should be 1.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.

    Returns:
        The figure.
    """
    style = style_of(style, found)
    canvas = Canvas(1, 2, height=3.2, figure=figure)
    left, right = canvas.axes
    x = 100 * np.asarray(fractions, float)
    whole, unsure = int(np.argmax(x)), []
    for name, ranked in found.items():
        right.plot(x, np.asarray(ranked.squared_norm), **style.line(name, len(x)))
        share, error = np.asarray(ranked.share, float), np.asarray(ranked.sharpness_se, float)
        total = float(np.asarray(ranked.sharpness)[whole]) / float(share[whole] or math.nan)
        if not total > 2 * np.nan_to_num(error[whole]):
            unsure.append(name)
            continue
        left.plot(x, share, **style.line(name, len(x)))
        band = np.nan_to_num(error / total)
        look = {"color": style.colour(name), "alpha": 0.1, "linewidth": 0}
        left.fill_between(x, share - band, share + band, **look)
    for axes, title in ((left, "of the sharpness vᵀHv"), (right, "of the squared length ‖v‖²")):
        axes.axhline(1, color=GREY, linewidth=0.8, zorder=1)
        axes.set_xscale("log")
        plain_log(axes.xaxis, "%")
        axes.set_xlabel("top coordinates")
        axes.set_title("share " + title)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1.0), min(high, 2.0))
    if unsure:
        names = "\n".join(map(label, unsure[:8])) + "\n…" * (len(unsure) > 8)
        text = f"not above two standard errors,\nnot drawn:\n{names}"
        left.text(0.02, 0.98, text, transform=left.transAxes, va="top", fontsize=TEXT - 1)
    canvas.legend(style, found)
    return canvas.figure


@styled
def blocks(
    found: Mapping[str, Any],
    *,
    crossing: bool = False,
    rows: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    figure: Any = None,
) -> Figure:
    """The sharpness within each block of tensors, in per cent of the sum of all magnitudes.

    Blocks whose labels are pairs, such as (layer, kind), make a grid for each direction, whose
    title has the sum within blocks and that of all crossing pairs; together they are vᵀHv. Other
    blocks make one grid, a column a direction.

    Args:
        found: Name -> `BlockSharpness`, all with the same labels.
        crossing: Whether block i is Σⱼ vᵢᵀHᵢⱼvⱼ, with its half of the crossing pairs, not vᵢᵀHᵢᵢvᵢ.
        rows: Order of the labels' first parts (of the labels); by default that of appearance.
        columns: Order of the labels' second parts.
        figure: A figure or subfigure to draw in.

    Returns:
        The figure.

    Raises:
        ValueError: directions with different labels.
    """
    names = list(found)
    labels = list(found[names[0]].labels)
    for name in names:
        if list(found[name].labels) != labels:
            raise ValueError(f"all directions must have the same blocks, {name!r} has others")
    matrices = {name: np.asarray(found[name].matrix, float) for name in names}
    values = {n: m.sum(1) if crossing else np.diagonal(m) for n, m in matrices.items()}
    if not all(isinstance(one, tuple) and len(one) == 2 for one in labels):
        order = [labels.index(one) for one in (rows or labels) if one in labels]
        said = [str(labels[i]) for i in order]
        canvas = Canvas(height=1.4 + 0.2 * len(said), figure=figure)
        grid = np.stack([_per_cent(values[name])[order] for name in names], axis=1)
        _grid(canvas.axes[0], grid, said, [label(name) for name in names])
        return canvas.figure
    rows = [r for r in (rows or dict.fromkeys(a for a, _ in labels)) if r in {a for a, _ in labels}]
    columns = columns or list(dict.fromkeys(b for _, b in labels))
    columns = [c for c in columns if c in {b for _, b in labels}]
    across = min(2, len(names))
    down = math.ceil(len(names) / across)
    canvas = Canvas(down, across, height=0.35 + 0.17 * len(rows), figure=figure)
    canvas.grow(0.8)
    for number, (axes, name) in enumerate(zip(canvas.axes, names, strict=False)):
        grid = np.full((len(rows), len(columns)), np.nan)
        for (row, column), value in zip(labels, _per_cent(values[name]), strict=True):
            grid[rows.index(row), columns.index(column)] = value
        # Kinds above the first panels: below the last ones they would leave a gap.
        top = [str(c) for c in columns] if number < across else []
        _grid(axes, grid, [str(r) for r in rows] if number % across == 0 else [], top)
        within = np.trace(matrices[name])
        across_pairs = matrices[name].sum() - within
        parts = minus(f"{within:.2g} within, {across_pairs:.2g} across")
        axes.set_title(f"{label(name)}: {parts}", fontsize=TEXT - 1.5)
    for axes in canvas.axes[len(names) :]:
        axes.set_axis_off()
    return canvas.figure


def _per_cent(values: np.ndarray) -> np.ndarray:
    return 100 * values / (np.nansum(np.abs(values)) or 1.0)


def _grid(axes: Axes, grid: np.ndarray, rows: list[str], columns: list[str]) -> None:
    """Per cent as shades, with numbers where they are at least half a per cent."""
    limit = np.nanmax(np.abs(grid)) or 1.0
    axes.imshow(grid, cmap="PuOr_r", vmin=-limit, vmax=limit, aspect="auto")
    numbers(axes, grid, limit=limit, form=".0f", least=0.5)
    axes.xaxis.tick_top()
    angle = {"rotation": 60, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(columns)), columns, fontsize=TEXT - 2, **angle)
    axes.set_yticks(range(len(rows)), rows, fontsize=TEXT - 2)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    axes.spines[["left", "bottom"]].set_visible(False)


@styled
def diagonal(
    gradient: Any,
    diagonal: Any,
    *,
    weights: Any = None,
    title: str | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """|Hᵢᵢ| against |gᵢ|, coordinate by coordinate: how many are where, both logarithmic.

    The paper conjectures that large gradient coordinates meet large Hessian coordinates. Bins are a
    quarter of a decade wide. The title has Spearman's rank correlation of the magnitudes; where the
    diagonal is an estimate, its noise correlates as well, and `rank_correlation` says how much.

    Args:
        gradient: The coordinates gᵢ, an array or a pytree of arrays.
        diagonal: The coordinates Hᵢᵢ, like `gradient`.
        weights: How many coordinates each stands for, like `gradient`; 1 by default.
        title: Above the panel, in place of the rank correlation.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in.

    Returns:
        The figure.

    Raises:
        ValueError: different numbers of coordinates.
    """
    x, y = _flat(gradient), _flat(diagonal)
    count = np.ones(len(x)) if weights is None else _flat(weights)
    if not len(x) == len(y) == len(count):
        sizes = f"{len(x)} and {len(y)}"
        raise ValueError(f"gradient and diagonal must have as many coordinates, got {sizes}")
    canvas = Canvas(height=3.8, figure=figure, ax=ax)
    (axes,) = canvas.axes
    inside = (x > 0) & (y > 0) & np.isfinite(x) & np.isfinite(y)
    said = [title] if title is not None else []
    if title is None and weights is None and len(x) > 1:
        from scipy.stats import spearmanr  # Slow to import.

        said.append(minus(f"rank correlation {spearmanr(x, y)[0]:.2f}"))
    if missing := int(count[~inside].sum()):
        said.append(f"{missing:,} exact zeros not drawn")
    axes.set_title("\n".join(said))
    axes.set_xlabel("|gradient coordinate|")
    axes.set_ylabel("|Hessian diagonal|")
    powers(axes.xaxis)
    powers(axes.yaxis)
    if not inside.any():
        return canvas.figure
    logs = np.log10(x[inside]), np.log10(y[inside])
    bins = [np.arange(np.floor(v.min() / _BIN), np.floor(v.max() / _BIN) + 2) * _BIN for v in logs]
    counts, *edges = np.histogram2d(*logs, bins=bins, weights=count[inside])
    shown = np.where(counts > 0, counts, np.nan)
    norm = LogNorm(1, max(counts.max(), 2))
    shades = axes.pcolormesh(*edges, shown.T, cmap="viridis", norm=norm, rasterized=True)
    # Lone coordinates do not stretch the axes.
    for limit, edge, axis in ((axes.set_xlim, edges[0], 1), (axes.set_ylim, edges[1], 0)):
        mass = np.cumsum(counts.sum(axis)) / counts.sum()
        limit(edge[np.searchsorted(mass, 0.002)] - _BIN, edge[-1] + _BIN)
    canvas.figure.colorbar(shades, ax=axes, label="coordinates", shrink=0.9)
    return canvas.figure


def _flat(tree: Any) -> np.ndarray:
    """The magnitudes of all coordinates."""
    leaves = [np.abs(np.asarray(leaf, np.float64)).ravel() for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves) if leaves else np.zeros(0)
