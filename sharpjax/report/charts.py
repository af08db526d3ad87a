"""The interactive charts, one function each; all follow the choices of the page.

A chart names its tables and does not hold them. The page gives it the parameters `labels`
(algorithm -> label), `hidden` (labels that are not shown), `choose_<column>` for each choice of the
page, `log_x` and `log_y`, whether an axis is logarithmic, and `legend_columns`.
"""

from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from sharpjax.plot._frames import finite
from sharpjax.report._looks import Looks

_HEIGHT = 320
_POINT = 45


def over_steps(
    table: str,
    looks: Looks,
    value: str,
    said: str,
    *,
    x: str = "step",
    at: Sequence[str] = (),
    levels: Sequence[float] = (),
    error: bool | str = True,
    reference: str = "",
    where: str = "",
) -> alt.LayerChart:
    """A value of each optimizer over the measured steps, with bars of one standard error.

    Args:
        table: The table "directions" with errors, whose columns are `<value>`, `<value>_low`, ….
            `x` may be another column of it.
        looks: Of the page's optimizers.
        value: A column.
        said: What the axis is called.
        x: The column of the horizontal axis, one of the page's choices: the chosen one is marked.
        at: The other choices.
        levels: Where grey lines are drawn.
        error: Whether the table has the value's errors; "sd" if `<value>_sd` is a standard
            deviation, and the bars are of its length.
        reference: A table with the same columns, drawn hollow beside: published values, say. The
            figure's switch `reference` hides it.
        where: A Vega expression of what else a row of the table must fulfil.
    """
    base = _shown(alt.Chart(alt.NamedData(table)), at).transform_filter(f"isNumber(datum.{value})")
    base = base.transform_filter(where) if where else base
    inside = base.transform_filter(f"!log_y || datum.{value} > 0")
    across = alt.X(
        f"{x}:Q",
        title=x,
        scale=alt.Scale(zero=False, nice=False, padding=12),
        axis=_GRID,
    )
    up = alt.Y(
        f"{value}:Q", title=said, axis=_GRID, scale=alt.Scale(type="log", nice=False, padding=8)
    )
    hover = [*_WHO, alt.Tooltip(f"{x}:Q"), _number(value)]
    layers: list[Any] = [_rule(level) for level in levels]
    layers.append(_chosen(x))
    layers.append(
        inside.mark_line(strokeWidth=1.6).encode(across, up, looks.colour(), looks.dash())
    )
    if error:
        hover.append(_number(f"{value}_{'se' if error is True else error}"))
        ends = alt.Y(f"{value}_low:Q", title=said), alt.Y2(f"{value}_high:Q")
        layers.append(inside.mark_rule(strokeWidth=1.2).encode(across, *ends, looks.colour()))
    dots = inside.mark_point(filled=True, size=_POINT, opacity=1)
    layers.append(dots.encode(across, up, looks.colour(), *looks.shape(), tooltip=hover))
    # What has no logarithm is a triangle on the lower edge.
    low = base.transform_filter(f"log_y && datum.{value} <= 0")
    low = low.mark_point(shape="triangle-down", size=_POINT, yOffset=-6)
    edge = alt.YValue(alt.expr("height"))
    layers.append(low.encode(across, edge, looks.colour(), tooltip=hover))
    if reference:
        beside = _shown(alt.Chart(alt.NamedData(reference)), at)
        beside = beside.transform_filter(f"reference && (!log_y || datum.{value} > 0)")
        dots = beside.mark_point(size=1.6 * _POINT, opacity=1, strokeWidth=1.3, xOffset=5)
        printed = alt.Tooltip(f"{value}:Q", title=f"published {value}", format=".4~g")
        hover = [*_WHO, alt.Tooltip(f"{x}:Q"), printed]
        layers.append(dots.encode(across, up, looks.colour(), tooltip=hover))
    return _layered(layers, looks)


