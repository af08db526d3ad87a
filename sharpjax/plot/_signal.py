"""How much of each update is signal, and how much of it lies in the dominant subspace."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from sharpjax.plot._canvas import GREY, Canvas, styled
from sharpjax.plot._frames import finite, style_of
from sharpjax.plot.style import Style, clipped, label


@styled
def dominant(
    found: Mapping[str, Any],
    *,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """The share of each update's squared length in the span of the k top eigenvectors, over k.

    Args:
        found: Name -> squared cosines [k], from `dominant_share`.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in.

    Returns:
        The figure.
    """
    style = style_of(style, found)
    canvas = Canvas(height=3.2, figure=figure, ax=ax)
    (axes,) = canvas.axes
    for name, squares in found.items():
        share = np.cumsum(finite(squares))
        dots = {"marker": "o", "markersize": 3.5} if len(share) <= 30 else {}
        axes.plot(np.arange(1, len(share) + 1), share, **dots | style.line(name, len(share)))
    axes.axhline(1, color=GREY, linewidth=0.8, zorder=1)
    axes.set_ylim(0, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("top eigenvectors")
    axes.set_ylabel("share of ‖u‖² in their span")
    canvas.legend(style, found)
    return canvas.figure


@styled
def noise(
    found: Any,
    *,
    style: Style | None = None,
    figure: Any = None,
    ax: Axes | None = None,
) -> Figure:
    """How far each update's slope stands above the noise of one example's gradient.

    Downhill is to the right. Of a batch of B examples it is √B times as much. The bar is the
    standard error; the title has the noise scale, the batch at which the whole gradient's signal
    and noise are equal.

    Args:
        found: A `GradientNoise`.
        style: Colours of more names than are drawn.
        figure: A figure or subfigure to draw in.
        ax: Axes to draw in.

    Returns:
        The figure.
    """
    names = list(found.signal_to_noise)
    style = style_of(style, names)
    canvas = Canvas(height=max(2.2, 0.9 + 0.25 * len(names)), figure=figure, ax=ax)
    (axes,) = canvas.axes
    for y, name in enumerate(names):
        error = float(found.signal_to_noise_se[name])
        look = style.hollow(name, "o") if any(clipped(name)) else style.dot(name)
        look |= {"ecolor": style.colour(name), "elinewidth": 1}
        spread = error if math.isfinite(error) else 0.0
        axes.errorbar(-float(found.signal_to_noise[name]), y, xerr=spread, **look)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    axes.set_yticks(range(len(names)), [label(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("signal to noise of the slope, one example; downhill to the right")
    scale, error = float(found.noise_scale), float(found.noise_scale_se)
    said = f"noise scale {scale:.3g}" if math.isfinite(scale) else "noise scale unknown"
    said += f" ± {error:.2g}" if math.isfinite(error) else ""
    axes.set_title(said + " examples" * math.isfinite(scale))
    return canvas.figure
