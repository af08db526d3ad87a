"""The anatomy's figures of what the curvature is: its spectrum, and its Gauss–Newton part."""

import math

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments import algorithms
from experiments.anatomy_records import Parts, Ritz, as_spectrum, in_order
from experiments.look import Look, marker_key
from sharpjax.spectrum import spectral_density


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
