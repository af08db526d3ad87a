"""A page of sections: tables, charts over them, and the choices that all of them follow."""

import functools
import io
import json
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import matplotlib
import pandas
import vl_convert

from sharpjax.files import write_text
from sharpjax.report._looks import Looks

_STATIC_ROWS = 200
_DIGITS = 7


@dataclass(frozen=True)
class Table:
    """A table of the page: shown, and downloaded as CSV."""

    name: str
    """Its name on the page and the CSV file's, such as "directions"; unique."""
    frame: Any
    """A pandas DataFrame of numbers and strings. A column `algorithm` follows what is hidden."""
    title: str
    caption: str = ""
    at: tuple[str, ...] = ()
    """The choices that it follows: columns whose chosen values alone are shown."""
    columns: tuple[str, ...] = ()
    """The columns that are shown and downloaded; () means all. Charts may need more."""
    open: bool = False
    """Whether it is unfolded at the start."""

    @property
    def shown(self) -> Any:
        """The frame with the columns that are shown."""
        return self.frame[list(self.columns)] if self.columns else self.frame


@dataclass(frozen=True)
class Figure:
    """A chart of the page: interactive, downloaded as SVG, and static without JavaScript."""

    name: str
    """Its name on the page and the SVG file's; unique."""
    chart: Any
    """An Altair chart (or a Vega-Lite specification) over named tables. It may use the parameters
    that the page gives to each chart: `labels`, `hidden`, `choose_<column>`, `log_x`, `log_y`,
    `legend_columns`. None where there is only a static figure, which is then always shown."""
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
    """Table name -> DataFrame, of the tables that the chart names."""
    caption: str = ""
    scales: Mapping[str, str] = field(default_factory=dict)
    """"x", "y" -> "log" or "linear": the axes that the reader may switch, as they begin."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Parameter -> what its button says: true or false, in the charts of the whole page."""
    static: Any = None
    """The same without JavaScript: a matplotlib figure, the text of an SVG file, or title -> either
    where it takes several. None where a static figure beside it shows it. The identifiers in an
    SVG text must be its own on the page."""


@dataclass(frozen=True)
class Section:
    """A part of the page with an entry in its table of contents."""

    name: str
    """Its anchor; unique."""
    title: str
    text: tuple[str, ...] = ()
    """Paragraphs of plain text."""
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    html: str = ""
    """More, as HTML that the caller has made safe, after the figures. An element with
    `data-csv="name"` that holds a table and an element of class `tools` gets a button there, which
    downloads the table as name.csv."""


def write_page(
    sections: Sequence[Section],
    path: str | Path,
    title: str,
    *,
    looks: Looks,
    points: Any = None,
    start: Sequence[Any] | None = None,
    labels: Mapping[str, str] | None = None,
    facts: Sequence[str] = (),
    style: str = "",
) -> Path:
    """Writes sections as one HTML file that needs nothing else, whole or not at all.

    Args:
        sections: In their order. Tables of one name must be one DataFrame.
        path: The file; it is replaced if it is there.
        title: Of the page.
        looks: The optimizers, as the charts draw them.
        points: A DataFrame whose columns are what the reader chooses, such as task, trajectory,
            epoch, seed, and whose rows are the combinations that there are. None leaves no choice.
        start: The row of `points` that is chosen first; the last by default.
        labels: What the choices say for values that are strings and no optimizers' names.
        facts: Short statements under the title: what was measured, and how.
        style: More rules for the stylesheet, for the sections' own HTML.

    Returns:
        The path.

    Raises:
        OSError: the file cannot be written; the message says why.
        ValueError: two tables, figures or sections of one name, an axis that is not "log" or
            "linear", a figure with neither chart nor static figure, or a start that is no point.
    """
    path = checked(path)
    _check(sections)
    points = pandas.DataFrame() if points is None else points.drop_duplicates()
    tables = [table for section in sections for table in section.tables]
    figures = [figure for section in sections for figure in section.figures]
    rows = [[_plain(v) for v in row] for row in points.itertuples(index=False)]
    first = [_plain(v) for v in start] if start is not None else (rows or [[]])[-1]
    if rows and first not in rows:
        raise ValueError(f"start must be a row of points, got {start!r}")
    state = {
        "optimizers": [
            {"name": name, "label": looks.labels[name], "colour": looks.style.colour(name)}
            for name in looks.order
        ],
        "labels": {**(labels or {}), **looks.labels, "": "Gradient"},
        "choices": [str(column) for column in points.columns],
        "points": rows,
        "start": first,
        "data": {name: _columns(frame) for name, frame in _named(sections).items()},
        "tables": {t.name: {"columns": [*map(str, t.shown)], "at": t.at} for t in tables},
        "figures": {
            f.name: {
                "spec": _spec(f.chart),
                "scales": dict(f.scales),
                "switches": dict(f.switches),
            }
            for f in figures
            if f.chart is not None
        },
    }
    page = _template().render(
        title=title,
        facts=facts,
        sections=sections,
        svg={f.name: _statics(f) for f in figures},
        rows={t.name: _static_rows(t.shown) for t in tables},
        state=_json(state),
        programs=_programs(),
        style=_file("style.css") + style,
        script=_file("script.js"),
    )
    write_text(path, page)
    return path


