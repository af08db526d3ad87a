"""The report of a run, made of its records alone: one HTML file, and the tables on a terminal."""

import base64
import html
import json
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from experiments import paper, records
from experiments.report import anatomy_tables, claims, figures, step_tables, tables
from experiments.report.figure_files import Drawn
from experiments.report.tables import Run, Table, number

_CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")


def write_report(directory: Path | str) -> Path:
    """Writes report.html, claims.json and figures/ into a run's directory; returns report.html.

    Raises:
      ValueError: the directory holds no records.
    """
    directory = Path(directory)
    run = Run(directory)
    found = claims.evaluate(run.rows)
    records.write_json(directory / "claims.json", claims.to_json(found))
    drawn = figures.draw_all(directory)
    path = directory / "report.html"
    records.write_atomically(path, _page(run, found, drawn))
    return path


def print_tables(directory: Path | str, console: Console | None = None) -> None:
    """Prints Tables 3 to 6 (ours / the paper's) and how often each claim held.

    Raises:
      ValueError: the directory holds no records.
    """
    console = console or Console()
    run = Run(Path(directory))
    found = claims.evaluate(run.rows)
    for column in run.columns():
        _print(tables.short_ratio_table(run, column), console)
    _print(tables.claim_table(found, run), console)
    console.print(tables.verdict(found, run))


# --- The page -------------------------------------------------------------------------------------


def _page(run: Run, found: list[claims.Claim], drawn: list[Drawn]) -> str:
    preset = run.config.get("preset")
    title = "Directional sharpness" + (f": the {preset} study" if preset else "")
    body = "\n".join(_sections(run, found, drawn))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_CSS}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _sections(run: Run, found: list[claims.Claim], drawn: list[Drawn]) -> Iterator[str]:
    def pictures(prefix: str) -> Iterator[str]:
        return (_figure(d) for d in drawn if d.name.startswith(prefix))

    yield (
        "<p>How steep, how sharp and how far down the loss goes along the directions of "
        f"{paper.seven(run.measured)}optimizers at the same points, after “Toward Understanding "
        "Why Adam Converges Faster Than SGD for Transformers” (OPT 2022).</p>"
    )
    yield f'<p class="verdict">{html.escape(tables.verdict(found, run))}</p>'
    yield _facts(run)
    yield "<h2>The paper’s claims</h2>"
    yield _table(tables.claim_table(found, run), words=True)
    remarks = tables.remark_table(found)
    yield _table(remarks, words=True) if remarks.rows or remarks.caption else ""
    if run.columns():
        cells = tables.cell_table(found)
        yield _table(cells, words=True) if cells.rows else ""
        yield "<h2>Directional sharpness</h2>"
        yield from (_table(tables.ratio_table(run, column)) for column in run.columns())
        yield from pictures("sharpness")
        yield _table(tables.sharpness_table(run))
    if any(d.name.startswith("landscape") for d in drawn):
        yield "<h2>The loss along each direction</h2>"
        yield from pictures("landscape")
        critical = step_tables.critical_table(run)
        yield _table(critical) if critical else ""
    if run.columns():
        yield "<h2>Where the size of an update lies</h2>"
        yield from pictures("histogram")
        yield _table(tables.share_table(run))
        overlap = step_tables.overlap_table(run)
        yield _table(overlap) if overlap else ""
    if run.convergence_tasks() or run.tables[records.Tuning]:
        yield "<h2>Convergence</h2>"
    if run.convergence_tasks():
        yield from pictures("convergence")
        yield _table(tables.final_table(run))
        yield _table(tables.rate_table(run))
    tuned = {row.task for row in run.tables[records.Tuning]}
    yield from (_table(tables.tuning_table(run, task)) for task in paper.TASKS if task in tuned)
    yield from anatomy_tables.sections(run.directory, _table, _figure)
    if run.config:
        yield "<h2>Configuration</h2>"
        text = json.dumps(_public(run.config), indent=2, ensure_ascii=False)
        yield f"<pre>{html.escape(text)}</pre>"


_VERDICTS = {"held": ("✓ ", "held"), "not held": ("✗ ", "not"), "in part": ("◐ ", "part")}


def _table(table: Table, words: bool = False) -> str:
    papers = {i for i, name in enumerate(table.header) if name.startswith("paper")}

    def cell(tag: str, i: int, text: str) -> str:
        mark, kind = _VERDICTS.get(text, ("", "paper" if i in papers else ""))
        attribute = f' class="{kind}"' if kind else ""
        attribute += (' scope="row"' if i == 0 else "") if tag == "td" else ' scope="col"'
        tag = "th" if i == 0 else tag
        return f"<{tag}{attribute}>{mark}{html.escape(text)}</{tag}>"

    kind = ' class="words"' if words else ""
    head = "".join(cell("th", i, text) for i, text in enumerate(table.header))
    body = "\n".join(
        "<tr>" + "".join(cell("td", i, text) for i, text in enumerate(row)) + "</tr>"
        for row in table.rows
    )
    caption = f'<p class="caption">{html.escape(table.caption)}</p>' if table.caption else ""
    return (
        f'<h3>{html.escape(table.title)}</h3>\n<div class="scroll">'
        f"<table{kind}><thead><tr>{head}</tr></thead>\n"
        f"<tbody>{body}</tbody></table></div>{caption}"
    )


