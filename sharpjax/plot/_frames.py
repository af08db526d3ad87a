"""What a plot function is given, as a tidy pandas DataFrame."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from sharpjax.plot.style import Style, label


def table(results: Any, name: str, needs: Sequence[str]) -> Any:
    """One table of a `Point` or a `Comparison`; a DataFrame is the table already.

    Raises:
        TypeError: neither of them.
        ValueError: a column is missing, or there is no row.
    """
    frame = results.to_pandas(name) if hasattr(results, "to_pandas") else results
    if not hasattr(frame, "columns"):
        raise TypeError(
            f"results must be a Point, a Comparison or a DataFrame, got {type(results).__name__}"
        )
    missing = [column for column in needs if column not in frame.columns]
    if missing:
        raise ValueError(f"the table {name!r} has no column {missing[0]!r}: {[*frame.columns]}")
    if not len(frame):
        raise ValueError(f"the table {name!r} has no row: nothing was measured")
    return frame


def last_point(frame: Any) -> Any:
    """The rows of one point: the last of a trajectory, or of each optimizer's own."""
    if "step" not in frame.columns:
        return frame
    if "trajectory" not in frame.columns:
        return frame[frame["step"] == frame["step"].max()]
    if frame["trajectory"].nunique() > 1 and not _own(frame):
        # Several trajectories have no point in common: the last one's.
        frame = frame[frame["trajectory"] == frame["trajectory"].iloc[-1]]
    return frame[frame["step"] == frame.groupby("trajectory")["step"].transform("max")]


def by(frame: Any, columns: Sequence[str]) -> dict[tuple, Any]:
    """The rows of each combination of columns, in order of appearance."""
    if not columns:
        return {(): frame}
    return dict(iter(frame.groupby(list(columns), sort=False)))


def split(frame: Any, panels: Sequence[str] | None) -> dict[tuple, Any]:
    """The rows of each panel; by default a panel a trajectory that several optimizers share."""
    if panels is None:
        several = "trajectory" in frame.columns and frame["trajectory"].nunique() > 1
        panels = ("trajectory",) if several and not _own(frame) else ()
    return by(frame, panels)


def _own(frame: Any) -> bool:
    """Whether each optimizer was measured on its own trajectory alone."""
    rows = frame[frame["algorithm"] != ""]  # Those of a gradient have no optimizer.
    return bool((rows["trajectory"] == rows["algorithm"]).all())


def panel_title(title: Callable[[tuple], str] | None, at: tuple) -> str:
    """What stands above a panel: what the caller says of it, else a trajectory's name."""
    if title is not None:
        return title(at)
    return ", ".join(f"{label(str(part))} trajectory" for part in at)


def names_of(frame: Any) -> list[str]:
    """The optimizers of a table, each once, in order of appearance."""
    return [str(name) for name in frame["algorithm"].unique() if name != ""]


def style_of(style: Style | None, names: Iterable[str]) -> Style:
    """The caller's style, or one of the names that are drawn."""
    return Style(names) if style is None else style


def finite(values: Any) -> np.ndarray:
    """Float64 with NaN for everything that is not finite."""
    values = np.asarray(values, np.float64)
    return np.where(np.isfinite(values), values, np.nan)
