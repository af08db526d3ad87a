"""The anatomy's figures, drawn from its records alone, in the colours of `look`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from experiments import algorithms, paper, records
from experiments.anatomy_records import (
    BIN,
    PLACE,
    Block,
    Clipped,
    Correlation,
    Decrease,
    Density,
    Lorenz,
    Parts,
    Ritz,
    SpanValue,
)
from experiments.look import Drawn, Look, marker_key, write
from experiments.places import KINDS
from sharpjax.spectrum import Spectrum, spectral_density

_SCOPES = {"global": "-", "tensor": (0, (1.2, 1.2))}
_QUANTITIES = {"momentum": "#d55e00", "gradient": "#333333"}


def draw_all(directory: Path | str) -> list[Drawn]:
    """Draws every figure that the anatomy's records in `directory` allow, point by point."""
    drawn = []

    def save(name: str, title: str, caption: str, draw: Callable[[], Figure]) -> None:
        paths = write(directory, name, draw)
        drawn.append(Drawn(name, title, caption, *paths))

    tables = {
        table: records.read(directory, table)
        for table in (
            Lorenz,
            Block,
            Density,
            Correlation,
            Decrease,
            SpanValue,
            Parts,
            Ritz,
            Clipped,
        )
    }
    for place in places(tables):
        rows = {table: at(tables[table], place) for table in tables}
        end = suffix(place)
        seven = paper.seven(r.algorithm for r in rows[Decrease] if not _is_span(r))
        for table, name, title, caption, draw in _FIGURES:
            title = title.format(seven=seven)
            if rows[table]:
                save(f"{name}_{end}", title, caption, lambda draw=draw, rows=rows: draw(rows))
    return drawn


def places(tables: dict[type, list]) -> list[tuple]:
    """The points that occur in any table, in the order of the paper's columns."""
    order = list(paper.TABLE)
    seen = {tuple(getattr(r, k) for k in PLACE) for rows in tables.values() for r in rows}
    rank = lambda p: (order.index(p[:2]) if p[:2] in order else len(order), *p)  # noqa: E731
    return sorted(seen, key=rank)


def suffix(place: tuple) -> str:
    """How the names of a point's figures end."""
    return "_".join(map(str, place[:2])) + f"_s{place[2]}_e{place[3]:02d}b{place[4]:03d}"


def at(rows: list, place: tuple) -> list:
    """The rows of one point."""
    return [r for r in rows if tuple(getattr(r, k) for k in PLACE) == place]


def lorenz_figure(rows: dict[type, list]) -> Figure:
    """The share of vᵀHv, and of ‖v‖², in the top coordinates of the gradient."""
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    drawn, unsure = [], []
    curves = _by_algorithm(rows[Lorenz])
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
    blocks = _by_algorithm(rows[Block])
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


