"""Results as tidy tables: pandas DataFrames, and HTML for a notebook."""

import dataclasses
import html
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sharpjax._checks import check_choice
from sharpjax.directions import DirectionStats
from sharpjax.point import EDGES, Point

FIELDS = tuple(field.name for field in dataclasses.fields(DirectionStats))


def to_pandas(points: Sequence[Point], table: str, losses: Mapping[str, Any] | None = None) -> Any:
    """One table of many points as a DataFrame; see `Comparison.to_pandas`."""
    check_choice("table", table, (*_TABLES, "convergence"))
    pandas = import_pandas()
    if table == "convergence":
        rows = [
            {"step": step, "algorithm": name, "loss": float(loss)}
            for name, values in (losses or {}).items()
            for step, loss in enumerate(values, start=1)
        ]
        return pandas.DataFrame(rows, columns=["step", "algorithm", "loss"])
    columns, make = _TABLES[table]
    rows = [
        {"step": point.step, "trajectory": point.trajectory, **row}
        for point in points
        for row in make(point)
    ]
    return pandas.DataFrame(rows, columns=["step", "trajectory", *columns])


def at_loss(points: Sequence[Point], names: Sequence[str], level: float) -> Any:
    """A row an optimizer where its test loss is first down at `level`; see `Comparison.at_loss`."""
    rows = []
    for name in names:
        seen = [
            {"step": p.step} | {f: float(getattr(p.directions[name], f)) for f in FIELDS}
            for p in points
            if name in p.directions
        ]
        row = dict.fromkeys(("step", *FIELDS), np.nan)
        for before, after in itertools.pairwise(seen):
            if before["loss"] > level >= after["loss"]:
                share = (before["loss"] - level) / (before["loss"] - after["loss"])
                row = {k: before[k] + share * (after[k] - before[k]) for k in row}
                break
        rows.append({"algorithm": name, **row})
    return import_pandas().DataFrame(rows)


def to_html(points: Sequence[Point]) -> str:
    """The last point of each trajectory as an HTML table."""
    if not points:
        return f"<p>{_NOTHING}</p>"
    parts = []
    for where, columns, rows in _last(points):
        head = "".join(f"<th>{html.escape(c)}</th>" for c in ("algorithm", *columns))
        body = "".join(
            f"<tr><th>{html.escape(row['algorithm'])}</th>"
            + "".join(f"<td>{row[c]:.4g}</td>" for c in columns)
            + "</tr>"
            for row in rows
        )
        parts.append(
            f"<table><caption>{html.escape(where)}</caption>"
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        )
    return "".join(parts)


def to_text(points: Sequence[Point]) -> str:
    """The same for a terminal."""
    parts = []
    for where, columns, rows in _last(points):
        lines = [["", *columns]]
        lines += [[row["algorithm"], *(f"{row[c]:.4g}" for c in columns)] for row in rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts.append(where)
        for name, *cells in lines:
            numbers = [cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True)]
            parts.append("  ".join([name.ljust(widths[0]), *numbers]))
    return "\n".join(parts) or _NOTHING


_NOTHING = "Nothing was measured."
_SUMMARY = ("slope", "sharpness", "sharpness_se", "step_ratio", "best_step", "best_decrease")


def _last(points: Sequence[Point]) -> Iterator[tuple[str, list[str], list[dict[str, Any]]]]:
    """Of the last point of each trajectory: where it is, the columns that it has, and its rows."""
    for point in {point.trajectory: point for point in points}.values():
        rows = list(_directions(point))
        columns = [c for c in _SUMMARY if any(np.isfinite(row[c]) for row in rows)]
        where = f"step {point.step}" + (f", {point.trajectory}" if point.trajectory else "")
        yield f"{where}: loss {rows[0]['loss']:.4g}", columns, rows


def import_pandas() -> Any:
    """The package pandas, or an ImportError that says how to get it."""
    try:
        import pandas
    except ImportError as error:
        raise ImportError("tables need pandas: pip install 'sharpjax[plot]'") from error
    return pandas


def _directions(point: Point):
    reference = point.directions.get("sgd")
    scale = abs(float(reference.sharpness)) if reference is not None else np.nan
    for name in point.names:
        stats = point.directions[name]
        search = point.searches[name] if point.searches is not None else None
        found = ("best_step", "best_decrease", "critical_step")
        yield {
            "algorithm": name,
            **{field: float(getattr(stats, field)) for field in FIELDS},
            "ratio": float(stats.sharpness) / scale if scale else np.nan,
            "step_ratio": float(stats.step_ratio),
            **{f: float(getattr(search, f)) if search is not None else np.nan for f in found},
            "top_share": float(point.top_share[name]),
            "threshold": float(point.threshold),
        }


def _landscape(point: Point):
    searches = point.searches or {}
    for name in point.names if searches else ():
        search = searches[name]
        for distance, loss in zip(search.steps, search.losses, strict=True):
            yield {"algorithm": name, "distance": float(distance), "loss": float(loss)}


def _histogram(point: Point):
    bounds = np.concatenate([[-np.inf], EDGES, [np.inf]])
    for name in sorted(point.histogram, key=(*point.names, "gradient").index):
        counts, gradient = point.histogram[name], name not in point.names
        for i in np.flatnonzero(np.asarray(counts)):
            yield {
                "algorithm": "" if gradient else name,
                "quantity": "gradient" if gradient else "update",
                "lower": float(bounds[i]),
                "upper": float(bounds[i + 1]),
                "count": int(counts[i]),
            }


def _cosines(point: Point):
    span, overlap = point.span, np.asarray(point.overlap)
    place = dict(zip(span.names, range(len(span.names)), strict=True)) if span else {}
    for i, name in enumerate(point.names):
        for j, other in enumerate(point.names):
            curvature = (span.gram, span.curvature, span.curvature_se) if span else ()
            values = [float(x[place[name], place[other]]) for x in curvature] or [np.nan] * 3
            fields = ("cosine", "curvature", "curvature_se")
            yield {
                "algorithm": name,
                "other": other,
                **dict(zip(fields, values, strict=True)),
                "overlap": float(overlap[i, j]),
            }


def _precision(point: Point):
    precision = point.precision or {}
    for name in point.names if precision else ():
        found = precision[name]
        yield {"algorithm": name} | {
            f.name: float(getattr(found, f.name)) for f in dataclasses.fields(found)
        }


_TABLES: dict[str, tuple[tuple[str, ...], Callable]] = {
    "directions": (
        (
            "algorithm",
            *FIELDS,
            "ratio",
            "step_ratio",
            "best_step",
            "best_decrease",
            "critical_step",
            "top_share",
            "threshold",
        ),
        _directions,
    ),
    "landscape": (("algorithm", "distance", "loss"), _landscape),
    "histogram": (("algorithm", "quantity", "lower", "upper", "count"), _histogram),
    "cosines": (
        ("algorithm", "other", "cosine", "curvature", "curvature_se", "overlap"),
        _cosines,
    ),
    "precision": (
        ("algorithm", "sharpness", "sharpness_float64", "relative_error"),
        _precision,
    ),
}
