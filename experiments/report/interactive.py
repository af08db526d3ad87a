"""The interactive charts of a run, and the tables that they draw, for `sharpjax.report`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from experiments import algorithms
from experiments.anatomy_rows import SpanPair
from experiments.explanation_rows import FrequencyPart
from experiments.report import figures
from experiments.report.recorded import Run, frame
from experiments.rows import (
    AtUpdate,
    Convergence,
    Histogram,
    Landscape,
    Precision,
    Search,
    Sharpness,
)
from sharpjax import plot
from sharpjax.report import Figure, Looks, Table, charts, frames

AT = ("task", "trajectory", "epoch", "seed")  # What the reader chooses.
_MEASURED = (Sharpness, Landscape, Histogram)
_MOST_ROWS = 12_000  # Of landscapes, and of histograms: more seeds than that are left out.
_OVER_EPOCHS = ("ratio", "sharpness")


@dataclasses.dataclass(frozen=True)
class Charts:
    """What a part of the report shows besides its text: the static figures stand for `figures`."""

    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()


def looks_of(run: Run) -> Looks:
    """How the run's algorithms look, as in the static figures."""
    trained = (row.algorithm for row in run[Convergence])
    of_points = (rows[table] for rows in run.points.values() for table in (SpanPair, FrequencyPart))
    taken_apart = (row.algorithm for rows in of_points for row in rows)
    names = algorithms.in_order([*run.measured, *trained, *taken_apart])
    return Looks(names, plot.Style(names))


def points(run: Run) -> pandas.DataFrame:
    """What the reader can choose: every task, trajectory, epoch and seed that is measured."""
    measured = next((rows for rows in map(run.frame, _MEASURED) if len(rows)), run.frame(Sharpness))
    found = measured[list(AT)].drop_duplicates().sort_values(["epoch", "seed"])
    columns = figures.in_order_of_paper(found)
    found = pandas.concat([found[:0], *(figures.of_column(found, c) for c in columns)])
    # A task that was only trained has curves of convergence, and no point.
    others = [{"task": task} for task in run.tasks(Convergence) if task not in {*found["task"]}]
    return pandas.concat([found, pandas.DataFrame(others)]) if others else found


def start(found: pandas.DataFrame) -> tuple | None:
    """What is shown first: the last epoch of the first column, on the first seed."""
    if not len(found):
        return None
    column = figures.of_column(found, tuple(found.iloc[0][list(AT[:2])]))
    last = column[column["epoch"] == column["epoch"].max()]
    return tuple((last if len(last) else found).iloc[0])


def of_run(run: Run, looks: Looks) -> dict[str, Charts]:
    """The charts of each part of the report, by the part's name."""
    made = {
        "sharpness": _sharpness(run, looks),
        "landscape": _landscape(run, looks),
        "histogram": _histogram(run, looks),
        "convergence": _convergence(run, looks),
    }
    for point, rows in run.points.items():
        made[name_of(point)] = _of_point(rows, name_of(point), looks)
    return {name: found for name, found in made.items() if found is not None}


def name_of(point: tuple) -> str:
    """The name of the part of the report that is the anatomy of a point."""
    return "_".join(("anatomy", *map(str, point)))


def _of_point(rows: dict[type, list], place: str, looks: Looks) -> Charts:
    """The charts of an anatomy: cosines of two directions, and what the tokens contribute."""
    drawn, tables = [], []
    if rows[SpanPair]:
        pairs = frame(rows[SpanPair], SpanPair)[
            ["algorithm", "other", "cosine", "curvature", "curvature_se"]
        ]
        name = f"cosines_{place}"
        chart = charts.pairs(name, looks, "cosine", "cosine", at=())
        caption = "Of the unit directions; 1 is the same direction."
        drawn.append(Figure(name, chart, "Cosine of two directions", {name: pairs}, caption))
        tables.append(Table(name, pairs, "Pairs of directions: cosine and vᵢᵀHvⱼ"))
    if rows[FrequencyPart]:
        name = f"frequency_{place}"
        table = _token_shares(rows[FrequencyPart])
        order = list(dict.fromkeys(table.sort_values("rank")["part"]))
        drawn += [
            Figure(
                f"{value}_by_{name}",
                charts.parts(name, looks, f"{value}_share", f"share of the {value}", order),
                f"{value.capitalize()} by how frequent the target token is",
                {name: table},
                "Parts of the test loss by the rank of the target token in the training text, 1 "
                "the most frequent. Shares of the sum of magnitudes, with one standard error.",
            )
            for value in ("slope", "sharpness")
        ]
        shown = ("algorithm", "part", "tokens", "slope", "slope_se", "sharpness", "sharpness_se")
        tables.append(Table(name, table, "Parts by frequency of the target token", columns=shown))
    return Charts(tuple(drawn), tuple(tables))