def checked(path: str | Path) -> Path:
    """The path, or an error before anything is made for it."""
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write the report: {path} is a directory")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"cannot write the report: there is no directory {path.parent}")
    return path


def _check(sections: Sequence[Section]) -> None:
    figures = [figure for section in sections for figure in section.figures]
    tables = [table.name for section in sections for table in section.tables]
    names = [section.name for section in sections], [figure.name for figure in figures], tables
    for what, found in zip(("sections", "figures", "tables"), names, strict=True):
        twice = [name for name in found if found.count(name) > 1]
        if twice:
            raise ValueError(f"{what} must have a name each, got {twice[0]!r} twice")
    for figure in figures:
        for axis, kind in figure.scales.items():
            if axis not in ("x", "y") or kind not in ("log", "linear"):
                raise ValueError(f"scales must be x, y -> log, linear, got {figure.scales!r}")
        if figure.chart is None and figure.static is None:
            raise ValueError(f"figure {figure.name!r} has neither a chart nor a static figure")


def _named(sections: Sequence[Section]) -> dict[str, Any]:
    """All tables by name, those of the charts too."""
    named: dict[str, Any] = {}
    for section in sections:
        own = [(table.name, table.frame) for table in section.tables]
        own += [pair for figure in section.figures for pair in figure.data.items()]
        for name, frame in own:
            if named.setdefault(name, frame) is not frame:
                raise ValueError(f"two tables are called {name!r}")
    return named


def _columns(frame: Any) -> dict[str, Any]:
    """A table by columns; strings as numbers of their distinct values."""
    found: dict[str, Any] = {}
    for column in frame.columns:
        values = frame[column]
        if pandas.api.types.is_numeric_dtype(values) and values.dtype != bool:
            found[str(column)] = [_plain(value) for value in values]
        else:
            codes, levels = pandas.factorize(values.astype(str))
            found[str(column)] = {"levels": [str(v) for v in levels], "codes": codes.tolist()}
    return found


def _plain(value: Any) -> Any:
    """A value that JSON has: NaN is null, infinity a word, a float has 7 digits."""
    if isinstance(value, str):
        return value
    number = float(value)
    if math.isnan(number):
        return None
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    short = float(f"{number:.{_DIGITS}g}") if abs(number) < 2**53 and number % 1 else number
    return int(short) if short == int(short) and abs(short) < 2**53 else short


def _spec(chart: Any) -> dict[str, Any]:
    spec = chart if isinstance(chart, Mapping) else chart.to_dict()
    return {k: v for k, v in spec.items() if k not in ("config", "$schema")}


