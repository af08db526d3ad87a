"""The report of a run, made of its records alone: report.html, report.md and the terminal's."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jinja2
from rich.console import Console
from rich.markdown import Markdown

from experiments import paper, records
from experiments.horizon_rows import Own
from experiments.report import (
    anatomy_tables,
    atlas,
    beside,
    claims,
    explanation_tables,
    facts,
    figures,
    interactive,
    stability,
    tables,
)
from experiments.report import table as made
from experiments.report.anatomy_figures import draw
from experiments.report.figure_files import Drawn
from experiments.report.interactive import Charts
from experiments.report.recorded import Run
from experiments.report.table import Table
from experiments.rows import Convergence, Sharpness, Tuning
from sharpjax.report import Figure, Section, write_page

_HERE = Path(__file__).parent
Piece = str | Table | Drawn | None  # A string is a paragraph; None is left out.


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the report: what Markdown has in its order."""

    name: str
    """The anchor of its heading."""
    title: str
    pieces: list[Piece]


def write_report(run: Run, console: Console | None = None) -> Path:
    """Writes report.html, report.md, claims.json and figures/; returns report.html.

    Args:
      run: The run, finished or not.
      console: If given, Tables 3 to 6 (ours / the paper's) and the claims are printed there.
    """
    records.write_json(run.directory / "claims.json", claims.to_json(run.claims))
    parts = [*make_parts(run)]
    path = _write_page(run, parts)
    records.write_atomically(run.directory / "report.md", as_markdown(run, parts))
    if console:
        short = [tables.short_ratio_table(run, column) for column in run.columns()]
        for table in (*short, tables.claim_table(run)):
            console.print(Markdown(made.markdown(table).replace("\u00a0", " ")))
        console.print(tables.verdict(run))
    return path


def _title(run: Run) -> str:
    preset = run.config.get("preset")
    return "Directional sharpness" + (f": the {preset} study" if preset else "")


def _introduction(run: Run) -> str:
    return (
        "How steep, how sharp and how far down the loss goes along the directions of "
        f"{paper.seven(run.measured)}optimizers at the same points, after “Toward Understanding "
        "Why Adam Converges Faster Than SGD for Transformers” (OPT 2022)."
    )


def make_parts(run: Run) -> Iterator[Part]:
    """What the report says after its introduction; a part of what is not recorded is left out."""
    drawn = [*figures.draw_all(run)]

    def pictures(prefix: str) -> list[Piece]:
        return [d for d in drawn if d.name.startswith(prefix)]

    remarks, cells = tables.remark_table(run.claims), tables.cell_table(run.claims)
    pieces = [
        tables.claim_table(run),
        remarks if remarks.rows or remarks.caption else None,
        cells if run.columns() and cells.rows else None,
    ]
    yield Part("claims", "The paper’s claims", pieces)
    if run.columns():
        ratios = (tables.ratio_table(run, column) for column in run.columns())
        pieces = [*ratios, *pictures("sharpness"), tables.sharpness_table(run)]
        yield Part("sharpness", "Directional sharpness", pieces)
    if landscapes := pictures("landscape"):
        pieces = [*landscapes, tables.critical_table(run)]
        yield Part("landscape", "The loss along each direction", pieces)
    if run.columns() or pictures("histogram"):
        pieces = pictures("histogram")
        if run.columns():
            pieces += [tables.share_table(run), tables.overlap_table(run)]
        yield Part("histogram", "Where the size of an update lies", pieces)
    pieces = pictures("convergence")
    if run.tasks(Convergence):
        pieces += [tables.final_table(run), tables.rate_table(run)]
    pieces += [tables.tuning_table(run, task) for task in run.tasks(Tuning)]
    if pieces:
        yield Part("convergence", "Convergence", pieces)
    if atlas.has_shared(run):
        own = run.directory / "own"
        ranks = atlas.correlation_table(run, Run(own)) if (own / Own.FILE).exists() else None
        found = (atlas.shared_table(run, task) for task in run.tasks(Sharpness))
        yield Part("atlas", "The atlas", [*pictures("atlas"), *found, ranks])
    if trained_alone := run.tasks(Own):
        found = (atlas.own_table(run, task) for task in trained_alone)
        ranks = atlas.correlation_table(None, run)
        yield Part("own", "Each on its own trajectory", [*pictures("own"), *found, ranks])
    if found := beside.tables(run):
        yield Part("beside", "Beside the study", [*pictures("beside"), *found])
    if margins := stability.table(run):
        yield Part("stability", "Stability along training", [*pictures("stability"), margins])
    if found := anatomy_tables.several(run.points):
        yield Part("points", "Anatomy over several points", [found])
    for point, rows in run.points.items():
        where = f"{paper.column_name(point[:2])}, epoch {point[3]}, batch {point[4]}"
        title = f"Anatomy of sharpness: {where}"
        yield Part(interactive.name_of(point), title, [*_anatomy(run.directory, point, rows)])


