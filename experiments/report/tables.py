"""The tables of a report on the two experiments, made of a run's records."""

import math
from collections.abc import Callable, Iterable
from statistics import median
from typing import Any

from experiments import paper
from experiments.report import claims
from experiments.report.recorded import Run
from experiments.report.table import Table, number, percent, plus_minus
from experiments.rows import Convergence, Precision, Search, Sharpness, Tuning
from sharpjax.plot import label

SHORT = {  # The seven orderings, where a column or a list of them has no room.
    "sgd_sharpest": "SGD sharpest",
    "clipping_flattens_sgd": "clipping lowers SGD",
    "clipping_flattens_normalized_sgd": "clipping lowers normalized SGD",
    "clipping_flattens_adafactor": "clipping lowers Adafactor",
    "adam_below_clipped_sgd": "Adam < clipped SGD",
    "adam_below_clipped_normalized_sgd": "Adam < clipped normalized SGD",
    "clipped_adafactor_flattest": "clipped Adafactor lowest",
}


def ratio_table(run: Run, column: tuple[str, str]) -> Table:
    """A column of Tables 3 to 6 beside the paper's."""
    epochs, ours = run.epochs(column), claims.group(run.of(column), claims.CELL, "ratio")
    errors, where = _float64_errors(run, column)
    rows = []
    for algorithm in run.measured:
        row = [label(algorithm)]
        for epoch in epochs:
            printed = paper.SHARPNESS_RATIO.get((*column, epoch), {}).get(algorithm)
            row.append(plus_minus(ours.get((*column, epoch, algorithm))))
            row.append("–" if printed is None else number(printed))
        rows.append((*row, number(errors[algorithm], 2) if algorithm in errors else "–"))
    header = [name for epoch in epochs for name in (f"epoch {epoch}", "paper")]
    counts = {summary.count for summary in ours.values()}
    seeds = {r.seed for r in run.of(column)}
    measured = " to ".join(str(n) for n in sorted({min(counts), max(counts)}))
    caption = (
        f"Mean ± standard deviation of sharpness/|SGD’s| over the {measured} measured batches "
        f"of each epoch ({len(seeds)} seed{'s' * (len(seeds) > 1)}). {where}"
    )
    numbered = f"Table {paper.TABLE[column]}: " if column in paper.TABLE else ""
    title = f"{numbered}{paper.column_name(column)}"
    return Table(title, ("", *header, "float64 error"), rows, caption)


def short_ratio_table(run: Run, column: tuple[str, str]) -> Table:
    """The same for a terminal."""
    epochs, ours = run.epochs(column), claims.group(run.of(column), claims.CELL, "ratio")

    def pair(*cell: Any) -> str:
        printed = paper.SHARPNESS_RATIO.get(cell[:3], {}).get(cell[3])
        summary = ours.get(cell)
        return f"{_short(summary and summary.mean)} / {_short(printed)}"

    rows = [(label(a), *(pair(*column, e, a) for e in epochs)) for a in run.measured]
    full = ratio_table(run, column)
    return Table(full.title, ("ours / paper", *(f"epoch {e}" for e in epochs)), rows)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}".replace("e-0", "e-")


def _float64_errors(run: Run, column: tuple[str, str]) -> tuple[dict[str, float], str]:
    """Algorithm -> largest relative error, and where it was measured: here, else anywhere."""
    here = run.of(column, Precision) or run[Precision]
    if not here:
        return {}, "No comparison with float64 is recorded."
    points = sorted({r.key[:5] for r in here})
    task, trajectory, _, epoch, batch = points[0]
    where = f"{paper.column_name((task, trajectory))}, epoch {epoch}, batch {batch}"
    others = len(points) - 1
    more = f" and {others} more point{'s' * (others > 1)}, the largest" * (others > 0)
    errors: dict[str, float] = {}
    for row in here:
        errors[row.algorithm] = max(row.relative_error, errors.get(row.algorithm, 0.0))
    return errors, f"float64 error: |sharpness − float64’s|/|float64’s|, measured at {where}{more}."


