"""The paper's claims as predicates over records.

Every claim is one ordering of one quantity: in a cell, each of the algorithms in `low` stands
strictly below each of those in `high`. The seven orderings of the sharpness ratio, in 16 cells,
are the 112 that all hold in the paper's Tables 3 to 6.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from typing import Any, TypeVar

from experiments import paper
from experiments.rows import Convergence, Landscape, Sharpness
from sharpjax.plot import label

T = TypeVar("T")

# What a mean is taken within, over batches and seeds.
CELL = ("task", "trajectory", "epoch", "algorithm")
_PAIRS = {
    "sgd": "SGD",
    "normalized_sgd": "normalized SGD",
    "adafactor": "Adafactor",
}


@dataclasses.dataclass(frozen=True)
class Detail:
    """A claim in one cell; the numbers are those that it compares."""

    cell: dict[str, Any]  # task, trajectory, epoch; task alone for the final loss.
    held: bool
    ours: dict[str, float]  # Algorithm -> number.
    paper: dict[str, float]  # The same from the paper; empty where it prints none.
    broken: tuple[tuple[str, str], ...]  # Pairs of which the first is claimed below, and is not.
    note: str  # What a reader of the numbers has to know; mostly empty.


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, and in how many of the recorded cells it held."""

    name: str
    statement: str
    quantity: str  # "ratio", "slope", "decrease" or "final_loss".
    paper: str  # How often it holds in the paper, or how the paper words it.
    held: int
    total: int  # 0: the records hold nothing to test it on.
    details: tuple[Detail, ...]

    @property
    def is_ordering(self) -> bool:
        """Whether it is one of the seven orderings of Tables 3 to 6."""
        return self.paper == _ALL


