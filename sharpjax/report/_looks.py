"""How optimizers look in an interactive chart: as in `sharpjax.plot.style`, said to Vega-Lite."""

from collections.abc import Iterable
from typing import Any

import altair as alt

from sharpjax.plot.style import Style, label

_SHAPES = {  # matplotlib's marker -> Vega's shape.
    "": "circle",
    "s": "square",
    "D": "diamond",
    "^": "triangle-up",
    "v": "triangle-down",
    "P": "cross",
    "*": "M0,-1L0.5,1L-1,-0.3L1,-0.3L-0.5,1Z",
    "X": "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z",
    "<": "triangle-left",
    ">": "triangle-right",
    "h": "M0,-1L0.87,-0.5L0.87,0.5L0,1L-0.87,0.5L-0.87,-0.5Z",
    "d": "M0,-1L0.6,0L0,1L-0.6,0Z",
}
_GRADIENT = "Gradient"


class Looks:
    """Labels, colours, dashes and shapes of a page's optimizers, the same in each of its charts.

    In a chart, `optimizer` is the label of a row's `algorithm`; the gradient has an empty one.

    Args:
        names: All optimizers of the page.
        style: Colours of more names than are on the page.

    Example:
        >>> looks = Looks(["sgd", "adam"])
        >>> looks.labels["adam"], looks.order, looks.colours[0] == looks.style.colour("sgd")
        ('Adam', ['sgd', 'adam'], True)
    """

    def __init__(self, names: Iterable[str], style: Style | None = None):
        names = list(dict.fromkeys(names))
        self.style = Style(names) if style is None else style
        self.order = self.style.ordered(names)
        said = [label(name) for name in self.order]
        self.labels = {
            name: text if said.count(text) == 1 else f"{text} ({name})"
            for name, text in zip(self.order, said, strict=True)
        }
        self.domain = [self.labels[name] for name in self.order]
        self.colours = [self.style.colour(name) for name in self.order]
        self.dashes = [_dash(self.style.line(name)["linestyle"]) for name in self.order]
        markers = [self.style.marker(name) for name in self.order]
        self._repeat = any(markers)
        self.shapes = [_SHAPES.get(marker, "circle") for marker in markers]

    def colour(self, *, gradient: bool = False) -> alt.Color:
        """The colour of a mark, with the legend below the chart."""
        return alt.Color("optimizer:N", **self._scale(self.colours, gradient, self._grey))

    def dash(self, *, gradient: bool = False) -> alt.StrokeDash:
        """The dashes of a line: what is clipped is dashed."""
        return alt.StrokeDash("optimizer:N", **self._scale(self.dashes, gradient, [1, 0]))

    def shape(self) -> tuple[alt.Shape, ...]:
        """The shape of a point, where colours alone do not tell all optimizers apart."""
        return (alt.Shape("optimizer:N", **self._scale(self.shapes, False, "")),) * self._repeat

    @property
    def _grey(self) -> str:
        return self.style.colour("")

    def _scale(self, values: list, gradient: bool, own: Any) -> dict[str, Any]:
        domain = [*self.domain, *[_GRADIENT] * gradient]
        faded = alt.expr("indexof(hidden, datum.value) < 0 ? 1 : 0.3")
        return {
            "scale": alt.Scale(domain=domain, range=[*values, *[own] * gradient]),
            "legend": alt.Legend(
                title=None,
                orient="bottom",
                **{} if self._repeat else {"symbolType": "stroke", "symbolStrokeWidth": 2.5},
                columns=alt.expr("legend_columns"),
                labelLimit=220,
                symbolLimit=0,
                symbolOpacity=faded,
                labelOpacity=faded,
            ),
        }


def _dash(linestyle: Any) -> list[float]:
    """Matplotlib's dashes, which are in line widths, in pixels; an unbroken line is [1, 0]."""
    if isinstance(linestyle, str):
        return [1, 0]
    return [round(2 * length, 1) for length in linestyle[1]]