def _by_column(
    run: Run, title: str, caption: str, cell: Callable[[list[Any]], str], table: type = Sharpness
) -> Table:
    """A row an algorithm, a column of Tables 3 to 6 a column, of a cell's recorded rows."""
    groups = claims.grouped(((r.task, r.trajectory, r.algorithm), r) for r in run[table])
    columns = run.columns()
    rows = [
        (label(a), *(cell(groups[*c, a]) if (*c, a) in groups else "–" for c in columns))
        for a in run.measured
    ]
    return Table(title, ("", *map(paper.column_name, columns)), rows, caption)


def sharpness_table(run: Run) -> Table:
    """Mean sharpness itself, beside Figure 2's."""
    caption = (
        "vᵀHv for the unit direction v, in nats per squared unit of distance; mean ± standard "
        "deviation over all measured batches, epochs and seeds. The paper’s numbers belong to its "
        "own model."
    )
    title = "Mean sharpness, not as a ratio (Figure 2)"
    mean = lambda rows: plus_minus(claims.summarize(r.sharpness for r in rows))  # noqa: E731
    made = _by_column(run, title, caption, mean)
    printed = (paper.MEAN_SHARPNESS.get(a) for a in run.measured)
    rows = [
        (*row, "–" if value is None else number(value))
        for row, value in zip(made.rows, printed, strict=True)
    ]
    return Table(title, (*made.header, "paper, translation, one epoch"), rows, caption)


def share_table(run: Run) -> Table:
    """How much of each update lies in its top coordinates."""
    caption = (
        f"Share of ‖update‖² that lies in the {_top(run)} of its coordinates, mean over measured "
        "batches."
    )
    mean = lambda rows: percent(claims.summarize(r.top_share for r in rows).mean)  # noqa: E731
    return _by_column(run, "How concentrated each update is", caption, mean)


def critical_table(run: Run) -> Table | None:
    """How far the loss goes along each direction before it is back, and how far training goes."""
    if not run[Search] or not run.columns():
        return None
    newton = {r.key: r.newton_step for r in run[Sharpness]}
    caption = (
        "The critical step (where the test loss is back at its start) divided by the Newton step "
        "(the quadratic’s minimum); on a quadratic it is 2. Medians over the landscapes; n/a where "
        "none is known, or the loss is concave. The last row is the trajectory’s own update as it "
        "is applied, in the same unit, uᵀHu/(−gᵀu), over all measured batches."
    )
    made = _by_column(
        run,
        "How far each direction stays below the start",
        caption,
        lambda rows: middle(r.critical_step / newton.get(r.key, math.nan) for r in rows),
        Search,
    )
    rows = [tuple("n/a" if text == "–" else text for text in row) for row in made.rows]
    applied = ["as training goes"]
    for task, trajectory in run.columns():
        rate = run.rate_along(trajectory)
        own = (r for r in run.of((task, trajectory)) if r.algorithm == trajectory)
        applied.append(middle(rate * r.step_ratio for r in own))
    return Table(made.title, made.header, [*rows, tuple(applied)], caption)


def overlap_table(run: Run) -> Table | None:
    """How many of each update's top coordinates are among SGD's, and among Adam's."""
    fields = ("overlap_sgd", "overlap_adam")
    if all(math.isnan(getattr(r, f)) for r in run[Sharpness] for f in fields):
        return None
    caption = (
        f"The share of each update’s {_top(run)} coordinates that is also among SGD’s / among "
        "Adam’s, mean over measured batches. By chance it would be that same fraction."
    )

    def cell(rows: list[Any]) -> str:
        means = [mean(getattr(r, f) for r in rows) for f in fields]
        return "–" if all(map(math.isnan, means)) else " / ".join(map(percent, means))

    return _by_column(run, "How alike the updates’ top coordinates are", caption, cell)


def _top(run: Run) -> str:
    share = run.config.get("clip_fraction")
    known = isinstance(share, int | float)
    return f"largest {100 * share:g} %" if known else "largest few per cent"


