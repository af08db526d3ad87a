"""The report of a run, made of its records alone: report.html, report.md and the terminal's."""

import base64
import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from experiments import paper, records
from experiments.report import anatomy_tables, claims, explanation_tables, facts, figures, tables
from experiments.report import table as made
from experiments.report.anatomy_figures import draw
from experiments.report.figure_files import Drawn
from experiments.report.recorded import Run
from experiments.report.table import Table
from experiments.rows import Tuning

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_WORDS = {">✓<": ">✓ held<", ">✗<": ">✗ not held<"}
Piece = str | Table | Drawn  # A string is Markdown.


def write_report(run: Run, console: Console | None = None) -> Path:
    """Writes report.html, report.md, claims.json and figures/; returns report.html.

    Args:
      run: The run, finished or not.
      console: If given, Tables 3 to 6 (ours / the paper's) and the claims are printed there.
    """
    found = claims.evaluate(run.rows)
    records.write_json(run.directory / "claims.json", claims.to_json(found))
    title, *pieces = sections(run, found)
    path = run.directory / "report.html"
    body = "\n".join(map(_as_html, (title, *pieces)))
    records.write_atomically(
        path,
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title[2:])}</title>\n<style>\n{_CSS}</style>\n</head>\n<body>\n"
        f"{body}\n</body>\n</html>\n",
    )
    records.write_atomically(run.directory / "report.md", _join(title, *pieces))
    if console:
        short = [tables.short_ratio_table(run, column) for column in run.columns()]
        for table in (*short, tables.claim_table(found, run)):
            console.print(Markdown(made.markdown(table).replace("\u00a0", " ")))
        console.print(tables.verdict(found, run))
    return path


def as_markdown(run: Run) -> str:
    """The report's Markdown."""
    return _join(*sections(run, claims.evaluate(run.rows)))


def sections(run: Run, found: list[claims.Claim]) -> list[Piece]:
    """What the report says, in its order."""
    preset = run.config.get("preset")
    title = "# Directional sharpness" + (f": the {preset} study" if preset else "")
    return [title, *filter(None, _sections(run, found))]


def _sections(run: Run, found: list[claims.Claim]) -> Iterator[Piece | None]:
    """All but the title; None for what is not recorded."""
    drawn = figures.draw_all(run)

    def pictures(prefix: str) -> list[Drawn]:
        return [d for d in drawn if d.name.startswith(prefix)]

    yield (
        "How steep, how sharp and how far down the loss goes along the directions of "
        f"{paper.seven(run.measured)}optimizers at the same points, after “Toward Understanding "
        "Why Adam Converges Faster Than SGD for Transformers” (OPT 2022)."
    )
    yield f"> {tables.verdict(found, run)}"
    yield Table("", ("", "recorded"), facts.facts(run))
    yield "## The paper’s claims"
    yield tables.claim_table(found, run)
    remarks = tables.remark_table(found)
    yield remarks if remarks.rows or remarks.caption else None
    if run.columns():
        cells = tables.cell_table(found)
        yield cells if cells.rows else None
        yield "## Directional sharpness"
        yield from (tables.ratio_table(run, column) for column in run.columns())
        yield from pictures("sharpness")
        yield tables.sharpness_table(run)
    if landscapes := pictures("landscape"):
        yield "## The loss along each direction"
        yield from landscapes
        yield tables.critical_table(run)
    if run.columns():
        yield "## Where the size of an update lies"
        yield from pictures("histogram")
        yield tables.share_table(run)
        yield tables.overlap_table(run)
    tuned = {row.task for row in run[Tuning]}
    if run.convergence_tasks() or tuned:
        yield "## Convergence"
    if run.convergence_tasks():
        yield from pictures("convergence")
        yield tables.final_table(run)
        yield tables.rate_table(run)
    yield from (tables.tuning_table(run, task) for task in paper.TASKS if task in tuned)
    for point, rows in run.points.items():
        yield from _anatomy(run.directory, point, rows)
    if run.config:
        yield "## Configuration"
        text = json.dumps(facts.public(run.config), indent=2, ensure_ascii=False)
        yield f"```json\n{text}\n```"


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


def _anatomy(directory: Path, point: tuple, rows: dict[type, list]) -> Iterator[Piece | None]:
    drawn = draw(directory, point, rows)
    where = f"{paper.column_name(point[:2])}, epoch {point[3]}, batch {point[4]}"
    yield f"## Anatomy of sharpness: {where}"
    for table, names in _ANATOMY:
        yield table(rows)
        yield from (drawn.get(f"anatomy_{name}") for name in names.split())


def _join(*pieces: Piece) -> str:
    return "\n\n".join(map(_as_markdown, pieces)) + "\n"


def _as_markdown(piece: Piece) -> str:
    if isinstance(piece, Table):
        return made.markdown(piece)
    if isinstance(piece, Drawn):
        where = piece.png.relative_to(piece.png.parents[1]).as_posix()
        return f"**{piece.title}**\n\n![{piece.title}]({where})\n\n{piece.caption}"
    return piece


def _as_html(piece: Piece) -> str:
    if isinstance(piece, str):
        return made.html(piece)
    caption = f'<p class="caption">{html.escape(piece.caption)}</p>' if piece.caption else ""
    title = f"<h3>{html.escape(piece.title)}</h3>" if piece.title else ""
    if isinstance(piece, Drawn):
        data = base64.b64encode(piece.svg.read_bytes()).decode("ascii")
        said = html.escape(f"{piece.title}. {piece.caption}")
        small = ' class="small"' if piece.name.startswith("convergence") else ""
        return (
            f'<figure>{title}<div class="scroll"><img{small} alt="{said}" '
            f'src="data:image/svg+xml;base64,{data}"></div>{caption}</figure>'
        )
    text = made.html(made.grid(piece)).replace("\u00a0", " ")
    for mark, words in _WORDS.items():
        text = text.replace(mark, words)
    return f'{title}\n<div class="scroll">{text}</div>{caption}'
