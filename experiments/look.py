"""How every figure looks: its colours, lines, legend and files.

One colour an algorithm family throughout (Okabe and Ito's, distinct to colour-blind readers, before
others), clipped ones dashed, those whose update is clipped dotted. A figure is written as PNG and
SVG into DIR/figures, byte for byte the same from the same records.
"""

import dataclasses
import io
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from experiments import algorithms, paper

COLOURS = {  # In the order of legends.
    "sgd": "#d55e00",
    "normalized_sgd": "#0072b2",
    "adafactor": "#b0549a",
    "adam": "#009e73",
}
_MORE_COLOURS = ("#e69f00", "#56b4e9", "#7a4f2a", "#000000", "#9a8f00", "#8a7bd8", "#d6779f")
_DASHES = {  # What is clipped: the gradient, the update.
    (False, False): "-",
    (True, False): (0, (4, 1.8)),
    (False, True): (0, (1.2, 1.2)),
    (True, True): (0, (4, 1.4, 1.2, 1.4)),
}
_STYLE = {
    "font.size": 10,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#777777",
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "svg.hashsalt": "sharpjax",
    "svg.fonttype": "path",
    "path.simplify": True,
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A figure on disk: `name`.png and `name`.svg in DIR/figures."""

    name: str
    title: str
    caption: str
    svg: Path
    png: Path


def write(directory: Path | str, name: str, draw: Callable[[], Figure]) -> tuple[Path, Path]:
    """Draws one figure into DIR/figures; the paths of its SVG and its PNG.

    The PNG has 64 colours, which lines and legends do not exceed visibly, at a third of the size.
    """
    folder = Path(directory) / "figures"
    folder.mkdir(exist_ok=True)
    svg, png = folder / f"{name}.svg", folder / f"{name}.png"
    with matplotlib.rc_context(_STYLE):
        figure = draw()
        figure.savefig(svg, metadata={"Date": None, "Creator": None})
        figure.set_layout_engine("none")  # Laid out already, and that takes half the time.
        pixels = io.BytesIO()
        figure.savefig(pixels, dpi=130, format="png")
    with Image.open(pixels) as image:
        few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
        few.save(png, optimize=True)
    return svg, png


class Look:
    """Colours, lines and the legend of the algorithms that a figure shows.

    The paper's have their own colours, the others those that follow, in alphabetical order.
    """

    def __init__(self, names: Iterable[str]):
        others = sorted({algorithms.family(n) for n in names} - {*COLOURS, "span"})
        self._colours = COLOURS | dict(zip(others, itertools.cycle(_MORE_COLOURS), strict=False))

    def colour(self, name: str) -> str:
        return self._colours.get(algorithms.family(name), "#444444")

    def line(self, name: str) -> dict:
        return {"color": self.colour(name), "linestyle": _DASHES[algorithms.clipped(name)]}

    def hollow(self, name: str, marker: str) -> dict:
        edge = {"mec": self.colour(name), "mew": 1.3}
        return {"marker": marker, "ms": 6, "mfc": "white", "ls": "", **edge}

    def legend(
        self, figure: Figure, names: Iterable[str], extra: list, beside: bool = False
    ) -> None:
        """Below the figure an algorithm and its clipped forms together; beside it as given."""
        if not beside:
            families = list(self._colours)
            names = sorted(names, key=lambda n: (families.index(algorithms.family(n)), n))
        handles = [Line2D([], [], label=algorithms.label(n), **self.line(n)) for n in names]
        handles += extra
        place = {"loc": "outside right center"} if beside else {"loc": "outside lower center"}
        columns = 1 if beside else math.ceil(len(handles) / 2)
        if not beside and not {*names} <= paper.ALGORITHMS.keys():
            columns = _fitting([len(h.get_label()) for h in handles], figure.get_figwidth())
        figure.legend(handles=handles, ncols=columns, handlelength=2.6, **place)


def _fitting(lengths: list[int], width: float) -> int:
    """How many columns of a legend, at least two rows each, fit into a figure's inches."""
    for columns in range(math.ceil(len(lengths) / 2), 1, -1):
        longest = [max(part) for part in np.array_split(lengths, columns) if len(part)]
        if sum(0.6 + 0.068 * length for length in longest) <= width:
            return columns
    return 1


def marker_key(marker: str, label: str, hollow: bool = False) -> Line2D:
    """A legend's entry of a marker."""
    face = "white" if hollow else "#555555"
    return Line2D([], [], ls="", marker=marker, mec="#555555", mfc=face, label=label)
