"""The page of a `Comparison`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpjax import plot
from sharpjax.compare import OWN
from sharpjax.plot._frames import finite, last_point
from sharpjax.plot.style import label
from sharpjax.report import charts, frames
from sharpjax.report._looks import Looks
from sharpjax.report._page import Figure, Section, Table, checked, write_page
from sharpjax.tables import at_loss, to_pandas

# Together they keep a page below three megabytes: rows of the table "directions", of landscapes,
# histograms and cosines together, and of training losses.
_MOST_DIRECTIONS = 2_500
_MOST_ROWS = 10_000
_MOST_LOSSES = 5_000


def write_comparison(comparison: Any, path: str | Path) -> Path:
    """Writes one self-contained HTML page with the tables and figures of a comparison.

    Charts and tables follow one choice of a step and, where several optimizers led to the points,
    of a trajectory. A page stays below 3 MB: of long comparisons it has every n-th training loss
    and evenly spread points, and of those again some landscapes, histograms and cosines.

    Args:
        comparison: A `Comparison`. What was not measured is left out.
        path: The file; it is replaced if it is there.

    Returns:
        The path.

    Raises:
        ValueError: no point was measured.
        OSError: the file cannot be written; the message says why.

    Cost: about five seconds, most of it for static figures and, once, for the charts' programs.
    """
    path = checked(path)
    if not comparison.points:
        raise ValueError("the comparison holds no point: nothing was measured")
    names = [*comparison.names]
    looks = Looks(names)
    own = comparison.follow == OWN
    several = not own and len({point.trajectory for point in comparison.points}) > 1
    at = ("trajectory", "step") if several else ("step",)
    points = _spread(comparison.points, _MOST_DIRECTIONS // len(names))
    kept = _spread(points, _MOST_ROWS // _rows(points[-1]))
    made = _Tables(comparison, points, kept, at)
    sections = [
        _sharpness(made, looks),
        _landscape(made, looks),
        _atlas(made, looks),
        _convergence(made, looks, own),
        _equal_progress(comparison, own),
        _histogram(made, looks),
        _cosines(made, looks),
        _precision(made),
    ]
    steps = sorted({point.step for point in comparison.points})
    facts = [
        f"{len(names)} optimizer{'s' * (len(names) > 1)}",
        "each on its own trajectory"
        if own
        else f"along the trajectory of {label(comparison.follow)}",
        f"measured at {_listed(steps)}",
    ]
    if comparison.interrupted:
        facts.append("stopped before its end")
    return write_page(
        [section for section in sections if section is not None],
        path,
        "Comparison of optimizers",
        looks=looks,
        points=to_pandas(kept, "directions")[list(at)].drop_duplicates(),
        facts=facts,
    )


class _Tables:
    """The tables of a comparison, each made once, and what its charts filter by."""

    def __init__(self, comparison: Any, points: Sequence[Any], kept: Sequence[Any], at: tuple):
        self.at, self.along = at, at[:-1]
        self.comparison, self.points, self.kept = comparison, points, kept
        self.keys = ["trajectory", "step"]
        measured = to_pandas(points, "directions")
        self.columns = tuple(measured.columns)
        self.directions = frames.with_errors(measured)
        # Static figures of thousands of marks would be larger than all the rest.
        self.few = measured[measured["step"].isin({point.step for point in kept})]
        self.large = {name: to_pandas(kept, name) for name in ("landscape", "histogram", "cosines")}
        losses = to_pandas([], "convergence", comparison.losses)
        self.convergence = frames.thinned(losses, _MOST_LOSSES)
        self.every_loss = len(self.convergence) == len(losses)

    def of(self, points: Sequence[Any]) -> str:
        """What a caption says if not all points are on the page."""
        some, total = len(points), len(self.comparison.points)
        return "" if some == total else f" The page has {some} of {total} measured points."


def _sharpness(made: _Tables, looks: Looks) -> Section:
    directions, name = made.directions, "directions"
    shown = [
        ("sharpness", "sharpness vᵀHv", "Sharpness", (), True, "log"),
        ("ratio", "sharpness / |SGD’s|", "Ratio to SGD", (1.0,), True, "log"),
        ("step_ratio", "‖u‖ / Newton step", "Step ratio", (1.0, 2.0), False, "log"),
    ]
    captions = {
        "sharpness": "Curvature along the unit direction. The bar is one standard error over "
        "micro-batches; a triangle on the lower edge is a sharpness that is zero or negative.",
        "ratio": "The bar is the numerator’s standard error.",
        "step_ratio": "At 1 an update reaches the minimum of its quadratic model, beyond 2 the "
        "model rises above its start.",
    }
    figures = []
    for value, said, title, levels, error, scale in shown:
        measured = directions[np.isfinite(finite(directions[value]))]
        # Only SGD itself has a ratio where each optimizer is at points of its own.
        if not len(measured) or (value == "ratio" and set(measured["algorithm"]) == {"sgd"}):
            continue
        chart = charts.over_steps(
            name, looks, value, said, at=made.along, levels=levels, error=error
        )
        figures.append(
            Figure(
                value,
                chart,
                title,
                {name: directions},
                captions[value],
                {"y": scale},
                static=plot.sharpness(made.few, value=value, style=looks.style),
            )
        )
    table = Table(
        "directions",
        made.directions,
        "Directions: every number of every update",
        "Slope and sharpness are along the unit direction; columns in _se are standard errors."
        + made.of(made.points),
        made.at,
        made.columns,
        open=True,
    )
    return Section("sharpness", "Sharpness", (), tuple(figures), (table,))


def _landscape(made: _Tables, looks: Looks) -> Section | None:
    rows = made.large["landscape"]
    if not len(rows):
        return None
    keys = made.keys
    directions = made.directions.merge(rows[keys].drop_duplicates(), on=keys)
    data = {
        "landscape_chart": frames.curves(rows, directions, keys),
        "minima": frames.minima(directions, keys),
    }
    figure = Figure(
        "landscape",
        charts.landscape("landscape_chart", "minima", looks, at=made.at),
        "Test loss along each update",
        data,
        "Lines end at the critical step, where the loss is back at its start. A filled mark is the "
        "lowest loss found, a hollow one the minimum of the quadratic model (slope, sharpness), "
        "left out where it lies far below." + made.of(made.kept),
        {"x": "log", "y": "linear"},
        static=plot.landscape(rows, last_point(directions), style=looks.style),
    )
    table = Table("landscape", rows, "Landscape: losses at distances", at=made.at)
    return Section("landscape", "Landscape", (), (figure,), (table,))


def _atlas(made: _Tables, looks: Looks) -> Section:
    figure = Figure(
        "atlas",
        charts.atlas("directions", made.directions, looks, at=made.along),
        "Sharpness against |slope|",
        {"directions": made.directions},
        "A quadratic falls by at most slope²/(2·sharpness). Grey lines join directions where this "
        "is equal, and are a power of ten or more apart; further to the lower right is better. The "
        "large mark is the chosen step.",
        {},
        static=plot.atlas(made.few, style=looks.style),
    )
    return Section("atlas", "Slope and sharpness", (), (figure,))


def _convergence(made: _Tables, looks: Looks, own: bool) -> Section | None:
    rows = made.convergence
    if not len(rows):
        return None
    figure = Figure(
        "convergence",
        charts.convergence("convergence", looks),
        "Training loss",
        {"convergence": rows},
        "Before each step’s update."
        + ("" if own else " Only an optimizer whose updates were applied has a curve.")
        + ("" if made.every_loss else " The page has every n-th step."),
        {"y": "linear"},
        static=plot.convergence(rows, style=looks.style),
    )
    table = Table("convergence", rows, "Convergence: training losses")
    return Section("convergence", "Convergence", (), (figure,), (table,))


def _equal_progress(comparison: Any, own: bool) -> Section | None:
    """Each optimizer where its test loss is first down at a level that all of them reach."""
    if not own:
        return None
    lowest: dict[str, float] = {}
    for point in comparison.points:
        for name, stats in point.directions.items():
            lowest[name] = min(lowest.get(name, np.inf), float(stats.loss))
    level = max(lowest.values())
    rows = at_loss(comparison.points, comparison.names, level)
    if not np.isfinite(finite(rows["step"])).any():
        return None
    text = f"Where each test loss is first down at {level:.4g}, the lowest that all reach."
    text += " One without numbers was below it at its first measured point already."
    table = Table("at_loss", rows, f"At test loss {level:.4g}", open=True)
    return Section("equal-progress", "At equal progress", (text,), (), (table,))


def _histogram(made: _Tables, looks: Looks) -> Section | None:
    rows = made.large["histogram"]
    if not len(rows):
        return None
    outlines = frames.magnitudes(rows, made.keys)
    gradient = bool((outlines["algorithm"] == "").any())
    figure = Figure(
        "histogram",
        charts.histogram("magnitudes", looks, at=made.at, gradient=gradient),
        "Magnitudes of the coordinates",
        {"magnitudes": outlines},
        "How many coordinates have which magnitude, in units of each update’s root mean square. "
        "Coordinates that are exactly zero are in the table." + made.of(made.kept),
        {},
        static=plot.histogram(rows, style=looks.style),
    )
    table = Table("histogram", rows, "Histogram: counts between powers of ten (log₁₀)", at=made.at)
    return Section("histogram", "Histogram", (), (figure,), (table,))


def _cosines(made: _Tables, looks: Looks) -> Section | None:
    rows = made.large["cosines"]
    shown = {
        "cosine": ("Cosine of two updates", "Of their directions; 1 is the same direction."),
        "overlap": (
            "Shared top coordinates",
            "Of the row’s largest coordinates, the share that is among the column’s.",
        ),
    }
    shown = {value: said for value, said in shown.items() if np.isfinite(finite(rows[value])).any()}
    if not shown or (rows["algorithm"] == rows["other"]).all():
        return None
    figures = [
        Figure(
            value,
            charts.pairs("cosines", looks, value, value, at=made.at),
            title,
            {"cosines": rows},
            caption + made.of(made.kept),
            {},
            static=plot.cosines(rows, values=(value,)),
        )
        for value, (title, caption) in shown.items()
    ]
    table = Table(
        "cosines", rows, "Cosines: pairs of updates, and the curvature between them", at=made.at
    )
    return Section("cosines", "Cosines", (), tuple(figures), (table,))


def _precision(made: _Tables) -> Section | None:
    rows = to_pandas(made.points, "precision")
    if not len(rows):
        return None
    table = Table("precision", rows, "Precision: float32 beside float64", at=made.at, open=True)
    text = "The sharpness on the first micro-batch, measured in float32 and in float64."
    return Section("precision", "Precision", (text,), (), (table,))


def _rows(point: Any) -> int:
    """How many rows of the largest tables a point has."""
    return max(1, sum(len(to_pandas([point], n)) for n in ("landscape", "histogram", "cosines")))


def _spread(points: Sequence[Any], most: int) -> list[Any]:
    """About so many points, at evenly spread steps, the first and the last among them."""
    steps = sorted({point.step for point in points})
    beside = max(1, round(len(points) / len(steps)))
    keep = set(frames.spread(steps, max(2, most // beside)))
    return [point for point in points if point.step in keep]


def _listed(steps: Sequence[int]) -> str:
    if len(steps) == 1:
        return f"step {steps[0]}"
    if len(steps) <= 4:
        return "steps " + ", ".join(map(str, steps[:-1])) + f" and {steps[-1]}"
    return f"{len(steps)} steps from {steps[0]} to {steps[-1]}"