@dataclasses.dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation (nan with one) over the batches and seeds of a cell."""

    mean: float
    sd: float
    count: int
    negative: int  # How many of the values lie below zero.


def summarize(values: Iterable[float]) -> Summary:
    values = list(values)
    mean = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values)
    sd = math.nan
    if len(values) > 1 and math.isfinite(mean):
        sd = statistics.stdev(values, mean)
    return Summary(mean, sd, len(values), sum(v < 0 for v in values))


def grouped(pairs: Iterable[tuple[Any, T]]) -> dict[Any, list[T]]:
    """The values of each key, in order of appearance."""
    found: dict[Any, list[T]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def group(rows: Iterable[Any], columns: tuple[str, ...], value: str) -> dict[tuple, Summary]:
    """Summary of the column `value` for each combination of `columns`, in order of appearance."""
    pairs = ((tuple(getattr(row, c) for c in columns), getattr(row, value)) for row in rows)
    return {key: summarize(values) for key, values in grouped(pairs).items()}


def means(rows: Iterable[Any], columns: tuple[str, ...]) -> dict[tuple, Summary]:
    """Summaries of loss, sharpness and ratio of `Sharpness` rows, by (value, *columns)."""
    rows = list(rows)
    return {
        (value, *key): summary
        for value in ("loss", "sharpness", "ratio")
        for key, summary in group(rows, columns, value).items()
    }


def positive(summary: Summary | None) -> float:
    """The mean; NaN unless it is recorded and positive, as logarithms want it."""
    return summary.mean if summary and summary.mean > 0 else math.nan


def best_decreases(rows: Iterable[Landscape]) -> dict[tuple, float]:
    """Loss at step 0 minus the least loss seen; keyed by `Sharpness.KEY`.

    Losses that are not finite are no minimum. A direction without its step 0 is left out.
    """
    curves: dict[tuple, dict[float, float]] = {}
    for row in rows:
        curves.setdefault(row.key[:-1], {})[row.step] = row.loss
    return {
        key: curve[0.0] - min(filter(math.isfinite, curve.values()), default=math.nan)
        for key, curve in curves.items()
        if 0.0 in curve
    }


def final_losses(rows: Iterable[Convergence]) -> dict[tuple, float]:
    """Mean training loss over the last epoch, keyed by (task, seed, algorithm).

    A diverged run counts as infinite. A run that has not come as far as the longest of its task
    and seed is still on its way and left out.
    """
    runs = grouped(((row.task, row.seed, row.algorithm), row) for row in rows)
    end: dict[tuple, int] = {}
    for (task, seed, _), run in runs.items():
        end[task, seed] = max(end.get((task, seed), 0), *(row.step for row in run), 0)
    losses = {}
    for (task, seed, algorithm), run in runs.items():
        last = max(run, key=lambda row: row.step)
        if any(row.diverged or not math.isfinite(row.loss) for row in run):
            losses[task, seed, algorithm] = math.inf
        elif last.step == end[task, seed]:
            tail = [row.loss for row in run if row.epoch == last.epoch]
            losses[task, seed, algorithm] = math.fsum(tail) / len(tail)
    return losses


def evaluate(rows: Iterable[Any]) -> list[Claim]:
    """All the claims, of rows of any tables.

    In a cell (task, trajectory, epoch) a quantity is its mean over the measured batches and
    seeds: the ratio as recorded, sharpness/|SGD's sharpness| at the same point; the slope gᵀv;
    the best decrease of the landscape. Means are compared with their signs, so a direction of
    negative sharpness is below every positive one; the detail's note says where that happened.
    A number that is not a number holds nothing. A tie does not hold.
    """
    cells = _cells(list(rows))
    return [_evaluate(claim, cells[claim.quantity]) for claim in CLAIMS]


def compared(claim: Claim) -> set[str]:
    """The algorithms that a claim is about."""
    return next({*made.low, *made.high} for made in CLAIMS if made.name == claim.name)


def orderings(claims: Iterable[Claim], *cell: str | int) -> tuple[int, int]:
    """(held, total) of the orderings of Tables 3 to 6: of all cells, or of those that begin so."""
    held = [
        detail.held
        for claim in claims
        if claim.is_ordering
        for detail in claim.details
        if tuple(detail.cell.values())[: len(cell)] == cell
    ]
    return sum(held), len(held)


def to_json(claims: Iterable[Claim]) -> list[dict]:
    """Claims as strict JSON holds them: numbers that are not finite become their names."""

    def plain(value):
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value

    return [plain(dataclasses.asdict(claim)) for claim in claims]


@dataclasses.dataclass(frozen=True)
class _Ordering:
    """What is claimed: in every cell each of `low` is strictly below each of `high`."""

    name: str
    statement: str
    quantity: str
    low: tuple[str, ...]
    high: tuple[str, ...]
    paper: str


def _others(algorithm: str) -> tuple[str, ...]:
    return tuple(a for a in paper.ALGORITHMS if a != algorithm)


def _pairs(name: str, statement: str, quantity: str, wording: str, clip_is: str) -> list[_Ordering]:
    """The same of each family that has a clipped form."""
    claims = []
    for plain, words in _PAIRS.items():
        pair = (f"{plain}_clip",), (plain,)
        low, high = pair if clip_is == "low" else pair[::-1]
        said = statement.format(words)
        claims.append(_Ordering(f"{name}_{plain}", said, quantity, low, high, wording))
    return claims


_ALL = f"{len(paper.SHARPNESS_RATIO)} of {len(paper.SHARPNESS_RATIO)}"
# fmt: off
CLAIMS: tuple[_Ordering, ...] = (
    _Ordering("sgd_sharpest", "SGD is the sharpest of all",
              "ratio", _others("sgd"), ("sgd",), _ALL),
    *_pairs("clipping_flattens", "Clipping lowers the sharpness of {}", "ratio", _ALL, "low"),
    _Ordering("adam_below_clipped_sgd", "Adam is less sharp than clipped SGD",
              "ratio", ("adam",), ("sgd_clip",), _ALL),
    _Ordering("adam_below_clipped_normalized_sgd", "Adam is less sharp than clipped normalized SGD",
              "ratio", ("adam",), ("normalized_sgd_clip",), _ALL),
    _Ordering("clipped_adafactor_flattest", "Clipped Adafactor is the least sharp of all",
              "ratio", ("adafactor_clip",), _others("adafactor_clip"), _ALL),
    _Ordering("sgd_steepest", "SGD has the best slope: the loss falls fastest at small steps",
              "slope", ("sgd",), _others("sgd"), "said of Figure 3"),
    _Ordering("adam_decreases_more",
              "The best decrease along Adam’s direction exceeds that along SGD’s",
              "decrease", ("sgd",), ("adam",), "“almost in all cases” (B.3)"),
    *_pairs("clipping_decreases_more",
            "The best decrease along clipped {} exceeds the unclipped one’s",
            "decrease", "“often” (§5)", "high"),
    *_pairs("clipping_converges_lower", "Clipped {} reaches a lower final training loss",
            "final_loss", "“generally” (Figure 4)", "low"),
)
# fmt: on


def _cells(rows: list) -> dict[str, dict[tuple, dict[str, Summary]]]:
    """The claims' numbers: quantity -> cell -> algorithm -> summary."""
    sharpness = [row for row in rows if isinstance(row, Sharpness)]
    lowest = best_decreases(r for r in rows if isinstance(r, Landscape))
    decreases = grouped(
        ((task, trajectory, epoch, algorithm), value)
        for (task, trajectory, _, epoch, _, algorithm), value in lowest.items()
    )
    reached = final_losses(r for r in rows if isinstance(r, Convergence))
    finals = grouped(((task, algorithm), loss) for (task, _, algorithm), loss in reached.items())
    flat = {
        "ratio": group(sharpness, CELL, "ratio"),
        "slope": group(sharpness, CELL, "slope"),
        "decrease": {key: summarize(values) for key, values in decreases.items()},
        "final_loss": {key: summarize(values) for key, values in finals.items()},
    }
    cells: dict[str, dict[tuple, dict[str, Summary]]] = {}
    for quantity, summaries in flat.items():
        cells[quantity] = {}
        for (*cell, algorithm), summary in summaries.items():
            cells[quantity].setdefault(tuple(cell), {})[algorithm] = summary
    return cells