def _known(values: Iterable[float]) -> list[float]:
    return [v for v in values if not math.isnan(v)]


def middle(values: Iterable[float]) -> str:
    """The median of those that are not NaN, as text; "n/a" of none."""
    known = _known(values)
    return number(median(known)) if known else "n/a"


def mean(values: Iterable[float]) -> float:
    """The mean of those that are not NaN; NaN of none."""
    known = _known(values)
    return sum(known) / len(known) if known else math.nan


def rate_table(run: Run) -> Table:
    used: dict[tuple, set] = {}
    for row in run[Convergence]:
        used.setdefault((row.task, row.algorithm), set()).add(row.learning_rate)
    tasks = run.tasks(Convergence)
    rows = []
    for algorithm in run.algorithms:
        row = [label(algorithm)]
        for task in tasks:
            row.append(", ".join(map(_rate_text, sorted(used.get((task, algorithm), {"–"})))))
            row.append(_rate_text(paper.LEARNING_RATES.get(task, {}).get(algorithm, "–")))
        rows.append(tuple(row))
    header = [name for task in tasks for name in (paper.TASKS[task], "paper")]
    caption = "“relative”: Adafactor’s own step, which follows each tensor’s scale."
    return Table("Learning rates (Table 2)", ("", *header), rows, caption)


def final_table(run: Run) -> Table:
    reached = claims.final_losses(run[Convergence])
    losses = claims.grouped(((task, name), loss) for (task, _, name), loss in reached.items())
    tasks = run.tasks(Convergence)

    def cell(task, algorithm):
        if (task, algorithm) not in losses:
            return "–"
        values = losses[task, algorithm]
        diverged = sum(math.isinf(v) for v in values)
        if diverged:
            return "diverged" if diverged == len(values) == 1 else f"{diverged} diverged"
        return plus_minus(claims.summarize(values))

    rows = [(label(a), *(cell(t, a) for t in tasks)) for a in run.algorithms]
    epochs = max(row.epoch for row in run[Convergence])
    caption = f"Mean over the last epoch recorded ({epochs})."
    if any("–" in row for row in rows):
        caption += " –: this run has not ended yet."
    title = "Final training loss"
    return Table(title, ("", *(paper.TASKS[t] for t in tasks)), rows, caption)


def tuning_table(run: Run, task: str) -> Table:
    tried = [row for row in run[Tuning] if row.task == task]
    rates = sorted({r.learning_rate for r in tried}, key=_rate)
    rows = []
    for algorithm in run.algorithms:
        mine = {r.learning_rate: r for r in tried if r.algorithm == algorithm}
        if mine:
            rows.append((label(algorithm), *(_tried(mine.get(rate)) for rate in rates)))
    steps = " or ".join(str(n) for n in sorted({r.steps for r in tried}))
    header = ("", *map(_rate_text, rates))
    end = "epoch" if run.config.get("tune_horizon") == "whole" else "fifth"
    caption = f"Mean training loss over the last {end} of {steps} steps. ◀: chosen."
    return Table(f"The search for learning rates: {paper.TASKS[task]}", header, rows, caption)


def _tried(row: Tuning | None) -> str:
    if row is None:
        return "–"
    loss = "diverged" if row.diverged else number(row.loss)
    return f"{loss} ◀" if row.chosen else loss


def _rate_text(text: str) -> str:
    """One notation for what was written in several: 5e-05 and 0.00005 are 5e-5; words stay."""
    return text if _rate(text) < 0 else f"{float(text):g}".replace("e-0", "e-")


