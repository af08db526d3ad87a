"""What a run writes down: a CSV file a table, a frozen dataclass a row; nothing else writes.

A row is recorded once: `append` merges new rows into the table, sorts by the table's key and
replaces the file atomically, so that a file is always whole, an interrupted run loses no record,
and a resumed run's files equal an uninterrupted one's byte for byte.

Records of earlier versions stay readable: columns are found by their names, and a column that came
later has a default in its dataclass, which says what rows without it had. All files are UTF-8,
whatever the locale.
"""

import csv
import dataclasses
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from experiments.errors import DamagedError


@dataclasses.dataclass(frozen=True)
class Place:
    """The columns every measurement shares: one point, before the update of this batch."""

    task: str  # "translation" or "mlm".
    trajectory: str  # The optimizer that trains: "sgd" or "adam".
    seed: int  # Of initialisation, data order, masks, test subset and sampled batches.
    epoch: int  # From 1.
    batch: int  # Within the epoch, from 1.


PLACE = ("task", "trajectory", "seed", "epoch", "batch")


@dataclasses.dataclass(frozen=True)
class Cell(Place):
    """The columns of what is measured of one algorithm's update there."""

    algorithm: str  # A name of the configuration's `algorithms`, "sgd" or the trajectory's.


@dataclasses.dataclass(frozen=True)
class Sharpness(Cell):
    """One algorithm's direction at one measured batch, on the fixed test subset."""

    FILE: ClassVar = "sharpness.csv"
    KEY: ClassVar = ("task", "trajectory", "seed", "epoch", "batch", "algorithm")

    loss: float  # Nats, mean over the test subset.
    slope: float  # gᵀv, v = update/‖update‖: nats per unit of distance.
    sharpness: float  # vᵀHv: nats per unit of distance squared.
    sharpness_se: float  # Its standard error over micro-batches of the subset; nan with one.
    ratio: float  # sharpness/|SGD's sharpness| at the same point.
    update_norm: float  # ‖update‖₂ at learning rate 1 (Adafactor: its relative step).
    threshold: float  # τ of the training gradient at the clipped fraction.
    newton_step: float  # −slope/sharpness where sharpness > 0, else nan.
    predicted_decrease: float  # slope²/(2·sharpness) where sharpness > 0, else nan.
    top_share: float  # Share of ‖update‖² in the update's own top coordinates (clip fraction).
    # Later columns; rows of earlier versions have nan.
    slope_se: float = math.nan  # The slope's standard error over micro-batches; nan with one.
    # uᵀHu/(−gᵀu) of the update u as it was made, at learning rate 1; times the rate, of the update
    # as it is applied: 1 is the quadratic's minimum, beyond 2 it rises. nan where the slope is 0.
    step_ratio: float = math.nan
    # Share of the update's top coordinates (clip fraction) that are among SGD's, and among Adam's;
    # nan for an update of zeros, and where that one is not measured.
    overlap_sgd: float = math.nan
    overlap_adam: float = math.nan


@dataclasses.dataclass(frozen=True)
class Landscape(Cell):
    """The test loss along one unit direction; step 0 is the point itself."""

    FILE: ClassVar = "landscape.csv"
    KEY: ClassVar = (*Sharpness.KEY, "step")

    step: float  # Distance along update/‖update‖.
    loss: float


@dataclasses.dataclass(frozen=True)
class Search(Cell):
    """What the search along one unit direction found; made with the landscape, of the test loss."""

    FILE: ClassVar = "search.csv"
    KEY: ClassVar = Sharpness.KEY

    best_step: float  # The distance of least loss; 0 if none lowers it.
    best_decrease: float  # loss(0) − loss(best_step), nats.
    # The least distance at which the loss is back at its start, 2·newton_step on a quadratic; 0 if
    # nothing lowers it, inf if it stays below, nan where that is not known.
    critical_step: float
    status: str  # How the search ended: see `sharpjax.LineSearch.status`.


@dataclasses.dataclass(frozen=True)
class Histogram(Cell):
    """Counts of coordinate magnitudes |u| with 10^lower ≤ |u| < 10^upper."""

    FILE: ClassVar = "histogram.csv"
    KEY: ClassVar = (*Sharpness.KEY, "quantity", "lower")

    quantity: str  # "gradient", "momentum" (both with algorithm "sgd") or "update".
    lower: float  # log10; -inf holds the exact zeros and everything below the first edge.
    upper: float  # log10; inf in the last bin.
    count: int


@dataclasses.dataclass(frozen=True)
class Precision(Cell):
    """How far float32 stood from float64 at one point of a run."""

    FILE: ClassVar = "precision.csv"
    KEY: ClassVar = Sharpness.KEY

    sharpness: float  # As the run measures it.
    sharpness_float64: float  # Same point, direction and data, all in float64.
    relative_error: float  # |difference| / |float64's|.


@dataclasses.dataclass(frozen=True)
class Scales:
    """The size of the parameters and of the training gradient in one kind of tensor."""

    FILE: ClassVar = "scales.csv"
    KEY: ClassVar = ("task", "trajectory", "seed", "epoch", "batch", "kind")

    task: str
    trajectory: str
    seed: int
    epoch: int  # From 1; epoch 1, batch 1 is the trajectory's start.
    batch: int
    kind: str  # "embedding", "position", "attention", "feed-forward", "norm", "output", "other".
    training_loss: float  # Of the batch, before its update; the same for all kinds.
    parameters: int  # Coordinates of this kind.
    parameter_rms: float  # Root mean square of them.
    gradient_rms: float  # The same of the batch's gradient.
    gradient_share: float  # Share of the squared norm of the whole gradient.