def landscape(table: str, marks: str, looks: Looks, *, at: Sequence[str]) -> alt.LayerChart:
    """The loss at a distance along each optimizer's unit direction, at the chosen point."""
    base = _shown(alt.Chart(alt.NamedData(table)), at)
    base = base.transform_filter("!log_x || datum.distance > 0")
    across = alt.X(
        "distance:Q",
        title="distance along the unit direction",
        scale=alt.Scale(type="log", nice=False),
    )
    up = alt.Y("loss:Q", title="test loss", scale=alt.Scale(zero=False, padding=8))
    line = base.mark_line(strokeWidth=1.8, interpolate="monotone")
    hover = [*_WHO, _number("distance"), _number("loss", ".6")]
    seen = base.mark_point(filled=True, size=60, opacity=0)
    found = _shown(alt.Chart(alt.NamedData(marks)), at)
    lowest = found.transform_filter("datum.mark == 'lowest loss found'")
    model = found.transform_filter("datum.mark != 'lowest loss found'")
    hover_mark = [alt.Tooltip("mark:N", title="mark"), *hover]
    return _layered(
        [
            line.encode(across, up, looks.colour(), looks.dash()),
            seen.encode(across, up, tooltip=hover),
            lowest.mark_point(filled=True, size=60, opacity=1).encode(
                across, up, looks.colour(), tooltip=hover_mark
            ),
            model.mark_point(shape="diamond", size=70, opacity=1).encode(
                across, up, looks.colour(), tooltip=hover_mark
            ),
        ],
        looks,
    )


def convergence(
    table: str, looks: Looks, *, x: str = "step", at: Sequence[str] = ()
) -> alt.LayerChart:
    """The training loss of each trajectory."""
    base = _shown(alt.Chart(alt.NamedData(table)), at).transform_filter(
        "isNumber(datum.loss) && (!log_y || datum.loss > 0)"
    )
    across = alt.X(f"{x}:Q", title=x, scale=alt.Scale(zero=False, nice=False))
    up = alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False))
    hover = [*_WHO, alt.Tooltip(f"{x}:Q"), _number("loss", ".6")]
    line = base.mark_line(strokeWidth=1.5).encode(across, up, looks.colour(), looks.dash())
    seen = base.mark_point(filled=True, size=40, opacity=0).encode(across, up, tooltip=hover)
    return _layered([line, seen], looks)


def histogram(
    table: str, looks: Looks, *, at: Sequence[str], gradient: bool = False
) -> alt.LayerChart:
    """How many coordinates of each update have which magnitude, in units of its own rms."""
    # Not filtered: rows without a count break the line.
    base = _shown(alt.Chart(alt.NamedData(table)), at)
    across = alt.X(
        "relative:Q",
        title="magnitude / its root mean square",
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(format="~e", tickCount=6),
    )
    up = alt.Y("count:Q", title="coordinates", scale=alt.Scale(type="log", nice=False))
    colour, dash = looks.colour(gradient=gradient), looks.dash(gradient=gradient)
    line = base.mark_line(strokeWidth=1.4, invalid="break-paths-filter-domains")
    between = [alt.Tooltip(f"{end}:Q", title=f"log₁₀, {end}") for end in ("lower", "upper")]
    hover = [*_WHO, *between, alt.Tooltip("count:Q", format=",")]
    seen = base.transform_filter("isNumber(datum.count)").mark_point(filled=True, size=14)
    layers = [
        line.encode(across, up, colour, dash),
        seen.encode(across, up, colour, tooltip=hover),
    ]
    return _layered(layers, looks)