def _token_shares(rows: list[FrequencyPart]) -> pandas.DataFrame:
    """Each part's share of its algorithm's slope and sharpness, of the sum of magnitudes."""
    made = frame(rows, FrequencyPart)
    made = made.rename(columns={"part": "rank", "ranks": "part"}).drop(columns=[*AT, "batch"])
    for value in ("slope", "sharpness"):
        whole = made.groupby("algorithm")[value].transform(lambda values: values.abs().sum())
        share, error = made[value] / whole, made[f"{value}_se"] / whole
        made[f"{value}_share"], made[f"{value}_share_se"] = share, error
        made[f"{value}_share_low"], made[f"{value}_share_high"] = share - error, share + error
    return made


def _sharpness(run: Run, looks: Looks) -> Charts | None:
    rows = run.frame(Sharpness)
    if not len(rows):
        return None
    over, printed = _over_epochs(rows), figures.published(rows)
    seeds = rows["seed"].nunique()
    where = "datum.seed === null"
    if seeds > 1:
        where = f"pooled ? {where} : datum.seed === choose_seed"
    pooled = {"pooled": "all seeds together"} if seeds > 1 else {}
    published = {"reference": "the paper’s values"} if len(printed) else {}
    said = "Mean over the measured batches with their standard deviation. A triangle on the lower "
    said += "edge is a mean that is zero or negative."
    hollow = " Hollow: the paper’s value." * bool(published)
    drawn = []
    for value, axis, title, caption, levels in (
        ("ratio", "sharpness / |SGD’s|", "Ratio to SGD over epochs", said + hollow, (1.0,)),
        ("sharpness", "sharpness vᵀHv", "Sharpness over epochs", said, ()),
    ):
        beside = value == "ratio" and bool(published)
        chart = charts.over_steps(
            *("over_epochs", looks, value, axis),
            x="epoch",
            at=AT[:2],
            levels=levels,
            error="sd",
            reference="published" if beside else "",
            where=where,
        )
        data = {"over_epochs": over} | ({"published": printed} if beside else {})
        switches = (published if beside else {}) | (pooled if value == "ratio" else {})
        drawn.append(Figure(value, chart, title, data, caption, {"y": "log"}, switches))
    known = [c for c in rows.columns if c not in _KEYS and rows[c].notna().any()]
    own = rows[[*_KEYS, *known]].reset_index(drop=True)
    tables = [
        Table(
            "directions",
            own,
            "Directions: every number of every update at the chosen points",
            "Slope and sharpness are along the unit direction; columns in _se are standard errors "
            "over micro-batches of the test subset.",
            AT,
            (*_KEYS, *known),
            open=True,
        ),
        Table(
            "over_epochs",
            over,
            "Means over batches and their standard deviations",
            "Without a seed: over all seeds.",
            AT[:2],
            (*AT, "algorithm", "batches", *(v + e for v in _OVER_EPOCHS for e in ("", "_sd"))),
        ),
    ]
    if run[Precision]:
        exact = run.frame(Precision).reset_index(drop=True)
        tables.append(Table("precision", exact, "Precision: float32 beside float64", "", AT[:2]))
    return Charts(tuple(drawn), tuple(tables))


_KEYS = [*AT, "batch", "algorithm"]


def _over_epochs(rows: pandas.DataFrame) -> pandas.DataFrame:
    """Mean and standard deviation over batches, for each seed and (seed NaN) over all of them."""
    parts = []
    for keys in ([*AT, "algorithm"], [*AT[:3], "algorithm"]):
        groups = rows.groupby(keys, sort=False)
        part = groups.size().rename("batches").to_frame()
        for value in _OVER_EPOCHS:
            part[value], part[f"{value}_sd"] = groups[value].mean(), groups[value].std()
        parts.append(part.reset_index())
    made = pandas.concat(parts, ignore_index=True)
    for value in _OVER_EPOCHS:
        mean, deviation = made[value], made[f"{value}_sd"].fillna(0.0)
        # A bar that reached zero would have no end on a logarithmic axis.
        floor = mean[mean > 0].min() / 3
        low = mean - deviation
        made[f"{value}_low"] = low.where(mean <= 0, np.maximum(low, floor))
        made[f"{value}_high"] = mean + deviation
    return made


def _landscape(run: Run, looks: Looks) -> Charts | None:
    rows, said = _few(run.frame(Landscape).rename(columns={"step": "distance"}))
    if not len(rows):
        return None
    found = _found(rows, run)
    curves = frames.curves(rows, found, list(AT))
    figure = Figure(
        "landscape",
        charts.landscape("landscape", "minima", looks, at=AT),
        "Test loss along each direction",
        {"landscape": curves, "minima": frames.minima(found, list(AT))},
        "Lines end where the loss is back at its start. A filled mark is the lowest loss found, a "
        "hollow one the minimum of the quadratic model (slope, sharpness), left out where it lies "
        "far below." + said,
        {"x": "log", "y": "linear"},
    )
    table = Table(
        "landscape",
        curves,
        "Landscape: losses at distances",
        "Up to where the loss is back at its start; landscape.csv beside this page has all.",
        AT,
    )
    return Charts((figure,), (table,))