@dataclasses.dataclass(frozen=True)
class Convergence:
    """One training step of one algorithm."""

    FILE: ClassVar = "convergence.csv"
    KEY: ClassVar = ("task", "seed", "algorithm", "step")

    task: str
    seed: int
    algorithm: str
    learning_rate: str  # A number, or "relative" (Adafactor's own step).
    step: int  # From 1.
    epoch: int  # From 1.
    loss: float  # Training loss of the batch, before the step.
    diverged: bool  # From the first loss that is not finite; the run ends there.


@dataclasses.dataclass(frozen=True)
class Tuning:
    """One rate of the search that `--tune` makes."""

    FILE: ClassVar = "tuning.csv"
    KEY: ClassVar = ("task", "seed", "algorithm", "learning_rate")

    task: str
    seed: int
    algorithm: str
    learning_rate: str
    steps: int  # The horizon.
    loss: float  # Mean training loss over the horizon's last fifth; inf if it diverged.
    diverged: bool
    chosen: bool  # The rate that the convergence runs use.


TABLES = (Sharpness, Search, Landscape, Histogram, Precision, Scales, Convergence, Tuning)
Row = TypeVar("Row", bound=Any)


def read(directory: Path | str, table: type[Row]) -> list[Row]:
    """All rows of a table in key order; an absent file is an empty table.

    Raises:
      DamagedError: the file is empty or cut, or is no such table.
    """
    path = Path(directory) / table.FILE
    if not path.exists():
        return []
    fields = {field.name: field for field in dataclasses.fields(table)}
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise _damaged_table(path, str(error)) from error
    reader = csv.reader(io.StringIO(text, newline=""))
    names = next(reader, [])
    absent = [k for k, field in fields.items() if k not in names and not _has_default(field)]
    unknown = [name for name in names if name not in fields]
    if absent or unknown or len(set(names)) < len(names):
        raise _damaged_table(path, f"its columns are {names}, not {list(fields)}")
    if not text.endswith("\n"):
        raise _damaged_table(path, f"line {text.count(chr(10)) + 1} is cut")
    rows = []
    for cells in reader:
        try:
            named = zip(names, cells, strict=True)
            rows.append(table(**{k: _parse(v, fields[k].type) for k, v in named}))
        except (ValueError, csv.Error) as error:
            raise _damaged_table(path, f"line {reader.line_num} is no row of it") from error
    return rows


def _has_default(field: dataclasses.Field) -> bool:
    return field.default is not dataclasses.MISSING


def _damaged_table(path: Path, what: str) -> DamagedError:
    return DamagedError(
        f"{path} is damaged ({what}): put a whole copy of it back, or delete it and the folder "
        "checkpoints beside it, and its records are made anew"
    )


def read_json(path: Path | str) -> dict[str, Any]:
    """A JSON object of a run; an absent file is an empty one.

    Raises:
      DamagedError: the file holds none.
    """
    path = Path(path)
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except ValueError as error:  # Not UTF-8, or not JSON.
        raise DamagedError(f"{path} is damaged ({error}): put a whole copy of it back") from error
    if not isinstance(value, dict):
        raise DamagedError(f"{path} is damaged (no JSON object): put a whole copy of it back")
    return value


def append(directory: Path | str, rows: Iterable[Any]) -> None:
    """Adds rows (of any tables) to their files; a row whose key is there is kept as it was."""
    by_table: dict[type, list] = {}
    for row in rows:
        by_table.setdefault(type(row), []).append(row)
    for table, new in by_table.items():
        merged = {_key(row): row for row in (*new, *read(directory, table))}
        _replace(directory, table, [merged[key] for key in sorted(merged)])


def drop(directory: Path | str, table: type, **where: Any) -> None:
    """Removes the rows whose columns equal `where` (a search that is made anew)."""
    kept = [r for r in read(directory, table) if any(getattr(r, k) != v for k, v in where.items())]
    _replace(directory, table, kept)


def write_json(path: Path | str, value: Any) -> None:
    """Replaces a JSON file atomically."""
    write_atomically(path, json.dumps(as_text(value), indent=2, ensure_ascii=False) + "\n")


def as_text(value: Any) -> Any:
    """The same with every string in it as text that can be encoded, whatever the locale.

    The command line comes as bytes. Python decodes them by the locale, so that a path of UTF-8
    reads differently under another one; here its bytes are taken for the UTF-8 that they are.
    """
    if isinstance(value, dict):
        return {as_text(k): as_text(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(as_text, value))
    if not isinstance(value, str) or value.isascii():
        return value
    try:
        return os.fsencode(value).decode("utf-8")
    except UnicodeError:  # It did not come from the command line, or is not UTF-8 there.
        return value.encode("utf-8", "backslashreplace").decode("utf-8")


def write_atomically(path: Path | str, text: str) -> None:
    """Writes `text` beside `path`, flushes it to disk, and renames it into place.

    Raises:
      DamagedError: it cannot be written; the file is as it was.
    """
    path = Path(path)
    try:
        _write(path, text)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DamagedError(
            f"{path} could not be written ({reason}) and is as it was: make room there or make it "
            "writable, and the same command continues"
        ) from error


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _replace(directory, table, rows) -> None:
    names = [field.name for field in dataclasses.fields(table)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_format(getattr(row, name)) for name in names] for row in rows)
    write_atomically(Path(directory) / table.FILE, text.getvalue())


def _key(row) -> tuple:
    return tuple(getattr(row, name) for name in row.KEY)


def _format(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(float(value)) if isinstance(value, float) else str(value)


def _parse(text: str, kind: Any) -> Any:
    if kind is bool and text not in ("true", "false"):
        raise ValueError(text)
    return text == "true" if kind is bool else kind(text)