def _rate(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -1.0


def claim_table(run: Run) -> Table:
    rows = []
    for claim in run.claims:
        state = "held" if claim.held == claim.total else "not held" if not claim.held else "in part"
        if not claim.total:
            there = run.algorithms if claim.quantity == "final_loss" else run.measured
            state = "no data" if claims.compared(claim) <= {*there} else "not measured"
        ours = f"{claim.held}\u00a0of\u00a0{claim.total}" if claim.total else "–"
        rows.append((claim.statement, state, ours, claim.paper))
    caption = "Counts are of cells (task, trajectory and epoch); for the final loss, of tasks."
    return Table("Held or not, and how often", ("", "verdict", "ours", "paper"), rows, caption)


def numbers_table(claim: claims.Claim) -> Table:
    """The numbers that a claim compares, a row a cell, the paper's beside where it prints some."""
    names = [*dict.fromkeys(name for detail in claim.details for name in detail.ours)]
    printed = any(detail.paper for detail in claim.details)
    rows = []
    for detail in claim.details:
        numbers = []
        for name in names:
            numbers.append(number(detail.ours[name]))
            if printed:
                numbers.append(number(detail.paper[name]) if name in detail.paper else "–")
        held = "held" if detail.held else "not held"
        rows.append((_where(detail.cell), held, *numbers, detail.note or "–"))
    header = [said for n in names for said in (label(n), *["paper"] * printed)]
    if all(row[-1] == "–" for row in rows):
        rows = [row[:-1] for row in rows]
    else:
        header.append("note")
    what = {"final_loss": "final training loss", "decrease": "best decrease"}
    title = f"Mean {what.get(claim.quantity, claim.quantity)} of each cell"
    return Table(title, ("", "verdict", *header), rows)


def _where(cell: dict[str, Any]) -> str:
    if "epoch" not in cell:
        return paper.TASKS.get(cell["task"], cell["task"])
    return f"{paper.column_name((cell['task'], cell['trajectory']))}, epoch {cell['epoch']}"


def cell_table(found: list[claims.Claim]) -> Table:
    """One row a cell, one column an ordering; how many held, along and across."""
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
            f"{sum(held.values())} of {len(held)}",
        )
        for cell, held in cells.items()
    ]
    if rows:
        sums = [(claim.held, claim.total) for claim in counted] + [claims.orderings(counted)]
        rows.append(("together", *(f"{held} of {total}" for held, total in sums)))
    header = ("", *(SHORT.get(claim.name, claim.statement) for claim in counted), "together")
    return Table("The seven orderings, cell by cell", header, rows)


def remark_table(found: list[claims.Claim]) -> Table:
    """Every comparison that failed, with its numbers; below, what to know of those that did not."""
    rows, notes = [], {}
    for claim in found:
        for detail in claim.details:
            where = _where(detail.cell)
            for note in filter(None, detail.note.split("; ")):
                notes[f"{where}: {note}."] = None
            for low, high in detail.broken:
                pair = _compared(detail.ours, low, high, " is not below ")
                known = low in detail.paper and high in detail.paper
                papers = _compared(detail.paper, low, high, " < ") if known else "–"
                rows.append((claim.statement, where, pair, papers))
    header = ("", "where", f"{len(rows)} comparisons", "paper")
    return Table("What did not hold", header, rows, " ".join(notes))


def _compared(values: dict[str, float], low: str, high: str, word: str) -> str:
    """Two algorithms with their numbers, of as many digits as tell these apart."""
    pair = values[low], values[high]
    digits = next((d for d in range(3, 8) if number(pair[0], d) != number(pair[1], d)), 3)
    return word.join(f"{label(a)} ({number(values[a], digits)})" for a in (low, high))


def verdict(run: Run) -> str:
    held, total = claims.orderings(run.claims)
    if not total and run.columns():
        return "None of the paper’s orderings is tested: this run compares other algorithms."
    if not total:
        return "No cell of Tables 3 to 6 is measured yet, so none of the orderings is tested."
    share = f" ({100 * held / total:.0f} %)" if held < total else ""
    tested = [claim for claim in run.claims if claim.is_ordering and claim.total]
    cells = max(claim.total for claim in tested)
    each = "seven" if len(tested) == 7 else f"{len(tested)} of seven"
    return (
        f"{held} of {total} orderings of sharpness held{share}, with {each} tested in each of "
        f"{cells} measured cell{'s' * (cells > 1)}. In the paper all 112 hold, in 16 cells."
    )