def spectrum_figure(rows: dict[type, list]) -> Figure:
    """The density of the Hessian's eigenvalues, and where each direction's sharpness lies."""
    found = as_spectrum(rows[Ritz])
    low, high = found.smallest[0], found.largest[0]
    figure = Figure(figsize=(9.6, 4.3), layout="constrained")
    axes = figure.add_subplot()
    # Linear within what Lanczos resolves and directions reach.
    heavy = np.abs(found.eigenvalues[found.weights > 1e-4])
    marks = [abs(r.sharpness) for r in rows[Parts] if r.sharpness]
    inner = max(max(abs(low), abs(high)) * 1e-5, 0.3 * min([*heavy, *marks]))
    magnitudes = np.geomspace(inner, 1.5 * max(abs(low), abs(high)), 400)
    grid = np.concatenate([-magnitudes[::-1], np.linspace(-inner, inner, 41)[1:-1], magnitudes])
    grid = grid[(grid > 1.5 * min(low, -inner)) & (grid < 1.5 * max(high, inner))]
    # The blur grows with the eigenvalue, as the axis does.
    density, error = spectral_density(found, grid, np.maximum(0.15 * np.abs(grid), inner / 2))
    axes.plot(grid, density, color="#333333", linewidth=1.2)
    spread = np.nan_to_num(error)
    bottom = max(density.max() * 1e-9, 1e-12)
    least = np.maximum(density - spread, bottom)
    axes.fill_between(grid, least, density + spread, color="#333333", alpha=0.15, lw=0)
    axes.set_yscale("log")
    axes.set_ylim(bottom, density.max() * 30)
    axes.set_xscale("symlog", linthresh=inner, linscale=0.5)
    decades = range(math.ceil(math.log10(2 * inner)), math.ceil(math.log10(1.6 * max(high, -low))))
    ticks = [0.0, *(10.0**k for k in decades), *(-(10.0**k) for k in decades)]
    axes.set_xticks(sorted(ticks))
    axes.set_xlim(1.6 * min(low, -inner), 1.6 * max(high, inner))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axvline(high, color="#999999", linewidth=0.8)
    axes.text(high, 0.98, "λ max ", transform=axes.get_xaxis_transform(), ha="right", va="top")
    drawn = []
    look = Look(r.algorithm for r in rows[Parts])
    for r in rows[Parts]:
        if math.isfinite(r.sharpness):
            axes.axvline(r.sharpness, ymin=0.0, ymax=0.9, **look.line(r.algorithm))
            drawn.append(r.algorithm)
    axes.set_xlabel("eigenvalue; coloured: sharpness of each algorithm’s direction")
    axes.set_ylabel("density of eigenvalues")
    look.legend(figure, drawn, [])
    return figure


