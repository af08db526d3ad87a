"""The tables of a run, a class each: their columns are a contract with whoever reads the files.

A column that came later stands last and has a default, which says what rows without it had.
"""

import dataclasses
import math
from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(frozen_default=True)
class Row:
    """A line of a table; a subclass is a frozen dataclass."""

    FILE: ClassVar[str]
    KEY: ClassVar[tuple[str, ...]] = ()  # The columns that tell rows apart and order them.

    def __init_subclass__(cls, *, key: tuple[str, ...] = (), file: str = ""):
        """Makes the dataclass; `key` is what its key has beyond that of its base."""
        super().__init_subclass__()
        dataclasses.dataclass(frozen=True)(cls)
        cls.KEY = (*cls.KEY, *key)
        if file:
            cls.FILE = f"{file}.csv"

    @classmethod
    def of(cls, key: tuple, result: Any = None, **columns: Any) -> Self:
        """A row with these values of its key's first columns, and the others by their names.

        Args:
          key: In the order of `KEY`.
          result: Whose fields fill what `columns` does not name.
          **columns: What is named otherwise in the result, or not there.
        """
        values = dict(zip(cls.KEY, key, strict=False)) | columns
        fields = {f.name: f.type for f in dataclasses.fields(cls)}
        found = {k: getattr(result, k) for k in fields if k not in values and hasattr(result, k)}
        return cls(**{k: fields[k](v) for k, v in (values | found).items()})

    @property
    def key(self) -> tuple:
        return tuple(getattr(self, name) for name in self.KEY)


def one(rows: list[Any], **where: Any) -> Any:
    """The first row with these values; None without one."""
    return next((r for r in rows if all(getattr(r, k) == v for k, v in where.items())), None)


class AtPoint(Row, key=("task", "trajectory", "seed", "epoch", "batch")):
    """The columns every measurement shares: one point, before the update of this batch."""

    task: str  # "translation" or "mlm".
    trajectory: str  # The optimizer that trains: "sgd" or "adam".
    seed: int  # Of initialisation, data order, masks, test subset and sampled batches.
    epoch: int  # From 1.
    batch: int  # Within the epoch, from 1.


class AtUpdate(AtPoint, key=("algorithm",)):
    """The columns of what is measured of one algorithm's update there."""

    algorithm: str  # A name of the configuration's `algorithms`, "sgd" or the trajectory's.


class RitzValue(AtPoint, key=("probe", "index")):
    """The columns of one Ritz value of one Lanczos run."""

    probe: int  # From 0.
    index: int  # From 0, ascending.
    eigenvalue: float
    weight: float  # In the density; a probe's sum to 1.
    residual: float  # An eigenvalue of the matrix lies within it.
    parameters: int


class Sharpness(AtUpdate, file="sharpness"):
    """One algorithm's direction at one measured batch, on the fixed test subset."""

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
    # Cosine of the update with the negative training gradient, and with Adam's update; nan for an
    # update of zeros, and where Adam is not measured.
    cosine_gradient: float = math.nan
    cosine_adam: float = math.nan


class Landscape(AtUpdate, key=("step",), file="landscape"):
    """The test loss along one unit direction; step 0 is the point itself."""

    step: float  # Distance along update/‖update‖.
    loss: float


class Search(AtUpdate, file="search"):
    """What the search along one unit direction found; made with the landscape, of the test loss."""

    best_step: float  # The distance of least loss; 0 if none lowers it.
    best_decrease: float  # loss(0) − loss(best_step), nats.
    # The least distance at which the loss is back at its start, 2·newton_step on a quadratic; 0 if
    # nothing lowers it, inf if it stays below, nan where that is not known.
    critical_step: float
    status: str  # How the search ended: see `sharpjax.LineSearch.status`.


class Histogram(AtUpdate, key=("quantity", "lower"), file="histogram"):
    """Counts of coordinate magnitudes |u| with 10^lower ≤ |u| < 10^upper."""

    quantity: str  # "gradient", "momentum" (both with algorithm "sgd") or "update".
    lower: float  # log10; -inf holds the exact zeros and everything below the first edge.
    upper: float  # log10; inf in the last bin.
    count: int


class Precision(AtUpdate, file="precision"):
    """How far float32 stood from float64 at one point of a run."""

    sharpness: float  # As the run measures it.
    sharpness_float64: float  # Same point, direction and data, all in float64.
    relative_error: float  # |difference| / |float64's|.


class Scales(AtPoint, key=("kind",), file="scales"):
    """The size of the parameters and of the training gradient in one kind of tensor.

    Epoch 1, batch 1 is the trajectory's start.
    """

    kind: str  # "embedding", "position", "attention", "feed-forward", "norm", "output", "other".
    training_loss: float  # Of the batch, before its update; the same for all kinds.
    parameters: int  # Coordinates of this kind.
    parameter_rms: float  # Root mean square of them.
    gradient_rms: float  # The same of the batch's gradient.
    gradient_share: float  # Share of the squared norm of the whole gradient.


class Convergence(Row, key=("task", "seed", "algorithm", "step"), file="convergence"):
    """One training step of one algorithm."""

    task: str
    seed: int
    algorithm: str
    learning_rate: str  # A number, or "relative" (Adafactor's own step).
    step: int  # From 1.
    epoch: int  # From 1.
    loss: float  # Training loss of the batch, before the step.
    diverged: bool  # From the first loss that is not finite; the run ends there.


class Tuning(Row, key=("task", "seed", "algorithm", "learning_rate"), file="tuning"):
    """One rate of the search that `--tune` makes."""

    task: str
    seed: int
    algorithm: str
    learning_rate: str
    steps: int  # The horizon.
    loss: float  # Mean training loss over the horizon's last fifth; inf if it diverged.
    diverged: bool
    chosen: bool  # The rate that the convergence runs use.


TABLES = (Sharpness, Search, Landscape, Histogram, Precision, Scales, Convergence, Tuning)