def pairs(
    table: str, looks: Looks, value: str, said: str, *, at: Sequence[str], error: str = ""
) -> alt.LayerChart:
    """A number for each pair of updates: a cosine, a share of common coordinates."""
    base = _shown(alt.Chart(alt.NamedData(table)), at)
    base = base.transform_calculate(beside="labels[datum.other]")
    base = base.transform_filter("indexof(hidden, datum.beside) < 0")
    base = base.transform_filter(f"isNumber(datum.{value})")
    axis = alt.Axis(title=None, labelLimit=150, grid=False, ticks=False, domain=False)
    across = alt.X("beside:N", sort=looks.domain, axis=axis, scale=alt.Scale(padding=0.03))
    up = alt.Y("optimizer:N", sort=looks.domain, axis=axis, scale=alt.Scale(padding=0.03))
    if value == "overlap":
        scale = alt.Scale(scheme="blues", domain=[0, 1])
    elif value == "cosine":
        scale = alt.Scale(scheme="purpleorange", domain=[-1, 1], reverse=True)
    else:
        scale = alt.Scale(scheme="purpleorange", domainMid=0, reverse=True)
    hover = [*_WHO, alt.Tooltip("beside:N", title="and"), _number(value)]
    hover += [_number(error)] if error else []
    shade = alt.Color(f"{value}:Q", scale=scale, legend=alt.Legend(title=said, orient="bottom"))
    cells = base.mark_rect().encode(across, up, shade, tooltip=hover)
    # Numbers stand in cells that have room for them.
    room = alt.condition("bandwidth('x') > 27", alt.value(1), alt.value(0))
    limit = 0.65 if value in ("cosine", "overlap") else np.inf
    ink = alt.condition(f"abs(datum.{value}) > {limit}", alt.value("#fff"), alt.value("#222"))
    if limit == np.inf:
        ink = alt.value("#222")
    text = base.mark_text(fontSize=10).encode(
        across, up, alt.Text(f"{value}:Q", format=".2~g"), color=ink, opacity=room
    )
    chart: Any = alt.layer(cells, text).resolve_scale(color="independent")
    return chart.properties(width="container", height=26 * len(looks.order))


def parts(table: str, looks: Looks, value: str, said: str, order: Sequence[str]) -> alt.LayerChart:
    """A value of each part of the loss, a line an optimizer, with bars of one standard error.

    Args:
        table: With columns algorithm, part and `<value>`, `<value>_se`, `<value>_low`,
            `<value>_high`.
        looks: Of the page's optimizers.
        value: A column.
        said: What the axis is called.
        order: The parts, as they stand from left to right.
    """
    base = _shown(alt.Chart(alt.NamedData(table)), ()).transform_filter(f"isNumber(datum.{value})")
    across = alt.X("part:O", sort=[*order], title=None, axis=alt.Axis(labelAngle=-30))
    up = alt.Y(f"{value}:Q", title=said)
    ends = alt.Y(f"{value}_low:Q", title=said), alt.Y2(f"{value}_high:Q")
    hover = [*_WHO, alt.Tooltip("part:N"), _number(value), _number(f"{value}_se")]
    dots = base.mark_point(filled=True, size=_POINT, opacity=1)
    return _layered(
        [
            _rule(0.0),
            base.mark_line(strokeWidth=1.5).encode(across, up, looks.colour(), looks.dash()),
            base.mark_rule(strokeWidth=1.2).encode(across, *ends, looks.colour()),
            dots.encode(across, up, looks.colour(), *looks.shape(), tooltip=hover),
        ],
        looks,
    )


def atlas(
    table: str, frame: Any, looks: Looks, *, x: str = "step", at: Sequence[str] = ()
) -> alt.LayerChart:
    """Sharpness against |slope|, the chosen point large, all others small.

    Grey lines join directions whose quadratic falls by equal amounts, slope²/(2·sharpness).

    Args:
        table: The table "directions" with errors, by name.
        frame: The same table, for the ends of the axes.
        looks: Of the page's optimizers.
        x: The column that orders an optimizer's points.
        at: The choices that are not `x`.
    """
    steep, sharp = finite(frame["steepness"]), finite(frame["sharpness"])
    known = (steep > 0) & (sharp > 0)
    (left, right), (low, high) = _ends(steep[known]), _ends(sharp[known])
    across = alt.X(
        "steepness:Q",
        title="|slope| along the unit direction",
        scale=alt.Scale(type="log", domain=[left, right], nice=False),
    )
    up = alt.Y(
        "sharpness:Q",
        title="sharpness vᵀHv",
        scale=alt.Scale(type="log", domain=[low, high], nice=False),
    )
    base = _shown(alt.Chart(alt.NamedData(table)), at)
    base = base.transform_filter("datum.steepness > 0 && datum.sharpness > 0")
    now = base.transform_filter(f"datum.{x} === choose_{x}")
    hover = [*_WHO, alt.Tooltip(f"{x}:Q"), _number("slope"), _number("slope_se")]
    hover += [_number(c) for c in ("sharpness", "sharpness_se", "predicted_decrease")]
    trail = base.mark_line(strokeWidth=0.8, opacity=0.5)
    trail = trail.encode(across, up, looks.colour(), looks.dash(), alt.Order(f"{x}:Q"))
    dots = base.mark_point(filled=True, size=14, opacity=0.7)
    error = now.mark_rule(strokeWidth=1.2, clip=True)
    error = error.encode(
        across, alt.Y("sharpness_low:Q"), alt.Y2("sharpness_high:Q"), looks.colour()
    )
    large = now.mark_point(filled=True, size=110, opacity=1)
    return _layered(
        [
            _equal_decrease(left, right, low, high),
            trail,
            dots.encode(across, up, looks.colour(), *looks.shape(), tooltip=hover),
            error,
            large.encode(across, up, looks.colour(), *looks.shape(), tooltip=hover),
        ],
        looks,
        height=400,
    )


