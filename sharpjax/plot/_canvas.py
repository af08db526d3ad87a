"""The figures themselves: their size, panels, axes and legend, without pyplot or global settings.

Every figure is WIDTH inches wide and grows downwards with its panels and its legend, so that text
has one size in all of them, on a page and on a narrow screen.
"""

import functools
import io
import math
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.ticker
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.textpath import TextPath

from sharpjax.plot.style import Style, label

WIDTH = 6.4
TEXT = 9
GREY = "#999999"
INK = "#333333"
RC: dict[
    Any, Any
] = {  # Taken on by what is made inside a plot function; the caller's settings stay theirs.
    "font.size": TEXT,
    "axes.axisbelow": True,
    "axes.titlesize": TEXT,
    "axes.titlelocation": "left",
    "axes.labelsize": TEXT,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "errorbar.capsize": 0,
}
styled = matplotlib.rc_context(RC)
"""Decorates a plot function."""


class Figure(matplotlib.figure.Figure):
    """A matplotlib figure that a notebook shows although pyplot does not know it."""

    def _repr_png_(self) -> bytes:
        pixels = io.BytesIO()
        self.savefig(pixels, dpi=110, format="png")
        return pixels.getvalue()


class Canvas:
    """Where a plot function draws: axes of its own, in a caller's figure, or a caller's own."""

    def __init__(
        self,
        rows: int = 1,
        columns: int = 1,
        *,
        height: float = 3.4,
        figure: Any = None,
        ax: Axes | None = None,
        **options: Any,
    ):
        self.figure: Any
        self.axes: list[Any]
        self._given = ax is not None
        self._sized = ax is None and figure is None
        if ax is not None:
            self.figure, self.axes = ax.figure, [ax]
            return
        if figure is None:
            figure = Figure(figsize=(WIDTH, rows * height), layout="constrained")
        self.figure = figure
        made = figure.subplots(rows, columns, squeeze=False, **options)
        self.axes = list(made.ravel())
        for axes in self.axes:
            dress(axes)

    def legend(self, style: Style | None, names: Iterable[str], extra: Sequence[Line2D] = ()):
        """Below the panels, in as many columns as fit; a caller's axes keep a legend of theirs."""
        handles = []
        if style is not None:
            for name in style.ordered(names):
                handles.append(Line2D([], [], label=label(name), **style.line(name)))
        handles += extra
        if self._given or not handles:
            return
        width = self.figure.bbox.width / self.figure.get_figure(root=True).dpi
        columns = fitting_columns([h.get_label() for h in handles], width)
        if self._sized:
            rows = math.ceil(len(handles) / columns)
            self.figure.set_size_inches(WIDTH, self.figure.get_figheight() + 0.1 + 0.175 * rows)
        self.figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=columns,
            frameon=False,
            fontsize=TEXT,
            labelspacing=0.35,
            handlelength=2.6,
            columnspacing=1.4,
        )

    def grow(self, inches: float) -> None:
        """Makes room for what stands outside the panels."""
        if self._sized:
            self.figure.set_size_inches(WIDTH, self.figure.get_figheight() + inches)


def dress(axes: Axes) -> None:
    """The look of axes, said to each of them: what settings say would be read at drawing time."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#777777")
    axes.tick_params(colors="#444444", labelsize=TEXT - 0.5, which="both")
    axes.grid(True, color="#e4e4e4", linewidth=0.6)


def fitting_columns(labels: Sequence[str], width: float) -> int:
    """How many columns of a legend fit into so many inches, at least one."""
    em = TEXT / 72
    lengths = [_length(text) for text in labels]
    for columns in range(min(len(labels), 6), 1, -1):
        longest = [max(part) for part in np.array_split(lengths, columns) if len(part)]
        if em + sum(4.9 * em + length for length in longest) <= width:
            return columns
    return 1


@functools.cache
def _length(text: str) -> float:
    """Of a label, in inches."""
    return TextPath((0, 0), text, size=TEXT).get_extents().width / 72


def key(marker: str, text: str, *, hollow: bool = False) -> Line2D:
    """A legend's entry of a marker."""
    face = "white" if hollow else "#555555"
    look = {"markeredgecolor": "#555555", "markerfacecolor": face, "markersize": 5.5}
    return Line2D([], [], ls="", marker=marker, label=text, **look)


def plain_log(axis: Any, unit: str = "") -> None:
    """A logarithmic axis without minor marks, unless there would be too few numbers to read."""
    low, high = axis.get_view_interval()
    if low <= 0 or high / low > 30:
        axis.set_minor_locator(matplotlib.ticker.NullLocator())
    if unit:
        axis.set_major_formatter(lambda value, _: f"{value:g} {unit}")


def powers(axis: Any) -> None:
    """An axis of exponents, written as powers of ten."""
    axis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")
    axis.set_major_locator(matplotlib.ticker.MaxNLocator(6, integer=True))


def minus(text: str) -> str:
    """With the sign that is as wide as a plus."""
    return text.replace("-", "−")