def decrease_figure(rows: dict[type, list]) -> Figure:
    """Best decrease of each direction and of the best step in their span; its eigenvalues."""
    mine = in_order(rows[Decrease])
    look = Look(r.algorithm for r in mine)
    figure = Figure(figsize=(9.6, max(4.0, 0.5 * len(mine))), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1))
    top = 1.6 * max((r.best_decrease for r in mine), default=1.0)
    for y, r in enumerate(mine):
        left.barh(y, r.best_decrease, height=0.6, color=look.colour(r.algorithm), alpha=0.85)
        for value, marker in ((r.predicted_decrease, "D"), (r.model_decrease, "o")):
            if math.isfinite(value):
                marker = ">" if value > top else "<" if value < -0.2 * top else marker
                place = min(max(value, -0.2 * top), top)
                left.plot(place, y, **look.hollow(r.algorithm, marker), zorder=4, clip_on=False)
    names = ["best in the span" if _is_span(r) else algorithms.label(r.algorithm) for r in mine]
    left.set_yticks(range(len(mine)), names)
    left.invert_yaxis()
    left.set_xlim(-0.2 * top, top)
    left.axvline(0, color="#999999", linewidth=0.8)
    left.grid(axis="y", visible=False)
    left.set_xlabel("decrease of the test loss")
    left.set_title("How far down")
    for r in rows[SpanValue]:
        error = 0 if math.isnan(r.eigenvalue_se) else r.eigenvalue_se
        face = "#333333" if r.kept else "white"
        right.errorbar(
            *(r.index + 1, r.eigenvalue, error), fmt="o", ms=6, color="#333333", mfc=face, lw=1
        )
    largest = max((abs(r.eigenvalue) for r in rows[SpanValue]), default=1.0)
    right.set_yscale("symlog", linthresh=max(largest * 1e-4, 1e-12))
    right.yaxis.set_minor_locator(NullLocator())
    right.axhline(0, color="#999999", linewidth=0.8)
    right.xaxis.get_major_locator().set_params(integer=True)
    right.set_xlabel("eigenvector within the span")
    right.set_title("Curvature; filled: trusted")
    handles = [
        marker_key("s", "best along the direction"),
        marker_key("D", "the quadratic model’s promise", hollow=True),
        marker_key("o", "the loss at the model’s step", hollow=True),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def parts_figure(rows: dict[type, list]) -> Figure:
    """vᵀGv and |residual| of each direction, logarithmic."""
    mine = in_order(rows[Parts])
    look = Look(r.algorithm for r in mine)
    figure = Figure(figsize=(8.2, max(3.8, 0.5 * len(mine))), layout="constrained")
    axes = figure.add_subplot()
    for y, r in enumerate(mine):
        for shift, value, error, marker in (
            (-0.2, r.sharpness, r.sharpness_se, "s"),
            (0.0, r.gauss_newton, r.gauss_newton_se, "o"),
            (0.2, r.residual, r.residual_se, "^"),
        ):
            if not math.isfinite(value) or value == 0:
                continue
            error = 0 if math.isnan(error) else min(error, 0.999 * abs(value))
            colour = look.colour(r.algorithm)
            face = colour if value > 0 else "white"
            spread = [[error], [error]]
            axes.errorbar(
                abs(value), y + shift, xerr=spread, fmt=marker, ms=6, color=colour, mfc=face, lw=1
            )
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(mine)), [algorithms.label(r.algorithm) for r in mine])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("magnitude; hollow: negative")
    handles = [
        marker_key("s", "sharpness vᵀHv"),
        marker_key("o", "Gauss–Newton vᵀGv"),
        marker_key("^", "residual"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def fraction_figure(rows: dict[type, list]) -> Figure:
    """Slope, sharpness and best decrease over clipped fractions; the best fraction marked."""
    figure = Figure(figsize=(11.4, 4.0), layout="constrained")
    panels = figure.subplots(1, 3)
    values: tuple[tuple[str, str, Callable[[Any], float]], ...] = (
        ("|slope|", "linear", lambda r: abs(r.slope)),
        ("sharpness", "symlog", lambda r: r.sharpness),
        ("best decrease of the test loss", "linear", lambda r: r.best_decrease),
    )
    curves: dict[tuple[str, str], list] = {}
    for r in rows[Clipped]:
        curves.setdefault((r.quantity, r.scope), []).append(r)
    for axes, (title, scale, value) in zip(panels, values, strict=True):
        for (quantity, scope), curve in curves.items():
            style = {"color": _QUANTITIES[quantity], "linestyle": _SCOPES[scope]}
            whole = sorted((r for r in curve if r.fraction > 0), key=lambda r: r.fraction)
            axes.plot([100 * r.fraction for r in whole], [value(r) for r in whole], **style)
            for r in curve:
                if r.fraction == 0 and scope == "global":
                    axes.axhline(value(r), color=_QUANTITIES[quantity], linewidth=0.7, alpha=0.6)
            if title.startswith("best") and whole:
                best = max(whole, key=value)
                axes.plot(100 * best.fraction, value(best), "o", ms=6, color=_QUANTITIES[quantity])
        axes.axvline(5, color="#999999", linewidth=0.8, linestyle=(0, (3, 2)))
        _limits(axes, scale, [value(r) for r in rows[Clipped]])
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g} %")
        axes.set_xlabel("clipped coordinates")
        axes.set_title(title)
    handles = [
        Line2D([], [], color=_QUANTITIES[q], ls=_SCOPES[s], label=f"{q}, {_scope(s)}")
        for q, s in curves
    ]
    grey = {"color": "#999999", "linewidth": 0.8}
    handles += [
        Line2D([], [], ls=(0, (3, 2)), label="the paper’s 5 %", **grey),
        Line2D([], [], label="unclipped", **grey),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=2.6)
    return figure


def as_spectrum(rows: list[Ritz]) -> Spectrum:
    """The recorded Ritz values as the library's spectrum."""
    probes = max(r.probe for r in rows) + 1
    steps = max(r.index for r in rows) + 1
    values, weights, residuals = np.zeros((3, probes, steps))
    for r in rows:
        values[r.probe, r.index] = r.eigenvalue
        weights[r.probe, r.index] = r.weight
        residuals[r.probe, r.index] = r.residual
    return Spectrum(values, weights, residuals, rows[0].parameters)


def _by_algorithm(rows: list) -> dict[str, list]:
    names = algorithms.in_order(r.algorithm for r in rows)
    return {a: [r for r in rows if r.algorithm == a] for a in names}


def in_order(rows: list) -> list:
    """A row an algorithm, in the tables' order; the span, which is none, last."""
    names = algorithms.in_order(r.algorithm for r in rows)
    return sorted(rows, key=lambda r: (_is_span(r), names.index(r.algorithm)))


def _is_span(row: Any) -> bool:
    return row.algorithm == "span"


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


def _scope(scope: str) -> str:
    return {"global": "one threshold", "tensor": "a threshold a tensor"}[scope]


def _limits(axes: Axes, scale: str, values: list[float]) -> None:
    known = [v for v in values if math.isfinite(v)]
    if scale == "symlog" and known:
        if min(known) <= 0:
            axes.set_yscale("symlog", linthresh=max(map(abs, known)) / 100 or 1)
        else:
            axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
    elif known:
        axes.set_ylim(0, 1.08 * max(known) or 1)


_FIGURES: tuple[tuple[type, str, str, str, Callable[[dict], Figure]], ...] = (
    (
        Lorenz,
        "anatomy_lorenz",
        "Where the sharpness sits: coordinates",
        "Share of each direction’s vᵀHv, and of its squared length, that lies in the top "
        "coordinates of the training gradient. Band: standard error over micro-batches of the "
        "test subset. A share may leave [0, 1], since coordinates may contribute negatively.",
        lorenz_figure,
    ),
    (
        Block,
        "anatomy_blocks",
        "Where the sharpness sits: within each block of tensors",
        "vᵢᵀHᵢᵢvᵢ for each layer and kind, in per cent of the sum of all their magnitudes "
        "(below 0.5 % without a number). The titles: the sum of these and of all crossing pairs; "
        "together they are vᵀHv.",
        block_figure,
    ),
    (
        Block,
        "anatomy_contributions",
        "Where the sharpness sits: each block with its half of the crossing pairs",
        "Σⱼ vᵢᵀHᵢⱼvⱼ, what block i’s coordinates contribute to vᵀHv, in per cent of the sum of "
        "magnitudes.",
        lambda rows: block_figure(rows, crossing=True),
    ),
    (
        Density,
        "anatomy_density",
        "The conjecture: large gradient coordinates meet large Hessian coordinates",
        "Sampled coordinates by |gᵢ| and the estimate of |Hᵢᵢ|, and Spearman’s rank correlation, "
        "beside that with the estimator’s noise alone: the noise has the size of row i of the "
        "Hessian, and where it is larger than Hᵢᵢ, the height shows the row.",
        density_figure,
    ),
    (
        Decrease,
        "anatomy_span",
        "The best step in the span of all {seven}directions",
        "Least test loss found along each direction, beside what the quadratic model promises at "
        "its own best step and what the loss does there; a triangle lies outside the axis. Right: "
        "eigenvalues of the Hessian within the span, with their standard error; the span’s step "
        "goes along those that are surely positive.",
        decrease_figure,
    ),
    (
        Parts,
        "anatomy_gauss_newton",
        "What the curvature is made of",
        "vᵀHv = vᵀGv + residual: the curvature of the cross-entropy in the logits, and of the "
        "logits in the parameters. Standard errors over micro-batches of the test subset.",
        parts_figure,
    ),
    (
        Ritz,
        "anatomy_spectrum",
        "The Hessian’s spectrum, and the sharpness of each direction in it",
        "Stochastic Lanczos quadrature; each value is blurred by 15 % of its size. The edges "
        "are resolved best; near zero a hump stands for very many eigenvalues. Band: standard "
        "error over random starts.",
        spectrum_figure,
    ),
    (
        Clipped,
        "anatomy_fractions",
        "How much to clip",
        "Slope, sharpness and best decrease of the test loss over clipped fractions, from none "
        "(thin lines) to all (the signs). Filled: the best fraction of each curve.",
        fraction_figure,
    ),
)