_GRID = alt.Axis(grid=True)  # Which a line at a number would turn off.
_WHO = (alt.Tooltip("optimizer:N", title="optimizer"),)


def _shown(chart: Any, at: Sequence[str]) -> Any:
    """The rows at the chosen values of `at`, of the optimizers that are not hidden."""
    chart = chart.transform_calculate(optimizer="labels[datum.algorithm]")
    for column in at:
        chart = chart.transform_filter(f"datum.{column} === choose_{column}")
    return chart.transform_filter("indexof(hidden, datum.optimizer) < 0")


def _layered(layers: list[Any], looks: Looks, height: int = _HEIGHT) -> Any:
    """The layers as wide as the page; clicks on the legend reach the page through `legend`."""
    colored = next(i for i, layer in enumerate(layers) if "color" in layer.to_dict()["encoding"])
    layers[colored] = layers[colored].add_params(
        alt.selection_point(name="legend", fields=["optimizer"], bind="legend")
    )
    return alt.layer(*layers).properties(width="container", height=height)


def _number(column: str, form: str = ".4") -> alt.Tooltip:
    kind = {"_se": "error", "_sd": "deviation"}.get(column[-3:])
    said = f"± (standard {kind} of {column[:-3]})" if kind else column
    return alt.Tooltip(f"{column}:Q", title=said.replace("_", " "), format=f"{form}~g")


def _rule(level: float) -> Any:
    rule = alt.Chart(alt.InlineData([{}])).mark_rule(color="#999999", strokeWidth=0.8)
    return rule.encode(y=alt.YDatum(level, type="quantitative"))


def _chosen(x: str) -> Any:
    """A line at the chosen step."""
    rule = alt.Chart(alt.InlineData([{}]))
    rule = rule.mark_rule(color="#999999", strokeWidth=1, strokeDash=[2, 3])
    return rule.encode(x=alt.XDatum(alt.expr(f"choose_{x}"), type="quantitative"))


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Ends of a logarithmic axis with room around the values."""
    low, high = (values.min(), values.max()) if len(values) else (0.1, 10.0)
    room = (high / low) ** 0.1 * 1.3
    return float(low / room), float(high * room)


def _equal_decrease(left: float, right: float, low: float, high: float) -> Any:
    """A line a power of ten of slope²/(2·sharpness), at most nine."""
    first = int(np.ceil(np.log10(left**2 / (2 * high))))
    last = int(np.floor(np.log10(right**2 / (2 * low))))
    rows = [
        {"steepness": end, "sharpness": end**2 / (2 * 10.0**power), "decrease": 10.0**power}
        for power in range(first, last + 1, max(1, -(-(last - first) // 9)))
        for end in (left, right)
    ]
    line = alt.Chart(alt.InlineData(rows)).mark_line(color="#bbbbbb", strokeWidth=0.8, clip=True)
    return line.encode(alt.X("steepness:Q"), alt.Y("sharpness:Q"), alt.Detail("decrease:Q"))
