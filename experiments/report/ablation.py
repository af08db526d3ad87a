"""From scratch against warmed up: what a few hundred steps before the study change.

Each arm is a run of the sharpness experiment from another warm-up. The main run is an arm too, at
its own warm-up, as far as it measured the same: the same seed and epochs of the same trajectories.
"""

import collections
import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments import config, paper
from experiments.report import claims
from experiments.report.recorded import Run
from experiments.report.table import Table, number, out_of
from experiments.report.tables import SHORT
from experiments.rows import Scales, Sharpness

_MEASURED = (Sharpness, Scales)
# What the arms may differ in: it changes no measurement, at most how many there are of an epoch.
_FREE = ("preset", "warmup_steps", "epochs", "measured_epochs", "measured_batches")
_FREE += ("landscape_points", "replicates", "tune", "tune_steps", "tune_horizon")


@dataclasses.dataclass(frozen=True)
class Arm:
    """What was measured from one warm-up, on one seed."""

    steps: int  # Of the warm-up; 0 is from scratch.
    tables: dict[type, list[Any]]
    orderings: list[claims.Claim]  # The seven.

    @property
    def name(self) -> str:
        return f"{self.steps:,} steps" if self.steps else "from scratch"


def arms(directory: Path, main: Run | None) -> list[Arm]:
    """The arms in the folders of `directory`, and `main`'s part, by their warm-up steps."""
    runs = [Run(path.parent) for path in sorted(directory.glob(f"*/{Sharpness.FILE}"))]
    if not runs:
        return []
    found = {run.config["warmup_steps"]: _arm(run, run) for run in runs}
    if main and _shared(main) == _shared(runs[0]):
        found.setdefault(main.config["warmup_steps"], _arm(main, runs[0]))
    return [found[steps] for steps in sorted(found)]


def needs_table(arms: list[Arm]) -> Table:
    """In how many cells each ordering held, from each warm-up."""
    rows = [
        (across[0].statement, *(out_of(claim.held, claim.total) for claim in across))
        for across in zip(*(arm.orderings for arm in arms), strict=True)
    ]
    rows.append(("together", *(out_of(*claims.orderings(arm.orderings)) for arm in arms)))
    caption = (
        "Cells (task, trajectory, epoch) in which the ordering held, by the steps of the warm-up. "
        f"{_about(arms)}"
    )
    return Table("Which orderings need a warmed-up model", _header(arms), rows, caption)


def where_table(arms: list[Arm]) -> Table:
    """How many of the orderings held in each column of Tables 3 to 6, and which did not."""
    rows = []
    for column in paper.TABLE:
        cells = []
        for arm in arms:
            failed = claims.grouped(
                (SHORT[claim.name], str(detail.cell["epoch"]))
                for claim in arm.orderings
                for detail in claim.details
                if (detail.cell["task"], detail.cell["trajectory"]) == column and not detail.held
            )
            names = ", ".join(f"{name} ({', '.join(at)})" for name, at in failed.items())
            text = out_of(*claims.orderings(arm.orderings, *column))
            cells.append(f"{text}: not {names}" if failed else text)
        rows.append((paper.column_name(column), *cells))
    caption = f"Orderings held, and those that did not, with the epochs. {_about(arms)}"
    return Table("Where they hold", _header(arms), rows, caption)


def column_table(arms: list[Arm], column: tuple[str, str]) -> Table | None:
    """SGD's slope and sharpness and the ratios of the others, from each warm-up in each epoch."""
    rows = []
    for arm in arms:
        mine = [r for r in arm.tables[Sharpness] if (r.task, r.trajectory) == column]
        values = {
            name: claims.group(mine, ("epoch", "algorithm"), name)
            for name in ("loss", "slope", "sharpness", "ratio")
        }
        for epoch in sorted({r.epoch for r in mine}):
            asked = [(name, "sgd") for name in ("loss", "slope", "sharpness")]
            asked += [("ratio", a) for a in paper.OTHERS]
            found = (values[name].get((epoch, algorithm)) for name, algorithm in asked)
            cells = (number(summary.mean) if summary else "–" for summary in found)
            held = out_of(*claims.orderings(arm.orderings, *column, epoch))
            label = f"{arm.name}, epoch {epoch}"
            rows.append((label, *cells, held))
    if not rows:
        return None
    others = (paper.ALGORITHMS[a] for a in paper.OTHERS)
    header = ("warm-up", "test loss", "SGD’s slope", "SGD’s sharpness", *others, "orderings")
    caption = (
        f"Means over the measured batches; the six ratios are to SGD’s sharpness. {_about(arms)}"
    )
    return Table(f"{paper.column_name(column)}, by warm-up", header, rows, caption)


