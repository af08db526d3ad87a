"""The anatomy's figures of where the sharpness sits: coordinates, blocks, and the conjecture."""

import math
from collections.abc import Callable

import numpy as np
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments import algorithms
from experiments.anatomy_records import BIN, Block, Correlation, Density, Lorenz, by_algorithm
from experiments.look import Look
from experiments.places import KINDS


def lorenz_figure(rows: dict[type, list]) -> Figure:
    """The share of vᵀHv, and of ‖v‖², in the top coordinates of the gradient."""
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn, unsure = [], []
    curves = by_algorithm(rows[Lorenz])
    look = Look(curves)
    for algorithm, curve in curves.items():
        x = [100 * r.fraction for r in curve]
        total = curve[-1]
        right.plot(x, [r.squared_norm for r in curve], **look.line(algorithm))
        drawn.append(algorithm)
        if not total.sharpness > 2 * (0 if math.isnan(total.sharpness_se) else total.sharpness_se):
            unsure.append(algorithm)
            continue
        y = np.array([r.share for r in curve])
        error = np.nan_to_num([r.sharpness_se / total.sharpness for r in curve])
        left.plot(x, y, **look.line(algorithm))
        left.fill_between(x, y - error, y + error, color=look.colour(algorithm), alpha=0.1, lw=0)
    for axes, title in ((left, "of the sharpness vᵀHv"), (right, "of the squared length ‖v‖²")):
        axes.axhline(1, color="#999999", linewidth=0.8, zorder=1)
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_xlabel("top coordinates by |gradient|")
        axes.set_title("Share " + title)
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -1.0), min(high, 2.0))
    if unsure:
        names = "\n".join(map(algorithms.label, unsure))
        text = f"not above two standard errors,\nnot drawn:\n{names}"
        left.text(0.02, 0.98, text, transform=left.transAxes, va="top", fontsize=8)
    look.legend(figure, drawn, [])
    return figure


def block_figure(rows: dict[type, list], crossing: bool = False) -> Figure:
    """Layer × kind for each algorithm: the parts within, or with half of the crossing ones."""
    blocks = by_algorithm(rows[Block])
    names = list(blocks)
    first = blocks[names[0]]
    layers = _layers([r.layer for r in first])
    kinds = [k for k in KINDS if any(r.kind == k for r in first)]
    across, size = 2, 0.2 * len(layers)
    down = math.ceil(len(names) / across)
    width = 1.4 + across * (0.33 * len(kinds) + 0.2)
    figure = Figure(figsize=(width, 0.9 + down * (size + 0.35)), layout="constrained")
    for place, algorithm in enumerate(names, start=1):
        axes = figure.add_subplot(down, across, place)
        grid = np.full((len(layers), len(kinds)), np.nan)
        within = total = 0.0
        for r in blocks[algorithm]:
            own = (r.layer, r.kind) == (r.other_layer, r.other_kind)
            cell = layers.index(r.layer), kinds.index(r.kind)
            total += r.sharpness
            within += r.sharpness if own else 0
            if own or crossing:
                grid[cell] = np.nan_to_num(grid[cell]) + r.sharpness
        scale = np.nansum(np.abs(grid)) or 1.0
        grid *= 100 / scale
        limit = np.nanmax(np.abs(grid)) or 1.0
        norm = TwoSlopeNorm(0, -limit, limit)
        axes.imshow(grid, cmap="PuOr_r", norm=norm, aspect="auto")
        for (i, j), value in np.ndenumerate(grid):
            if np.isfinite(value) and abs(value) >= 0.5:
                ink = "white" if abs(value) > 0.7 * limit else "#222222"
                text = f"{value:.0f}".replace("-", "−")
                axes.text(j, i, text, ha="center", va="center", fontsize=7, color=ink)
        top = place <= across  # Above the first panels: below the last ones would leave a gap.
        axes.xaxis.tick_top()
        axes.set_xticks(range(len(kinds)), kinds if top else [], rotation=60, ha="left")
        axes.set_yticks(range(len(layers)), layers if place % across else [])
        axes.tick_params(length=0, labelsize=8)
        axes.grid(visible=False)
        name = algorithms.label(algorithm)
        parts = f"{within:.2g} within, {total - within:.2g} across".replace("-", "−")
        axes.set_title(f"{name}: {parts}", fontsize=9)
    return figure


def density_figure(rows: dict[type, list]) -> Figure:
    """|gᵢ| against |Hᵢᵢ|: counts, and the rank correlation."""
    names = list(dict.fromkeys(r.gradient for r in rows[Density]))
    figure = Figure(figsize=(4.9 * len(names), 4.4), layout="constrained")
    finite = [r for r in rows[Density] if math.isfinite(r.log_gradient + r.log_diagonal)]
    most = max((r.count for r in finite), default=1)
    shown = axes = None
    for place, name in enumerate(names, start=1):
        axes = figure.add_subplot(1, len(names), place)
        mine = [r for r in finite if r.gradient == name]
        if not mine:
            axes.set_axis_off()
            continue
        x, x_at = _bins([r.log_gradient for r in mine])
        y, y_at = _bins([r.log_diagonal for r in mine])
        counts = np.full((len(y), len(x)), np.nan)
        for r in mine:
            counts[y_at(r.log_diagonal), x_at(r.log_gradient)] = r.count
        edges = np.append(x, x[-1] + BIN), np.append(y, y[-1] + BIN)
        norm = LogNorm(1, max(most, 2))
        shown = axes.pcolormesh(*edges, counts, cmap="viridis", norm=norm, rasterized=True)
        for limit in (axes.set_xlim, axes.set_ylim):  # Lone coordinates do not stretch the axes.
            values = x if limit == axes.set_xlim else y
            axis = 0 if limit == axes.set_xlim else 1
            mass = np.cumsum(np.nansum(counts, axis=axis)) / np.nansum(counts)
            limit(values[np.searchsorted(mass, 0.002)] - BIN, values[-1] + 2 * BIN)
        zeros = sum(r.count for r in rows[Density] if r.gradient == name) - sum(
            r.count for r in mine
        )
        said = {r.scope: r for r in rows[Correlation] if r.gradient == name}
        lines = [
            f"{scope}: ρ = {r.correlation:.2f}, of noise alone {r.control:.2f}".replace("-", "−")
            for scope, r in said.items()
            if scope in ("overall", "within tensors")
        ]
        lines += [f"{zeros:,} exact zeros not drawn"] if zeros else []
        title = {"batch": "Training batch’s gradient", "test": "Test loss’s gradient"}[name]
        axes.set_title("\n".join([title, *lines]), fontsize=9)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
            axis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("|gradient coordinate|")
        if place == 1:
            axes.set_ylabel("|Hessian diagonal|, estimated")
    if shown is not None:
        figure.colorbar(shown, ax=figure.axes, label="coordinates", shrink=0.9)
    return figure


def _layers(names: list[str]) -> list[str]:
    """In the order of a forward pass."""
    first = {"embeddings": 0, "encoder": 1, "decoder": 2, "head": 4}

    def key(name: str) -> tuple:
        stack, _, number = name.partition(" ")
        return first.get(stack, 3), stack, int(number) if number.isdigit() else 10**9

    return sorted(set(names), key=key)


def _bins(values: list[float]) -> tuple[np.ndarray, Callable[[float], int]]:
    low, high = min(values), max(values)
    edges = low + BIN * np.arange(round((high - low) / BIN) + 1)
    return edges, lambda value: round((value - low) / BIN)
