"""The anatomy's figures: its records as the library's results, handed to `sharpjax.plot`."""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import numpy as np
import pandas
from matplotlib.figure import Figure

from experiments import paper
from experiments.anatomy_rows import (
    BIN,
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
from experiments.report import explanation_tables
from experiments.report.figure_files import Drawn, write
from experiments.report.recorded import (
    as_result,
    as_spectrum,
    by_algorithm,
    frame,
    in_order,
    is_span,
)
from experiments.rows import one
from sharpjax import BlockSharpness, GaussNewton, SharpnessByRank, SpanStep, plot
from sharpjax.models.tensor_places import KINDS

_SCOPES = {"global": "one threshold", "tensor": "a threshold a tensor"}
_LOOKS = {
    f"{quantity}, {said}": {"color": colour, "linestyle": dashes}
    for quantity, colour in (("momentum", plot.style.COLOURS["sgd"]), ("gradient", "#333333"))
    for said, dashes in zip(_SCOPES.values(), ("-", (0, (1.2, 1.2))), strict=True)
}


def draw(directory: Path | str, place: tuple, rows: dict[type, list]) -> dict[str, Drawn]:
    """Draws every figure that a point's records allow into DIR/figures; by the kind of figure."""
    end = "_".join(map(str, place[:2])) + f"_s{place[2]}_e{place[3]:02d}b{place[4]:03d}"
    seven = paper.seven(r.algorithm for r in rows[Decrease] if not is_span(r.algorithm))
    drawn = {}
    for table, kind, title, caption, make in _FIGURES:
        if rows[table]:
            about = f"{kind}_{end}", title.format(seven=seven), caption
            drawn[kind] = write(directory, *about, functools.partial(make, rows))
    return drawn


def lorenz_figure(rows: dict[type, list]) -> Figure:
    """The share of vᵀHv, and of ‖v‖², in the top coordinates of the gradient."""
    curves = by_algorithm(rows[Lorenz])
    found = {name: as_result(SharpnessByRank, curve) for name, curve in curves.items()}
    return plot.lorenz(found, [r.fraction for r in next(iter(curves.values()))])


def block_figure(rows: dict[type, list], crossing: bool = False) -> Figure:
    """Layer × kind for each algorithm: the parts within, or with half of the crossing ones."""
    found = {name: _blocks(mine) for name, mine in by_algorithm(rows[Block]).items()}
    layers = _layers([r.layer for r in rows[Block]])
    return plot.blocks(found, crossing=crossing, rows=layers, columns=KINDS)


def density_figure(rows: dict[type, list]) -> Figure:
    """|gᵢ| against |Hᵢᵢ|: counts, and the rank correlation."""
    titles = {"batch": "Training batch’s gradient", "test": "Test loss’s gradient"}
    density = frame(rows[Density], Density)
    names = density["gradient"].unique()
    figure = matplotlib.figure.Figure(figsize=(6.4, 3.9 * len(names)), layout="constrained")
    parts = np.ravel(figure.subfigures(len(names), 1))
    for part, name in zip(parts, names, strict=True):
        mine = density[density["gradient"] == name]
        # Lower edges of bins; −∞ is an exact zero.
        gradient, diagonal = (
            10 ** (mine[column].to_numpy() + BIN / 2) for column in ("log_gradient", "log_diagonal")
        )
        said = [
            f"{r.scope}: ρ = {r.correlation:.2f}, of noise alone {r.control:.2f}".replace("-", "−")
            for r in rows[Correlation]
            if r.gradient == name and r.scope in ("overall", "within tensors")
        ]
        title = "\n".join([titles[name], *said])
        plot.diagonal(gradient, diagonal, weights=mine["count"], title=title, figure=part)
    return figure


def decrease_figure(rows: dict[type, list]) -> Figure:
    """Best decrease of each direction and of the best step in their span; its eigenvalues."""
    mine = sorted(rows[SpanValue], key=lambda r: r.index)
    whole = one(rows[Decrease], algorithm="span")
    step = SpanStep(
        coefficients=np.array([r.coefficient for r in rows[Decrease] if not is_span(r.algorithm)]),
        norm=whole.model_step if whole else math.nan,
        predicted_decrease=whole.predicted_decrease if whole else math.nan,
        eigenvalues=np.array([r.eigenvalue for r in mine]),
        eigenvalues_se=np.array([r.eigenvalue_se for r in mine]),
        kept=np.array([r.kept for r in mine], bool),
    )
    return plot.span(step, pandas.DataFrame(map(vars, in_order(rows[Decrease]))))


def parts_figure(rows: dict[type, list]) -> Figure:
    """vᵀGv and |residual| of each direction, logarithmic."""
    return plot.gauss_newton(
        {r.algorithm: as_result(GaussNewton, r) for r in in_order(rows[Parts])}
    )


def spectrum_figure(rows: dict[type, list]) -> Figure:
    """The density of the Hessian's eigenvalues, and where each direction's sharpness lies."""
    marks = {r.algorithm: r.sharpness for r in in_order(rows[Parts])}
    return plot.spectrum(as_spectrum(rows[Ritz]), marks)


def fraction_figure(rows: dict[type, list]) -> Figure:
    """Slope, sharpness and best decrease over clipped fractions; the best fraction marked."""
    curves = {
        f"{quantity}, {_SCOPES[scope]}": mine
        for (quantity, scope), mine in frame(rows[Clipped], Clipped).groupby(
            ["quantity", "scope"], sort=False
        )
    }
    return plot.clip_curve(curves, mark=0.05, mark_label="the paper’s 5 %", looks=_LOOKS)


def _blocks(rows: list[Block]) -> BlockSharpness:
    """One direction's records as the library's result."""
    norms = {(r.layer, r.kind): r.squared_norm for r in rows}
    at = {place: i for i, place in enumerate(norms)}
    matrix, errors = np.zeros((2, len(at), len(at)))
    for r in rows:
        cell = at[r.layer, r.kind], at[r.other_layer, r.other_kind]
        matrix[cell], errors[cell] = r.sharpness, r.sharpness_se
    return BlockSharpness(
        labels=tuple(at), matrix=matrix, matrix_se=errors, squared_norms=np.array([*norms.values()])
    )


def _layers(names: list[str]) -> list[str]:
    """In the order of a forward pass."""
    first = {"embeddings": 0, "encoder": 1, "decoder": 2, "head": 4}

    def key(name: str) -> tuple:
        stack, _, number = name.partition(" ")
        return first.get(stack, 3), stack, int(number) if number.isdigit() else 10**9

    return sorted(set(names), key=key)


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
        "The largest decrease of the test loss along each direction, beside the decrease that the "
        "quadratic model predicts at its own best step and the real one there; a triangle lies "
        "outside the axis. Right: eigenvalues of the Hessian within the span, with their standard "
        "error; the span’s step goes along those that are surely positive.",
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
    *explanation_tables.FIGURES,
)