def _evaluate(claim: _Ordering, cells: dict[tuple, dict[str, Summary]]) -> Claim:
    details = []
    compared = [a for a in paper.ALGORITHMS if a in claim.low + claim.high]
    for cell, summaries in sorted(cells.items(), key=_paper_order):
        if not all(algorithm in summaries for algorithm in compared):
            continue
        ours = {algorithm: summaries[algorithm].mean for algorithm in compared}
        printed = paper.SHARPNESS_RATIO.get(cell, {}) if claim.quantity == "ratio" else {}
        broken = tuple((a, b) for a in claim.low for b in claim.high if not ours[a] < ours[b])
        details.append(
            Detail(
                cell=dict(zip(CELL, cell, strict=False)),
                held=not broken,
                ours=ours,
                paper={a: printed[a] for a in compared if a in printed},
                broken=broken,
                note=_note(claim.quantity, {a: summaries[a] for a in compared}),
            )
        )
    held = sum(detail.held for detail in details)
    return Claim(
        claim.name,
        claim.statement,
        claim.quantity,
        claim.paper,
        held,
        len(details),
        tuple(details),
    )


def _paper_order(item: tuple[tuple, Any]) -> tuple:
    """Sorts cells as the paper's Tables 3 to 6 stand: by table, then epoch."""
    task, *rest = item[0]
    return paper.TABLE.get((task, *rest[:1]), 9), [*paper.TASKS, task].index(task), *rest


def _note(quantity: str, summaries: dict[str, Summary]) -> str:
    notes = []
    for algorithm, summary in summaries.items():
        said = label(algorithm)
        if quantity == "final_loss" and summary.mean == math.inf:
            notes.append(f"{said} diverged")
        elif not math.isfinite(summary.mean):
            notes.append(f"{said}: not a finite number")
        if quantity == "ratio" and summary.negative:
            notes.append(f"{said}: negative at {summary.negative} of {summary.count} batches")
    return "; ".join(notes)
