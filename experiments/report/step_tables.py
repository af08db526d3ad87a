"""The report's tables of steps along the updates, and of which coordinates they move most."""

import math
from collections.abc import Iterable
from statistics import median

from experiments import algorithms, paper, records
from experiments.report.tables import Run, Table, number


def critical_table(run: Run) -> Table | None:
    """How far the loss goes along each direction before it is back, and how far training goes."""
    newton = {_key(r): r.newton_step for r in run.tables[records.Sharpness]}
    ratios: dict[tuple, list[float]] = {}
    for r in run.tables[records.Search]:
        ratio = r.critical_step / newton.get(_key(r), math.nan)
        ratios.setdefault((r.task, r.trajectory, r.algorithm), []).append(ratio)
    columns = run.columns()
    if not ratios or not columns:
        return None
    rows = [
        (algorithms.label(a), *(_middle(ratios.get((*c, a), ())) for c in columns))
        for a in run.measured
    ]
    applied = {}
    for task, trajectory in columns:
        rate = run.config.get(f"{trajectory}_learning_rate", math.nan)
        applied[task, trajectory] = [
            rate * r.step_ratio
            for r in run.tables[records.Sharpness]
            if (r.task, r.trajectory, r.algorithm) == (task, trajectory, trajectory)
        ]
    rows.append(("as training goes", *(_middle(applied[c]) for c in columns)))
    header = ("", *map(paper.column_name, columns))
    caption = (
        "The critical step, where the test loss is back at its start, over the Newton step, the "
        "quadratic’s minimum: 2 on a quadratic. Medians over the landscapes; n/a where none is "
        "known, or the loss is concave. Below: the trajectory’s own update as it is applied, in "
        "the same unit, uᵀHu/(−gᵀu), over all measured batches."
    )
    return Table("How far each direction stays below the start", header, rows, caption)


def overlap_table(run: Run) -> Table | None:
    """How many of each update's top coordinates are among SGD's, and among Adam's."""
    found: dict[tuple, list[tuple[float, float]]] = {}
    for r in run.tables[records.Sharpness]:
        pair = r.overlap_sgd, r.overlap_adam
        if not all(map(math.isnan, pair)):
            found.setdefault((r.task, r.trajectory, r.algorithm), []).append(pair)
    if not found:
        return None
    columns = run.columns()

    def cell(key):
        pairs = found.get(key, [])
        return " / ".join(_mean_percent(x) for x in zip(*pairs, strict=True)) if pairs else "–"

    rows = [(algorithms.label(a), *(cell((*c, a)) for c in columns)) for a in run.measured]
    share = run.config.get("clip_fraction")
    top = f"largest {100 * share:g} %" if isinstance(share, int | float) else "largest few per cent"
    caption = (
        f"Of each update’s {top} coordinates, those that are also among SGD’s / among Adam’s, mean "
        "over measured batches; chance would give that fraction."
    )
    header = ("", *map(paper.column_name, columns))
    return Table("How alike the updates’ top coordinates are", header, rows, caption)


def _key(row) -> tuple:
    return tuple(getattr(row, name) for name in records.Sharpness.KEY)


def _middle(values: Iterable[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    return number(median(known)) if known else "n/a"


def _mean_percent(values: Iterable[float]) -> str:
    known = [v for v in values if not math.isnan(v)]
    return f"{100 * sum(known) / len(known):.1f} %" if known else "n/a"