def _found(rows: pandas.DataFrame, run: Run) -> pandas.DataFrame:
    """The table "directions" of what has a landscape; the search's ends from its losses if need be.

    Records of earlier versions do not say what the search found.
    """
    sought = {row.key: row for row in run[Search]}
    lines = []
    columns = [*AtUpdate.KEY]
    for key, mine in rows.groupby(columns, sort=False):
        if key in sought:
            row = sought[key]
            ends = (row.best_step, row.best_decrease, row.critical_step)
        else:
            ends = _ends(mine["distance"].to_numpy(), mine["loss"].to_numpy())
        first = float(mine.sort_values("distance")["loss"].iloc[0])
        lines.append((*key, first, *ends))
    ends = ["best_step", "best_decrease", "critical_step"]
    made = pandas.DataFrame(lines, columns=[*columns, "loss", *ends])
    model = run.frame(Sharpness)[[*columns, "newton_step", "predicted_decrease"]]
    return made.merge(model, on=columns, how="left")


def _ends(distance: np.ndarray, loss: np.ndarray) -> tuple[float, float, float]:
    """Where recorded losses are lowest, how far down that is, and where they are back at the start.

    The last lies on the chord of the first two losses on either side of the start's; NaN unknown.
    """
    known = np.isfinite(loss)
    distance, loss = distance[known], loss[known]
    order = np.argsort(distance)
    distance, loss = distance[order], loss[order]
    if not len(loss) or distance[0] != 0:
        return math.nan, math.nan, math.nan
    at = int(np.argmin(loss))
    back = np.flatnonzero((loss >= loss[0]) & (np.arange(len(loss)) > at))
    if at == 0 or not len(back):
        return float(distance[at]), float(loss[0] - loss[at]), 0.0 if at == 0 else math.nan
    i = int(back[0])
    share = (loss[0] - loss[i - 1]) / (loss[i] - loss[i - 1])
    critical = distance[i - 1] + share * (distance[i] - distance[i - 1])
    return float(distance[at]), float(loss[0] - loss[at]), float(critical)


def _histogram(run: Run, looks: Looks) -> Charts | None:
    rows, said = _few(run.frame(Histogram))
    rows = rows[rows["quantity"] != "momentum"]  # SGD's update.
    if not len(rows):
        return None
    # The gradient is no algorithm's; records have it beside SGD's update.
    own = rows["algorithm"].where(rows["quantity"] == "update", "")
    outlines = frames.magnitudes(rows.assign(algorithm=own), list(AT))
    outlines["relative"] = [float(f"{value:.4g}") for value in outlines["relative"]]
    if not len(outlines):
        return None
    gradient = bool((outlines["algorithm"] == "").any())
    figure = Figure(
        "histogram",
        charts.histogram("histogram", looks, at=AT, gradient=gradient),
        "Magnitudes of the coordinates",
        {"histogram": outlines},
        "How many coordinates have which magnitude, in units of each one’s root mean square. "
        "Coordinates that are exactly zero are left out." + said,
    )
    table = Table(
        "histogram",
        outlines,
        "Histogram: counts between powers of ten (log₁₀)",
        "Without an algorithm: the training gradient. Without a count: no coordinate lies between "
        "the neighbouring bins.",
        AT,
        (*AT, "algorithm", "lower", "upper", "count"),
    )
    return Charts((figure,), (table,))


def _convergence(run: Run, looks: Looks) -> Charts | None:
    rows = run.frame(Convergence)
    if not len(rows):
        return None
    lost = rows.assign(loss=rows["loss"].where(~rows["diverged"]))
    mean = lost.groupby(["task", "algorithm", "epoch"], sort=False)["loss"].mean().reset_index()
    seeds = " and seeds" * (rows["seed"].nunique() > 1)
    figure = Figure(
        "convergence",
        charts.convergence("convergence", looks, x="epoch", at=("task",)),
        "Training loss",
        {"convergence": mean},
        f"Mean over the batches{seeds} of each epoch. A curve that ends early diverged.",
        {"y": "linear"},
    )
    table = Table("convergence", mean, "Convergence: mean training loss", at=("task",))
    return Charts((figure,), (table,))


def _few(rows: pandas.DataFrame) -> tuple[pandas.DataFrame, str]:
    """Rows of one batch a choice, of as many seeds as there is room for; what is left out."""
    if not len(rows):
        return rows, ""
    first = rows.groupby(list(AT))["batch"].transform("min")
    said = " Of several measured batches of an epoch the first is shown." * bool(
        (rows["batch"] != first).any()
    )
    rows = rows[rows["batch"] == first]
    seeds: Sequence[Any] = sorted(rows["seed"].unique())
    while len(rows) > _MOST_ROWS and len(seeds) > 1:
        seeds = seeds[:-1]
        rows = rows[rows["seed"].isin(seeds)]
        said = f" The page has {len(seeds)} of the seeds."
    return rows.reset_index(drop=True), said
