"""Tables that charts need and `to_pandas` does not have; all derived from it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas

from sharpjax.plot._frames import finite


def with_errors(directions: Any) -> Any:
    """The table "directions" with the standard error of the ratio, and |slope| for a log axis.

    The ratio's error is that of its numerator, |ratio·sharpness_se/sharpness|: SGD's own error is
    common to all optimizers and moves them together.
    """
    frame = directions.copy()
    sharpness, error = finite(frame["sharpness"]), finite(frame["sharpness_se"])
    with np.errstate(divide="ignore", invalid="ignore"):
        frame["ratio_se"] = np.abs(finite(frame["ratio"]) * error / sharpness)
        slope, error = finite(frame["slope"]), finite(frame["slope_se"])
    frame["steepness"] = np.abs(slope)
    for name in ("ratio", "sharpness"):
        value, error = finite(frame[name]), np.nan_to_num(finite(frame[f"{name}_se"]))
        # A bar that reached zero would have no end on a logarithmic axis: it ends below all values.
        floor = np.min(value, where=value > 0, initial=np.inf) / 3
        frame[f"{name}_low"] = np.where(value > 0, np.maximum(value - error, floor), value - error)
        frame[f"{name}_high"] = value + error
    return frame


def curves(landscape: Any, directions: Any, at: Sequence[str]) -> Any:
    """The losses along each update up to the critical step, where the loss is back at its start.

    Beyond it only the search went, far and high: such rows would squeeze all curves into a line.
    One whose critical step was not found ends at four times the best step.
    """
    keys = [*at, "algorithm"]
    known = landscape[np.isfinite(finite(landscape["loss"]))]
    ends = directions[[*keys, "loss", "best_step", "critical_step"]]
    ends = ends.rename(columns={"loss": "start"})
    joined = known.merge(ends, on=keys, how="left")
    seen = np.isfinite(finite(joined["critical_step"])) & (joined["critical_step"] > 0)
    far = 4 * joined["best_step"].where(joined["best_step"] > 0, np.inf)
    inside = np.where(seen, joined["distance"] < joined["critical_step"], joined["distance"] <= far)
    below = joined["loss"] <= joined["start"] + 1e-6 * joined["start"].abs()
    last = ends[(ends["critical_step"] > 0) & np.isfinite(finite(ends["critical_step"]))]
    last = last.rename(columns={"start": "loss", "critical_step": "distance"})
    # An optimizer that was measured without its landscape has a start and no curve.
    last = last.merge(known[keys].drop_duplicates(), on=keys)
    made = pandas.concat([joined[inside & below][[*keys, "distance", "loss"]], last])
    return made.sort_values([*keys, "distance"], kind="stable", ignore_index=True)


def minima(directions: Any, at: Sequence[str]) -> Any:
    """The lowest loss found along each update, and the minimum of its quadratic model.

    A model's minimum is left out where it lies far below everything that was found, since no axis
    could show both.
    """
    keys = [*at, "algorithm"]
    parts = []
    for what, x, fall in (
        ("lowest loss found", "best_step", "best_decrease"),
        ("quadratic model's minimum", "newton_step", "predicted_decrease"),
    ):
        part = directions[keys].copy()
        part["mark"], part["distance"] = what, finite(directions[x])
        part["loss"] = finite(directions["loss"]) - finite(directions[fall])
        parts.append(part)
    made = pandas.concat(parts, ignore_index=True)
    made = made[(made["distance"] > 0) & made["loss"].notna()]
    group = [directions[column] for column in at]
    falls = pandas.Series(finite(directions["best_decrease"]), directions.index)
    deepest: Any = falls.groupby(group).transform("max") if group else falls * 0 + falls.max()
    bottoms = directions[keys].assign(bottom=directions["loss"] - 1.6 * deepest)
    made = made.merge(bottoms, on=keys, how="left")
    found = made["mark"] == "lowest loss found"
    keep = found | ~(made["loss"] < made["bottom"])
    return made[keep].drop(columns="bottom").reset_index(drop=True)


def magnitudes(histogram: Any, at: Sequence[str]) -> Any:
    """Outlines of the histograms, magnitudes divided by each one's root mean square.

    Columns: `at`, algorithm, lower, upper (powers of ten), count, and `relative`, the middle of the
    bin in units of the root mean square. Between bins with a gap stands a row without a count,
    which breaks the line: empty bins are not recorded.
    """
    keys = [*at, "algorithm"]
    rows = histogram[histogram["quantity"].isin(["update", "gradient"])]
    rows = rows[np.isfinite(finite(rows["lower"])) & np.isfinite(finite(rows["upper"]))]
    parts = []
    for _, mine in rows.groupby(keys, sort=False):
        mine = mine.sort_values("lower")
        middle = ((mine["lower"] + mine["upper"]) / 2).to_numpy(float)
        count = mine["count"].to_numpy(float)
        # In logarithms: 1e-20 squared is below what float32 tables would hold.
        log_rms = np.log10(np.sum(count * 100.0**middle) / np.sum(count)) / 2
        made = mine[[*keys, "lower", "upper", "count"]].assign(relative=10.0 ** (middle - log_rms))
        gap = np.flatnonzero(made["lower"].to_numpy()[1:] > made["upper"].to_numpy()[:-1] + 1e-9)
        breaks = made.iloc[gap].assign(
            count=np.nan, relative=10.0 ** (made["upper"].to_numpy()[gap] - log_rms)
        )
        parts.append(pandas.concat([made, breaks]).sort_values("relative"))
    columns = [*keys, "lower", "upper", "count", "relative"]
    return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame(columns=columns)


def thinned(frame: Any, most: int) -> Any:
    """Every n-th training step of the table "convergence", so that at most so many rows stay."""
    if len(frame) <= most:
        return frame
    every = -(-len(frame) // most)
    return frame[(frame["step"] - 1) % every == 0].reset_index(drop=True)


def spread(points: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the points, evenly, with the first and the last."""
    if len(points) <= most:
        return list(points)
    return [points[i] for i in np.unique(np.linspace(0, len(points) - 1, max(most, 1)).astype(int))]
