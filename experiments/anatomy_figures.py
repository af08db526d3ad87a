"""The anatomy's figures, drawn from its records alone, in the colours of `look`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from experiments import algorithms, anatomy_coordinates, anatomy_spectra, paper
from experiments.anatomy_records import (
    Block,
    Clipped,
    Decrease,
    Density,
    Lorenz,
    Parts,
    Ritz,
    SpanValue,
    in_order,
    is_span,
)
from experiments.look import Drawn, Look, marker_key, write

_SCOPES = {"global": "-", "tensor": (0, (1.2, 1.2))}
_QUANTITIES = {"momentum": "#d55e00", "gradient": "#333333"}


def draw(directory: Path | str, place: tuple, rows: dict[type, list]) -> dict[str, Drawn]:
    """Draws every figure that a point's records allow into DIR/figures; by the kind of figure."""
    end = "_".join(map(str, place[:2])) + f"_s{place[2]}_e{place[3]:02d}b{place[4]:03d}"
    seven = paper.seven(r.algorithm for r in rows[Decrease] if not is_span(r))
    drawn = {}
    for table, kind, title, caption, make in _FIGURES:
        if rows[table]:
            name = f"{kind}_{end}"
            paths = write(directory, name, lambda make=make: make(rows))
            drawn[kind] = Drawn(name, title.format(seven=seven), caption, *paths)
    return drawn


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
    names = ["best in the span" if is_span(r) else algorithms.label(r.algorithm) for r in mine]
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
        anatomy_coordinates.lorenz_figure,
    ),
    (
        Block,
        "anatomy_blocks",
        "Where the sharpness sits: within each block of tensors",
        "vᵢᵀHᵢᵢvᵢ for each layer and kind, in per cent of the sum of all their magnitudes "
        "(below 0.5 % without a number). The titles: the sum of these and of all crossing pairs; "
        "together they are vᵀHv.",
        anatomy_coordinates.block_figure,
    ),
    (
        Block,
        "anatomy_contributions",
        "Where the sharpness sits: each block with its half of the crossing pairs",
        "Σⱼ vᵢᵀHᵢⱼvⱼ, what block i’s coordinates contribute to vᵀHv, in per cent of the sum of "
        "magnitudes.",
        lambda rows: anatomy_coordinates.block_figure(rows, crossing=True),
    ),
    (
        Density,
        "anatomy_density",
        "The conjecture: large gradient coordinates meet large Hessian coordinates",
        "Sampled coordinates by |gᵢ| and the estimate of |Hᵢᵢ|, and Spearman’s rank correlation, "
        "beside that with the estimator’s noise alone: the noise has the size of row i of the "
        "Hessian, and where it is larger than Hᵢᵢ, the height shows the row.",
        anatomy_coordinates.density_figure,
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
        anatomy_spectra.parts_figure,
    ),
    (
        Ritz,
        "anatomy_spectrum",
        "The Hessian’s spectrum, and the sharpness of each direction in it",
        "Stochastic Lanczos quadrature; each value is blurred by 15 % of its size. The edges "
        "are resolved best; near zero a hump stands for very many eigenvalues. Band: standard "
        "error over random starts.",
        anatomy_spectra.spectrum_figure,
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
