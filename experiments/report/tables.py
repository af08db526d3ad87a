"""The tables of a report, made of a run's records, and the numbers in them."""

import dataclasses
import math
from pathlib import Path

from experiments import algorithms, anatomy_rows, paper, records
from experiments.report import claims

SHORT = {  # The seven orderings, where a column or a list of them has no room.
    "sgd_sharpest": "SGD sharpest",
    "clipping_flattens_sgd": "clipping lowers SGD",
    "clipping_flattens_normalized_sgd": "clipping lowers normalized SGD",
    "clipping_flattens_adafactor": "clipping lowers Adafactor",
    "adam_below_clipped_sgd": "Adam < clipped SGD",
    "adam_below_clipped_normalized_sgd": "Adam < clipped normalized SGD",
    "clipped_adafactor_flattest": "clipped Adafactor lowest",
}


@dataclasses.dataclass(frozen=True)
class Table:
    """A table before it is HTML: its first column holds names, the others numbers or words."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]
    caption: str = ""


class Run:
    """Everything that a run has written down so far."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.tables = {table: records.read(directory, table) for table in records.TABLES}
        self.rows = [row for rows in self.tables.values() for row in rows]
        anatomy = any((directory / t.FILE).exists() for t in anatomy_rows.TABLES)
        if not self.rows and not anatomy:
            raise ValueError(f"{directory}: no records to report; has a run been made here?")
        self.config = records.read_json(directory / "config.json")
        self.provenance = records.read_json(directory / "provenance.json")
        # What the configuration compares, and with what a trajectory measures besides.
        self.algorithms = algorithms.in_order(self.config.get("algorithms", paper.ALGORITHMS))
        measured = (row.algorithm for row in self.tables[records.Sharpness])
        self.measured = algorithms.in_order([*self.algorithms, *measured])

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


def ratio_table(run: Run, column: tuple[str, str]) -> Table:
    epochs, ours = run.epochs(column), run.by_cell("ratio")
    errors, where = _float64_errors(run, column)
    rows = []
    for algorithm in run.measured:
        row = [algorithms.label(algorithm)]
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
        f"Mean ± standard deviation of sharpness/|SGD’s| over the {measured} measured batches "
        f"of each epoch ({len(seeds)} seed{'s' * (len(seeds) > 1)}). {where}"
    )
    label = f"Table {paper.TABLE[column]}: " if column in paper.TABLE else ""
    title = f"{label}{paper.column_name(column)}"
    return Table(title, ("", *header, "float64 error"), rows, caption)


def short_ratio_table(run: Run, column: tuple[str, str]) -> Table:
    epochs, ours = run.epochs(column), run.by_cell("ratio")
    rows = []
    for algorithm in run.measured:
        row = [algorithms.label(algorithm)]
        for epoch in epochs:
            summary = ours.get((*column, epoch, algorithm))
            printed = paper.SHARPNESS_RATIO.get((*column, epoch), {}).get(algorithm)
            pair = (summary.mean if summary else None, printed)
            row.append(" / ".join(map(_short, pair)))
        rows.append(tuple(row))
    full = ratio_table(run, column)
    return Table(full.title, ("ours / paper", *(f"epoch {e}" for e in epochs)), rows)


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}".replace("e-0", "e-")


def _float64_errors(run: Run, column: tuple[str, str]) -> tuple[dict[str, float], str]:
    """Algorithm -> largest relative error, and where it was measured: here, else anywhere."""
    rows = run.tables[records.Precision]
    here = [r for r in rows if (r.task, r.trajectory) == column] or rows
    if not here:
        return {}, "No comparison with float64 is recorded."
    points = sorted({(r.task, r.trajectory, r.seed, r.epoch, r.batch) for r in here})
    task, trajectory, _, epoch, batch = points[0]
    where = f"{paper.column_name((task, trajectory))}, epoch {epoch}, batch {batch}"
    others = len(points) - 1
    more = f" and {others} more point{'s' * (others > 1)}, the largest" * (others > 0)
    errors: dict[str, float] = {}
    for row in here:
        errors[row.algorithm] = max(row.relative_error, errors.get(row.algorithm, 0.0))
    return errors, f"float64 error: |sharpness − float64’s|/|float64’s|, measured at {where}{more}."


def sharpness_table(run: Run) -> Table:
    columns = run.columns()
    rows_of = run.tables[records.Sharpness]
    ours = claims.group(rows_of, ("task", "trajectory", "algorithm"), "sharpness")
    rows = [
        (
            algorithms.label(a),
            *(plus_minus(ours[*c, a]) if (*c, a) in ours else "–" for c in columns),
            number(paper.MEAN_SHARPNESS[a]) if a in paper.MEAN_SHARPNESS else "–",
        )
        for a in run.measured
    ]
    header = ("", *map(paper.column_name, columns), "paper, translation, one epoch")
    caption = (
        "vᵀHv for the unit direction v, in nats per squared unit of distance; mean ± standard "
        "deviation over all measured batches, epochs and seeds. The paper’s numbers belong to its "
        "own model."
    )
    return Table("Mean sharpness, not as a ratio (Figure 2)", header, rows, caption)


