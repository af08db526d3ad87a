"""The report of a run, made of its records alone: one HTML file, and the tables on a terminal."""

import base64
import dataclasses
import html
import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from experiments import claims, figures, paper, records


@dataclasses.dataclass(frozen=True)
class Table:
    """A table before it is HTML: its first column holds names, the others numbers or words."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str = ""


def write_report(directory: Path | str) -> Path:
    """Writes report.html, claims.json and figures/ into a run's directory; returns report.html.

    Raises:
      ValueError: the directory holds no records.
    """
    directory = Path(directory)
    run = _Run(directory)
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
    run = _Run(Path(directory))
    found = claims.evaluate(run.rows)
    for column in run.columns():
        _print(_short_ratio_table(run, column), console)
    _print(_claim_table(found), console)
    console.print(_verdict(found))


def number(value: float, digits: int = 3) -> str:
    """A number as the report prints it: 0.0123, 4.5×10⁻⁶, n/a."""
    if math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}×10{_superscript(int(exponent))}".replace("-", "−")


def plus_minus(summary: claims.Summary) -> str:
    """Mean ± standard deviation in one common power of ten; without the latter if there is none."""
    mean, sd = summary.mean, summary.sd
    if math.isnan(sd) or not math.isfinite(mean) or mean == 0:
        return number(mean)
    if 1e-3 <= abs(mean) < 1e4:
        decimals = max(0, 2 - math.floor(math.log10(abs(mean))))
        return f"{mean:.{decimals}f} ± {sd:.{decimals}f}".replace("-", "−")
    exponent = math.floor(math.log10(abs(mean)))
    text = f"({mean / 10**exponent:.2f} ± {sd / 10**exponent:.2f})×10{_superscript(exponent)}"
    return text.replace("-", "−")


def _superscript(exponent: int) -> str:
    return str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


class _Run:
    """Everything that a run has written down so far."""

    def __init__(self, directory: Path):
        self.tables = {table: records.read(directory, table) for table in records.TABLES}
        self.rows = [row for rows in self.tables.values() for row in rows]
        if not self.rows:
            raise ValueError(f"{directory}: no records to report; has a run been made here?")
        self.config = _load(directory / "config.json")
        self.provenance = _load(directory / "provenance.json")

    def columns(self) -> list[tuple[str, str]]:
        return paper.columns(self.tables[records.Sharpness])

    def epochs(self, column: tuple[str, str]) -> list[int]:
        rows = self.tables[records.Sharpness]
        return sorted({r.epoch for r in rows if (r.task, r.trajectory) == column})

    def by_cell(self, value: str) -> dict[tuple, claims.Summary]:
        """(task, trajectory, epoch, algorithm) -> summary of a column of sharpness.csv."""
        rows = self.tables[records.Sharpness]
        return claims.group(rows, ("task", "trajectory", "epoch", "algorithm"), value)

    def convergence_tasks(self) -> list[str]:
        present = {row.task for row in self.tables[records.Convergence]}
        return [task for task in paper.TASKS if task in present]


def _load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


# --- The page -------------------------------------------------------------------------------------

_CSS = """
:root { color-scheme: light; --ink: #1c1c1c; --soft: #5a5a5a; --line: #d9d9d9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 76rem; color: var(--ink);
  background: #fff; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; padding-top: .5rem;
  border-top: 2px solid var(--ink); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p { max-width: 46rem; }
.verdict { font-size: 1.2rem; line-height: 1.4; padding: .8rem 1rem; background: #f4f4f0;
  border-left: 4px solid var(--ink); max-width: none; }
.caption { color: var(--soft); font-size: .85rem; margin: .4rem 0 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .8rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .42rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 1.5px solid var(--ink); text-align: right; vertical-align: bottom; }
td { text-align: right; white-space: nowrap; }
th:first-child { text-align: left; font-weight: 500; position: sticky; left: 0;
  background: #fff; }
tbody th { font-weight: 400; white-space: nowrap; padding-right: 1rem; }
table.words td, table.words thead th { text-align: left; white-space: normal;
  padding-right: 1.2rem; }
table.words { font-size: .85rem; }
table.words tbody th { white-space: normal; min-width: 14rem; }
table.words td.held, table.words td.not, table.words td.part { white-space: nowrap; }
td.paper, th.paper { color: var(--soft); }
td.held { background: #e3eef8; }
td.not { background: #fbe3d2; }
td.part { background: #f6f0cf; }
figure { margin: 1.4rem 0 2rem; }
figure img { display: block; width: 100%; min-width: 40rem; height: auto; }
figure img.small { max-width: 48rem; min-width: 34rem; }
figure h3 { margin: 0 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: .9rem;
  margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
pre { font-size: .78rem; line-height: 1.4; background: #f6f6f6; padding: .8rem;
  overflow-x: auto; }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 3rem; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
  tbody th:first-child { max-width: 9.5rem; white-space: normal; padding-right: .42rem; }
  table.words tbody th:first-child { position: static; min-width: 9.5rem; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  .scroll { overflow: visible; }
  figure img { min-width: 0; }
  table { font-size: 7.5pt; }
  th, td { padding: .15rem .35rem; }
  td.held, td.not, .verdict { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  figure, tr, table:not(.words) { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""


def _page(run: _Run, found: list[claims.Claim], drawn: list[figures.Drawn]) -> str:
    preset = run.config.get("preset")
    title = "Directional sharpness" + (f": the {preset} study" if preset else "")
    body = "\n".join(_sections(run, found, drawn))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _sections(run: _Run, found: list[claims.Claim], drawn: list[figures.Drawn]) -> Iterator[str]:
    def pictures(prefix: str) -> Iterator[str]:
        return (_figure(d) for d in drawn if d.name.startswith(prefix))

    yield (
        "<p>How steep, how sharp and how far down the loss goes along the directions of seven "
        "optimizers at the same points, after “Toward Understanding Why Adam Converges Faster "
        "Than SGD for Transformers” (OPT 2022).</p>"
    )
    yield f'<p class="verdict">{html.escape(_verdict(found))}</p>'
    yield _facts(run)
    yield "<h2>The paper’s claims</h2>"
    yield _table(_claim_table(found), words=True)
    remarks = _remark_table(found)
    yield _table(remarks, words=True) if remarks.rows or remarks.caption else ""
    if run.columns():
        cells = _cell_table(found)
        yield _table(cells, words=True) if cells.rows else ""
        yield "<h2>Directional sharpness</h2>"
        yield from (_table(_ratio_table(run, column)) for column in run.columns())
        yield from pictures("sharpness")
        yield _table(_sharpness_table(run))
    if any(d.name.startswith("landscape") for d in drawn):
        yield "<h2>The loss along each direction</h2>"
        yield from pictures("landscape")
    if run.columns():
        yield "<h2>Where the size of an update lies</h2>"
        yield from pictures("histogram")
        yield _table(_share_table(run))
    if run.convergence_tasks() or run.tables[records.Tuning]:
        yield "<h2>Convergence</h2>"
    if run.convergence_tasks():
        yield from pictures("convergence")
        yield _table(_final_table(run))
        yield _table(_rate_table(run))
    tuned = {row.task for row in run.tables[records.Tuning]}
    yield from (_table(_tuning_table(run, task)) for task in paper.TASKS if task in tuned)
    if run.config:
        yield "<h2>Configuration</h2>"
        text = json.dumps(_public(run.config), indent=2, ensure_ascii=False)
        yield f"<pre>{html.escape(text)}</pre>"


_VERDICTS = {"held": ("✓ ", "held"), "not held": ("✗ ", "not"), "in part": ("◐ ", "part")}


def _table(table: Table, words: bool = False) -> str:
    papers = {i for i, name in enumerate(table.header) if name.startswith("paper")}

    def cell(tag: str, i: int, text: str) -> str:
        kind = {"held": "held", "not held": "not", "in part": "part"}.get(
            text, "paper" if i in papers else ""
        )
        mark = {"held": "✓ ", "not held": "✗ ", "in part": "◐ "}.get(text, "")
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


def _figure(drawn: figures.Drawn) -> str:
    data = base64.b64encode(drawn.svg.read_bytes()).decode("ascii")
    small = ' class="small"' if drawn.name.startswith("convergence") else ""
    title, caption = html.escape(drawn.title), html.escape(drawn.caption)
    return (
        f'<figure><h3>{title}</h3><div class="scroll"><img{small} alt="{title}. {caption}" '
        f'src="data:image/svg+xml;base64,{data}"></div>'
        f'<figcaption class="caption">{caption}</figcaption></figure>'
    )


def _facts(run: _Run) -> str:
    """What run this is, as a definition list; what is not recorded is left out."""
    config, provenance = run.config, run.provenance
    facts: list[tuple[str, str]] = [("Preset", str(config.get("preset", "")))]
    facts += [("Progress", _progress(run))]
    for task, about in provenance.get("tasks", {}).items():
        facts.append((paper.TASKS.get(task, task), _task_fact(about)))
    seeds = sorted({row.seed for row in run.rows})
    facts.append(("Seeds" if len(seeds) > 1 else "Seed", ", ".join(map(str, seeds))))
    facts.append(("Device", str(provenance.get("device", ""))))
    facts.append(("Precision", str(provenance.get("precision", ""))))
    versions = provenance.get("versions", {})
    software = [f"sharpjax {provenance['sharpjax']}"] if "sharpjax" in provenance else []
    software += [f"{name} {version}" for name, version in versions.items() if name != "sharpjax"]
    facts.append(("Versions", ", ".join(software)))
    facts.append(("Commit", str(provenance.get("commit", ""))))
    walls = provenance.get("wall_seconds", {})
    times = [f"{stage} {_duration(seconds)}" for stage, seconds in walls.items()]
    if len(times) > 1:
        times.append(f"together {_duration(sum(walls.values()))}")
    facts.append(("Wall time", "; ".join(times)))
    items = (f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts if v)
    return f"<dl>{''.join(items)}</dl>"


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
        size = f" of {about['parameters']:,} parameters" if "parameters" in about else ""
        parts.append(f"model {_public(about['model'])}{size}")
    if "start" in about:
        loss = about.get("start_loss")
        at = f", at loss {number(loss)}" if isinstance(loss, int | float) else ""
        parts.append(f"{_public(about['start'])}{at}")
    return "; ".join(part for part in parts if part)


def _progress(run: _Run) -> str:
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
        (done if count == len(paper.ALGORITHMS) else missing).append(
            f"{paper.TASKS[task]}, {count} of {len(paper.ALGORITHMS)} convergence runs"
        )
    if missing:
        return f"incomplete: {'; '.join(missing)}" + f". Complete: {'; '.join(done)}" * bool(done)
    runs = len(run.convergence_tasks()) * len(paper.ALGORITHMS)
    batches = sum(map(len, points.values()))
    return f"complete: {batches} measured batches and {runs} convergence runs"


def _duration(seconds: float) -> str:
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


# --- The tables -----------------------------------------------------------------------------------


def _ratio_table(run: _Run, column: tuple[str, str]) -> Table:
    epochs, ours = run.epochs(column), run.by_cell("ratio")
    errors, where = _float64_errors(run, column)
    rows = []
    for algorithm, label in paper.ALGORITHMS.items():
        row = [label]
        for epoch in epochs:
            summary = ours.get((*column, epoch, algorithm))
            printed = paper.SHARPNESS_RATIO.get((*column, epoch), {}).get(algorithm, math.nan)
            row += [plus_minus(summary) if summary else "–"]
            row += ["–" if math.isnan(printed) else number(printed)]
        rows.append((*row, number(errors[algorithm], 2) if algorithm in errors else "–"))
    header = [name for epoch in epochs for name in (f"epoch {epoch}", "paper")]
    counts = {s.count for (*cell, _, _), s in ours.items() if tuple(cell) == column}
    seeds = {r.seed for r in run.tables[records.Sharpness] if (r.task, r.trajectory) == column}
    measured = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
    caption = (
        f"Mean ± standard deviation of sharpness/|SGD’s| over {measured} measured batches "
        f"({len(seeds)} seed{'s' * (len(seeds) > 1)}). {where}"
    )
    label = f"Table {paper.TABLE[column]}: " if column in paper.TABLE else ""
    title = f"{label}{paper.column_name(column)}"
    return Table(title, ("", *header, "float64 error"), rows, caption)


def _short_ratio_table(run: _Run, column: tuple[str, str]) -> Table:
    epochs, ours = run.epochs(column), run.by_cell("ratio")
    rows = []
    for algorithm, label in paper.ALGORITHMS.items():
        row = [label]
        for epoch in epochs:
            summary = ours.get((*column, epoch, algorithm))
            printed = paper.SHARPNESS_RATIO.get((*column, epoch), {}).get(algorithm)
            pair = (summary.mean if summary else None, printed)
            row.append(" / ".join(map(_short, pair)))
        rows.append(tuple(row))
    full = _ratio_table(run, column)
    return Table(full.title, ("ours / paper", *(f"epoch {e}" for e in epochs)), rows)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}".replace("e-0", "e-")


def _float64_errors(run: _Run, column: tuple[str, str]) -> tuple[dict[str, float], str]:
    """Algorithm -> largest relative error, and where it was measured: here, else anywhere."""
    rows = run.tables[records.Precision]
    here = [r for r in rows if (r.task, r.trajectory) == column] or rows
    if not here:
        return {}, "No comparison with float64 is recorded."
    points = sorted({(r.task, r.trajectory, r.seed, r.epoch, r.batch) for r in here})
    task, trajectory, _, epoch, batch = points[0]
    where = f"{paper.column_name((task, trajectory))}, epoch {epoch}, batch {batch}"
    more = f" and {len(points) - 1} more points, the largest" * (len(points) > 1)
    errors: dict[str, float] = {}
    for row in here:
        errors[row.algorithm] = max(row.relative_error, errors.get(row.algorithm, 0.0))
    return errors, f"float64 error: |sharpness − float64’s|/|float64’s|, measured at {where}{more}."


def _sharpness_table(run: _Run) -> Table:
    columns = run.columns()
    rows_of = run.tables[records.Sharpness]
    ours = claims.group(rows_of, ("task", "trajectory", "algorithm"), "sharpness")
    rows = [
        (
            label,
            *(plus_minus(ours[*c, a]) if (*c, a) in ours else "–" for c in columns),
            number(paper.MEAN_SHARPNESS[a]),
        )
        for a, label in paper.ALGORITHMS.items()
    ]
    header = ("", *map(paper.column_name, columns), "paper, translation, one epoch")
    caption = (
        "vᵀHv for the unit direction v, in nats per squared unit of distance; mean ± standard "
        "deviation over all measured batches, epochs and seeds. The paper’s numbers belong to its "
        "own model."
    )
    return Table("Mean sharpness, not as a ratio (Figure 2)", header, rows, caption)


def _share_table(run: _Run) -> Table:
    columns = run.columns()
    by = ("task", "trajectory", "algorithm")
    ours = claims.group(run.tables[records.Sharpness], by, "top_share")
    rows = [
        (label, *(_percent(ours[*c, a].mean) if (*c, a) in ours else "–" for c in columns))
        for a, label in paper.ALGORITHMS.items()
    ]
    share = run.config.get("clip_fraction")
    top = f"largest {100 * share:g} %" if isinstance(share, int | float) else "largest few per cent"
    caption = (
        f"Share of ‖update‖² that lies in the {top} of its coordinates, mean over measured batches."
    )
    title = "How concentrated each update is"
    return Table(title, ("", *map(paper.column_name, columns)), rows, caption)


def _rate_table(run: _Run) -> Table:
    used: dict[tuple, set] = {}
    for row in run.tables[records.Convergence]:
        used.setdefault((row.task, row.algorithm), set()).add(row.learning_rate)
    tasks = run.convergence_tasks()
    rows = []
    for algorithm, label in paper.ALGORITHMS.items():
        row = [label]
        for task in tasks:
            row.append(", ".join(sorted(used.get((task, algorithm), {"–"}))))
            row.append(paper.LEARNING_RATES[task][algorithm])
        rows.append(tuple(row))
    header = [name for task in tasks for name in (paper.TASKS[task], "paper")]
    caption = "“relative”: Adafactor’s own step, which follows each tensor’s scale."
    return Table("Learning rates (Table 2)", ("", *header), rows, caption)


def _final_table(run: _Run) -> Table:
    losses: dict[tuple, list[float]] = {}
    for (task, _, algorithm), loss in claims.final_losses(run.tables[records.Convergence]).items():
        losses.setdefault((task, algorithm), []).append(loss)
    tasks = run.convergence_tasks()

    def cell(task, algorithm):
        if (task, algorithm) not in losses:
            return "–"
        values = losses[task, algorithm]
        diverged = sum(math.isinf(v) for v in values)
        if diverged:
            return "diverged" if diverged == len(values) == 1 else f"{diverged} diverged"
        return plus_minus(claims.summarize(values))

    rows = [(label, *(cell(t, a) for t in tasks)) for a, label in paper.ALGORITHMS.items()]
    epochs = max(row.epoch for row in run.tables[records.Convergence])
    caption = f"Mean over the last epoch recorded ({epochs}). –: this run is still on its way."
    title = "Final training loss"
    return Table(title, ("", *(paper.TASKS[t] for t in tasks)), rows, caption)


def _tuning_table(run: _Run, task: str) -> Table:
    tried = [row for row in run.tables[records.Tuning] if row.task == task]
    rates = sorted({r.learning_rate for r in tried}, key=_rate)
    rows = []
    for algorithm, label in paper.ALGORITHMS.items():
        mine = {r.learning_rate: r for r in tried if r.algorithm == algorithm}
        if mine:
            rows.append((label, *(_tried(mine.get(rate)) for rate in rates)))
    steps = " or ".join(str(n) for n in sorted({r.steps for r in tried}))
    caption = f"Mean training loss over the last fifth of {steps} steps. ◀: chosen."
    return Table(f"The search for learning rates: {paper.TASKS[task]}", ("", *rates), rows, caption)


def _tried(row: records.Tuning | None) -> str:
    if row is None:
        return "–"
    loss = "diverged" if row.diverged else number(row.loss)
    return f"{loss} ◀" if row.chosen else loss


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def _claim_table(found: list[claims.Claim]) -> Table:
    rows = []
    for claim in found:
        state = "held" if claim.held == claim.total else "not held" if not claim.held else "in part"
        ours = f"{claim.held}\u00a0of\u00a0{claim.total}" if claim.total else "–"
        rows.append((claim.statement, state if claim.total else "no data", ours, claim.paper))
    caption = "Counted in cells: task, trajectory and epoch; for the final loss, tasks."
    return Table("Held or not, and how often", ("", "verdict", "ours", "paper"), rows, caption)


def _cell_table(found: list[claims.Claim]) -> Table:
    """One row a cell, one column an ordering."""
    counted = [c for c in found if c.is_ordering]
    cells: dict[tuple, dict[str, bool]] = {}
    for claim in counted:
        for detail in claim.details:
            cells.setdefault(tuple(detail.cell.values()), {})[claim.name] = detail.held
    words = {True: "held", False: "not held", None: "–"}
    rows = [
        (
            f"{paper.column_name(cell[:2])}, epoch {cell[2]}",
            *(words[held.get(claim.name)] for claim in counted),
        )
        for cell, held in cells.items()
    ]
    header = ("", *(claim.statement for claim in counted))
    return Table("The seven orderings, cell by cell", header, rows)


def _remark_table(found: list[claims.Claim]) -> Table:
    """Every comparison that failed, with its numbers; below, what to know of those that did not."""
    rows, notes = [], {}
    for claim in found:
        for detail in claim.details:
            cell = detail.cell
            where = paper.TASKS.get(cell["task"], cell["task"])
            if "epoch" in cell:
                column = (cell["task"], cell["trajectory"])
                where = f"{paper.column_name(column)}, epoch {cell['epoch']}"
            for note in filter(None, detail.note.split("; ")):
                notes[f"{where}: {note}."] = None
            for low, high in detail.broken:
                pair = f"{_named(detail.ours, low)} is not below {_named(detail.ours, high)}"
                papers = [_named(detail.paper, a) for a in (low, high) if a in detail.paper]
                rows.append((claim.statement, where, pair, " < ".join(papers) or "–"))
    header = ("", "where", f"{len(rows)} comparisons", "paper")
    return Table("What did not hold", header, rows, " ".join(notes))


def _named(values: dict[str, float], algorithm: str) -> str:
    return f"{paper.ALGORITHMS[algorithm]} {number(values[algorithm])}"


def _percent(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{100 * share:.1f} %"


def _verdict(found: list[claims.Claim]) -> str:
    held, total = claims.orderings(found)
    if not total:
        return "No cell of Tables 3 to 6 is measured yet, so none of the orderings is tested."
    share = f" ({100 * held / total:.0f} %)" if held < total else ""
    cells = max(claim.total for claim in found if claim.is_ordering)
    return (
        f"{held} of {total} orderings of sharpness held{share}, with seven tested in each of "
        f"{cells} measured cell{'s' * (cells > 1)}. In the paper all 112 hold, in 16 cells."
    )