def _figure(drawn: Drawn) -> str:
    data = base64.b64encode(drawn.svg.read_bytes()).decode("ascii")
    small = ' class="small"' if drawn.name.startswith("convergence") else ""
    title, caption = html.escape(drawn.title), html.escape(drawn.caption)
    return (
        f'<figure><h3>{title}</h3><div class="scroll"><img{small} alt="{title}. {caption}" '
        f'src="data:image/svg+xml;base64,{data}"></div>'
        f'<figcaption class="caption">{caption}</figcaption></figure>'
    )


def _facts(run: Run) -> str:
    """What run this is, as a definition list."""
    items = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts(run))
    return f"<dl>{''.join(items)}</dl>"


def facts(run: Run) -> list[tuple[str, str]]:
    """What run this is: names and what is recorded of them; what is not is left out."""
    config, provenance = run.config, run.provenance
    found: list[tuple[str, str]] = [("Preset", str(config.get("preset", "")))]
    found += [("Progress", _progress(run))]
    for task, about in provenance.get("tasks", {}).items():
        found.append((paper.TASKS.get(task, task), _task_fact(about)))
    seeds = sorted({row.seed for row in run.rows})
    found.append(("Seeds" if len(seeds) > 1 else "Seed", ", ".join(map(str, seeds))))
    found.append(("Device", str(provenance.get("device", ""))))
    found.append(("Precision", str(provenance.get("precision", ""))))
    versions = provenance.get("versions", {})
    software = [f"sharpjax {provenance['sharpjax']}"] if "sharpjax" in provenance else []
    software += [f"{name} {version}" for name, version in versions.items() if name != "sharpjax"]
    found.append(("Versions", ", ".join(software)))
    commits = provenance.get("commits", [str(provenance.get("commit", ""))])
    found.append(("Commits" if len(commits) > 1 else "Commit", ", ".join(commits)))
    walls = provenance.get("wall_seconds", {})
    times = "; ".join(f"{stage} {duration(seconds)}" for stage, seconds in walls.items())
    together = f"{duration(sum(walls.values()))} together: " if len(walls) > 1 else ""
    found.append(("Wall time", together + times))
    memory = provenance.get("peak_memory_mib")
    found.append(("Peak memory", f"{memory / 1024:.1f} GiB" if memory else ""))
    return [(name, said) for name, said in found if said]


def _task_fact(about: dict[str, Any]) -> str:
    """One sentence: text and checksum, tokenizer, model, and where its training starts."""
    said = [str(_public(about.get("corpus", "")))]
    if "checksum" in about:
        said.append(f"(SHA-256 {about['checksum']})")
    parts = [" ".join(said).strip()]
    if "examples" in about:
        parts.append(f"{about['examples']:,} examples")
    if "tokenizer" in about:
        parts.append(f"tokenizer {_public(about['tokenizer'])}")
    if "model" in about:
        size = f", {about['parameters']:,} parameters" if "parameters" in about else ""
        parts.append(f"model {_public(about['model'])}{size}")
    if "start" in about:
        loss = about.get("start_loss")
        at = f", at loss {number(loss)}" if isinstance(loss, int | float) else ""
        parts.append(f"{_public(about['start'])}{at}")
    return "; ".join(part for part in parts if part)


def _progress(run: Run) -> str:
    """How much of what the configuration asks for is recorded, column by column."""
    config = run.config
    epochs, batches = config.get("measured_epochs"), config.get("measured_batches")
    if isinstance(batches, list | tuple):
        batches = len(batches)
    planned = len(epochs) * batches * config.get("replicates", 1) if epochs and batches else None
    points: dict[tuple, set] = {column: set() for column in run.columns()}
    for r in run.tables[records.Sharpness]:
        points[r.task, r.trajectory].add((r.seed, r.epoch, r.batch))
    missing, done = [], []
    for column, seen in points.items():
        whole = planned is None or len(seen) >= planned
        of = f" of {planned}" if planned else ""
        (done if whole else missing).append(
            f"{paper.column_name(column)}, {len(seen)}{of} batches measured"
        )
    total = config.get("epochs")
    for task in run.convergence_tasks():
        ends: dict[str, int] = {}
        for row in run.tables[records.Convergence]:
            if row.task == task:
                end = total if total and row.diverged else row.epoch
                ends[row.algorithm] = max(end, ends.get(row.algorithm, 0))
        count = sum(not total or end >= total for end in ends.values())
        (done if count == len(run.algorithms) else missing).append(
            f"{paper.TASKS[task]}, {count} of {len(run.algorithms)} convergence runs"
        )
    if missing:
        return f"incomplete: {'; '.join(missing)}" + f". Complete: {'; '.join(done)}" * bool(done)
    runs = len(run.convergence_tasks()) * len(run.algorithms)
    batches = sum(map(len, points.values()))
    return f"complete: {batches} measured batches and {runs} convergence runs"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _public(value: Any) -> Any:
    """The value with every file path cut to its last name: a report says what, not where."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public(item) for item in value]
    if not isinstance(value, str):
        return value
    words = []
    for word in value.split(" "):
        is_path = word.startswith(("/", "~", "./", "../")) or word.count("/") > 1
        words.append(PurePath(word).name if is_path else word)
    return " ".join(words)


def _print(table: Table, console: Console) -> None:
    shown = RichTable(title=table.title, title_justify="left", caption=table.caption or None)
    for i, name in enumerate(table.header):
        shown.add_column(name, justify="right" if i else "left")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown)