def share_table(run: Run) -> Table:
    columns = run.columns()
    by = ("task", "trajectory", "algorithm")
    ours = claims.group(run.tables[records.Sharpness], by, "top_share")
    rows = [
        (
            algorithms.label(a),
            *(_percent(ours[*c, a].mean) if (*c, a) in ours else "–" for c in columns),
        )
        for a in run.measured
    ]
    share = run.config.get("clip_fraction")
    top = f"largest {100 * share:g} %" if isinstance(share, int | float) else "largest few per cent"
    caption = (
        f"Share of ‖update‖² that lies in the {top} of its coordinates, mean over measured batches."
    )
    title = "How concentrated each update is"
    return Table(title, ("", *map(paper.column_name, columns)), rows, caption)


def rate_table(run: Run) -> Table:
    used: dict[tuple, set] = {}
    for row in run.tables[records.Convergence]:
        used.setdefault((row.task, row.algorithm), set()).add(row.learning_rate)
    tasks = run.convergence_tasks()
    rows = []
    for algorithm in run.algorithms:
        row = [algorithms.label(algorithm)]
        for task in tasks:
            row.append(", ".join(map(_rate_text, sorted(used.get((task, algorithm), {"–"})))))
            row.append(_rate_text(paper.LEARNING_RATES.get(task, {}).get(algorithm, "–")))
        rows.append(tuple(row))
    header = [name for task in tasks for name in (paper.TASKS[task], "paper")]
    caption = "“relative”: Adafactor’s own step, which follows each tensor’s scale."
    return Table("Learning rates (Table 2)", ("", *header), rows, caption)


def final_table(run: Run) -> Table:
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

    rows = [(algorithms.label(a), *(cell(t, a) for t in tasks)) for a in run.algorithms]
    epochs = max(row.epoch for row in run.tables[records.Convergence])
    caption = f"Mean over the last epoch recorded ({epochs})."
    if any("–" in row for row in rows):
        caption += " –: this run is still on its way."
    title = "Final training loss"
    return Table(title, ("", *(paper.TASKS[t] for t in tasks)), rows, caption)


def tuning_table(run: Run, task: str) -> Table:
    tried = [row for row in run.tables[records.Tuning] if row.task == task]
    rates = sorted({r.learning_rate for r in tried}, key=_rate)
    rows = []
    for algorithm in run.algorithms:
        mine = {r.learning_rate: r for r in tried if r.algorithm == algorithm}
        if mine:
            rows.append((algorithms.label(algorithm), *(_tried(mine.get(rate)) for rate in rates)))
    steps = " or ".join(str(n) for n in sorted({r.steps for r in tried}))
    header = ("", *map(_rate_text, rates))
    caption = f"Mean training loss over the last fifth of {steps} steps. ◀: chosen."
    return Table(f"The search for learning rates: {paper.TASKS[task]}", header, rows, caption)


def _tried(row: records.Tuning | None) -> str:
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


def claim_table(found: list[claims.Claim], run: Run) -> Table:
    rows = []
    for claim in found:
        state = "held" if claim.held == claim.total else "not held" if not claim.held else "in part"
        if not claim.total:
            there = run.algorithms if claim.quantity == "final_loss" else run.measured
            state = "no data" if claims.compared(claim) <= {*there} else "not measured"
        ours = f"{claim.held}\u00a0of\u00a0{claim.total}" if claim.total else "–"
        rows.append((claim.statement, state, ours, claim.paper))
    caption = "Counted in cells: task, trajectory and epoch; for the final loss, tasks."
    return Table("Held or not, and how often", ("", "verdict", "ours", "paper"), rows, caption)


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
            cell = detail.cell
            where = paper.TASKS.get(cell["task"], cell["task"])
            if "epoch" in cell:
                column = (cell["task"], cell["trajectory"])
                where = f"{paper.column_name(column)}, epoch {cell['epoch']}"
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
    return word.join(f"{algorithms.label(a)} ({number(values[a], digits)})" for a in (low, high))


def _percent(share: float) -> str:
    return "n/a" if math.isnan(share) else f"{100 * share:.1f} %"


def verdict(found: list[claims.Claim], run: Run) -> str:
    held, total = claims.orderings(found)
    if not total and run.columns():
        return "None of the paper’s orderings is tested: this run compares other algorithms."
    if not total:
        return "No cell of Tables 3 to 6 is measured yet, so none of the orderings is tested."
    share = f" ({100 * held / total:.0f} %)" if held < total else ""
    tested = [claim for claim in found if claim.is_ordering and claim.total]
    cells = max(claim.total for claim in tested)
    each = "seven" if len(tested) == 7 else f"{len(tested)} of seven"
    return (
        f"{held} of {total} orderings of sharpness held{share}, with {each} tested in each of "
        f"{cells} measured cell{'s' * (cells > 1)}. In the paper all 112 hold, in 16 cells."
    )