def scale_table(
    arms: list[Arm], task: str, trajectory: str | None = None, epoch: int = 1
) -> Table | None:
    """Sizes of the parameters and the gradient: at the start, or in an epoch of a trajectory."""
    points = [_point(arm, task, trajectory, epoch) for arm in arms]
    kinds = list(dict.fromkeys(kind for point in points for kind in point))
    if not kinds:
        return None

    def line(label: str, value: Callable[[dict[str, Scales]], float]):
        return label, *(number(value(point)) if point else "–" for point in points)

    def of(kind: str, name: str) -> Callable[[dict[str, Scales]], float]:
        return lambda point: getattr(point[kind], name) if kind in point else math.nan

    rows = [
        line("training loss", lambda point: next(iter(point.values())).training_loss),
        line("norm of the gradient", _gradient_norm),
        *(line(f"parameter RMS, {kind}", of(kind, "parameter_rms")) for kind in kinds),
        *(line(f"gradient share, {kind}", of(kind, "gradient_share")) for kind in kinds),
    ]
    at = "at the start" if trajectory is None else f"{trajectory} trajectory, epoch {epoch}"
    caption = (
        "RMS: root mean square over all coordinates of a kind. Share: of the squared norm of the "
        "training batch’s gradient. –: the run is older than this record."
    )
    return Table(f"{paper.TASKS[task]}, {at}, by warm-up", _header(arms), rows, caption)


def _arm(run: Run, like: Run) -> Arm:
    """A run as an arm; of another than `like` only what that one measures."""
    seed, epochs = like.config["seed"], {1, *like.config["measured_epochs"]}
    tables = {
        table: [r for r in run[table] if r.seed == seed and r.epoch in epochs]
        for table in _MEASURED
    }
    found = claims.evaluate(tables[Sharpness])
    return Arm(run.config["warmup_steps"], tables, [claim for claim in found if claim.is_ordering])


def _shared(run: Run) -> dict[str, Any]:
    return {k: v for k, v in config.completed(run.config).items() if k not in _FREE}


def _header(arms: list[Arm]) -> tuple[str, ...]:
    return "", *(arm.name for arm in arms)


def _about(arms: list[Arm]) -> str:
    rows = [r for arm in arms for r in arm.tables[Sharpness]]
    epochs = " and ".join(str(e) for e in sorted({r.epoch for r in rows}))
    seeds = ", ".join(str(s) for s in sorted({r.seed for r in rows}))
    counts: dict[int, list[str]] = {}  # Measured batches of an epoch -> the arms with so many.
    for arm in arms:
        cells = {(r.task, r.trajectory, r.epoch, r.batch) for r in arm.tables[Sharpness]}
        most = max(collections.Counter(cell[:3] for cell in cells).values(), default=0)
        counts.setdefault(most, []).append(arm.name)
    batches = "; ".join(
        f"{n} batches" + f" ({', '.join(names)})" * (len(counts) > 1) for n, names in counts.items()
    )
    return f"Epochs {epochs}, seed {seeds}; of each epoch {batches}."


def _point(arm: Arm, task: str, trajectory: str | None, epoch: int) -> dict[str, Scales]:
    """Kind -> row; the start is the same on both trajectories."""
    rows = [
        r
        for r in arm.tables[Scales]
        if r.task == task and r.epoch == epoch and trajectory in (None, r.trajectory)
    ]
    first = min(((r.trajectory, r.batch) for r in rows), default=None)
    return {r.kind: r for r in rows if (r.trajectory, r.batch) == first}


def _gradient_norm(point: dict[str, Scales]) -> float:
    return math.sqrt(math.fsum(r.parameters * r.gradient_rms**2 for r in point.values()))