_ANATOMY: tuple[tuple[Callable[[dict], Table | None], str], ...] = (
    (anatomy_tables.context, "lorenz blocks contributions"),
    (anatomy_tables.conjecture, "density"),
    (lambda rows: None, "gauss_newton spectrum"),
    (anatomy_tables.span, "span"),
    (anatomy_tables.clipping, "fractions"),
    (explanation_tables.point, "preconditioned exact_diagonal block_spectra"),
    (explanation_tables.updates, "noise dominant"),
    (explanation_tables.tokens, "frequency"),
)


def _anatomy(directory: Path, point: tuple, rows: dict[type, list]) -> Iterator[Piece]:
    drawn = draw(directory, point, rows)
    for table, names in _ANATOMY:
        yield table(rows)
        yield from (drawn.get(f"anatomy_{name}") for name in names.split())


# --- Markdown -------------------------------------------------------------------------------------


def as_markdown(run: Run, parts: Iterable[Part]) -> str:
    """The report's Markdown, of its `make_parts`."""
    pieces: list[Piece] = [f"# {_title(run)}", _introduction(run)]
    pieces += [f"> {tables.verdict(run)}", _facts(run)]
    for part in parts:
        pieces += [f"## {part.title}", *part.pieces]
    if run.config:
        pieces += ["## Configuration", f"```json\n{_configuration(run)}\n```"]
    return made.document(_picture(p) if isinstance(p, Drawn) else p for p in pieces)


def _picture(drawn: Drawn) -> str:
    return f"**{drawn.title}**\n\n{drawn.image}\n\n{drawn.caption}"


def _facts(run: Run) -> Table:
    return Table("", ("", "recorded"), facts.facts(run))


def _configuration(run: Run) -> str:
    return json.dumps(facts.public(run.config), indent=2, ensure_ascii=False)


# --- The page -------------------------------------------------------------------------------------


def _write_page(run: Run, parts: list[Part]) -> Path:
    html, looks = _template(), interactive.looks_of(run)
    charts = interactive.of_run(run, looks)
    summary = html.verdict(tables.verdict(run))
    sections = [Section("summary", "Summary", (_introduction(run),), html=summary)]
    for part in parts:
        grids = [p for p in part.pieces if isinstance(p, Table)]
        body = ""
        if part.name == "claims":
            behind = [tables.numbers_table(claim) for claim in run.claims]
            body = str(html.claims(grids.pop(0), behind))
        for i, table in enumerate(grids, start=1):
            body += str(html.grid(table, f"{part.name}_{i}"))
        drawn, data = _figures(part, charts.get(part.name, Charts()))
        sections.append(Section(part.name, part.title, (), drawn, data, body))
    about = html.grid(_facts(run), "provenance")
    if run.config:
        about += html.code(_configuration(run))
    sections.append(Section("provenance", "Provenance and configuration", html=about))
    points = interactive.points(run)
    return write_page(
        sections,
        run.directory / "report.html",
        _title(run),
        looks=looks,
        points=points,
        start=interactive.start(points),
        labels=paper.TASKS | paper.TRAJECTORIES,
        facts=[f"{name}: {said}" for name, said in facts.facts(run) if name in _SHORT],
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
    )


_SHORT = ("Preset", "Progress", "Seed", "Seeds")


def _figures(part: Part, charts: Charts) -> tuple[tuple[Figure, ...], tuple[Any, ...]]:
    """The charts of a part, with the drawings of the same; other drawings stay as they are."""
    drawn = {p.name: p for p in part.pieces if isinstance(p, Drawn)}
    made = []
    for figure in charts.figures:
        prefix = "sharpness_ratios" if figure.name == "ratio" else figure.name
        stand = [drawn.pop(name) for name in [*drawn] if name.startswith(prefix)]
        static = {one.title: one.svg.read_text(encoding="utf-8") for one in stand}
        made.append(dataclasses.replace(figure, static=static or None))
    for one in drawn.values():
        text = one.svg.read_text(encoding="utf-8")
        made.append(Figure(one.name, None, one.title, caption=one.caption, static=text))
    return tuple(made), charts.tables


def _template() -> Any:
    """The macros of page.html."""
    settings: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    loader = jinja2.FileSystemLoader(_HERE)
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **settings)
    return environment.get_template("page.html").module