def _statics(figure: Figure) -> dict[str, str]:
    """Title -> <svg> element of what stands for a chart; the title of a single one is empty."""
    if figure.static is None:
        return {}
    several = figure.static if isinstance(figure.static, Mapping) else {"": figure.static}
    return {
        title: compact(one) if isinstance(one, str) else _svg(one, f"{figure.name}{i or ''}")
        for i, (title, one) in enumerate(several.items())
    }


def _svg(figure: Any, name: str) -> str:
    """A matplotlib figure as an <svg> element whose identifiers are its own."""
    text = io.StringIO()
    # Text stays text, which is smaller and can be read aloud; the same file each time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=False, metadata={"Date": None})
    return compact(text.getvalue())


def compact(drawn: str) -> str:
    """The <svg> element of matplotlib's SVG file, in a third of its length, looking the same.

    Equal styles become a class; hundredths of a point are enough; the names of groups, which are
    the same in each figure, go. A class is named after its style, so that figures may share it.
    """
    drawn = re.sub(r"<metadata>.*?</metadata>\n?", "", drawn[drawn.index("<svg") :], flags=re.S)
    # The rule is for all elements, which on a page are not the figure's alone.
    drawn, every = re.subn(r"<defs>\s*<style[^>]*>\*\{([^}]*)\}</style>\s*</defs>", "", drawn)
    if every:
        drawn = drawn.replace("<svg ", '<svg style="stroke-linejoin:round;stroke-linecap:butt" ', 1)
    drawn = re.sub(r'(<g) id="\w+_\d+"', r"\1", drawn)
    drawn = drawn.replace(' transform="rotate(-0 ', ' transform="rotate(0 ')
    drawn = re.sub(r' transform="rotate\(0 [^"]*"', "", drawn)
    drawn = re.sub(
        r"(font-family: |px )'DejaVu Sans'[^;\"]*", r"\1'DejaVu Sans', sans-serif", drawn
    )

    def shorter(found: re.Match[str]) -> str:
        text = re.sub(r"(\.\d\d)\d+", r"\1", found[0])
        return re.sub(r"\s*([MLCQz])\s*", r"\1", text) if text.startswith(" d=") else text

    drawn = re.sub(r' (?:d|x|y|transform|width|height)="[^"]*"', shorter, drawn)
    rules: dict[str, str] = {}

    def named(found: re.Match[str]) -> str:
        style = re.sub(r"([:;,]) ", r"\1", found[1])
        if drawn.count(found[0]) == 1:
            return f' style="{style}"'
        rules[style] = f"m{zlib.crc32(style.encode()):08x}"
        return f' class="{rules[style]}"'

    head, end, body = drawn.partition(">")
    body = re.sub(r' style="([^"]*)"', named, body)
    style = "".join(f".{name}{{{rule}}}" for rule, name in rules.items())
    return re.sub(r"\n\s*", "\n", f"{head}{end}<style>{style}</style>{body}")


def _static_rows(frame: Any) -> list[list[str]]:
    """The last rows as text, for a page without JavaScript."""
    return [[_said(v) for v in row] for row in frame.tail(_STATIC_ROWS).itertuples(index=False)]


def _said(value: Any) -> str:
    if isinstance(value, str):
        return value
    number = float(value)
    if math.isnan(number):
        return "–"
    return f"{number:.0f}" if number % 1 == 0 and abs(number) < 1e9 else f"{number:.4g}"


def _json(state: Any) -> str:
    """JSON that ends no <script> element."""
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


@functools.cache
def _programs() -> str:
    """Vega, Vega-Lite and Vega-Embed in the version that Altair writes for; takes seconds."""
    version = ".".join(alt.VEGALITE_VERSION.removeprefix("v").split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version)
    return bundle.replace("</script", "<\\/script")


def _file(name: str) -> str:
    return resources.files("sharpjax.report").joinpath(name).read_text(encoding="utf-8")


def _template() -> jinja2.Template:
    settings: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, **settings)
    return environment.from_string(_file("template.html"))
