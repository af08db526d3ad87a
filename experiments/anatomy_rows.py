"""The rows that an anatomy writes, in the manner of `records`: a CSV file a table."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from experiments import algorithms, explanation_rows, paper, records
from experiments.records import PLACE, Place
from sharpjax.spectrum import Spectrum


@dataclasses.dataclass(frozen=True)
class Lorenz(records.Cell):
    """What the top coordinates by |training gradient| hold of one direction's sharpness."""

    FILE: ClassVar = "anatomy_lorenz.csv"
    KEY: ClassVar = (*PLACE, "algorithm", "fraction")

    fraction: float  # Of all coordinates.
    sharpness: float  # Σ of v ⊙ Hv over them, nats per squared unit of distance.
    sharpness_se: float  # Over micro-batches of the test subset.
    share: float  # sharpness/vᵀHv; contributions may be negative.
    squared_norm: float  # Σ of vᵢ² over them, of 1.


@dataclasses.dataclass(frozen=True)
class Block(records.Cell):
    """vᵢᵀHᵢⱼvⱼ of two groups of tensors; all pairs sum to vᵀHv."""

    FILE: ClassVar = "anatomy_blocks.csv"
    KEY: ClassVar = (*PLACE, "algorithm", "layer", "kind", "other_layer", "other_kind")

    layer: str  # "embeddings", "encoder 1", …
    kind: str  # "embedding", "q", …; see KINDS.
    other_layer: str
    other_kind: str
    sharpness: float
    sharpness_se: float  # Over micro-batches of the test subset.
    squared_norm: float  # ‖vᵢ‖², of 1.


@dataclasses.dataclass(frozen=True)
class Correlation(Place):
    """Spearman's correlation of |gᵢ| with |Hᵢᵢ|; see `sharpjax.statistics.RankCorrelation`."""

    FILE: ClassVar = "anatomy_correlation.csv"
    KEY: ClassVar = (*PLACE, "gradient", "scope")

    gradient: str  # "batch": the training batch's; "test": of the loss whose Hessian it is.
    scope: str  # "overall", "within tensors" (their weighted mean), or a tensor's path.
    correlation: float
    low: float  # 95 % confidence interval.
    high: float
    control: float  # With the estimator's noise alone.
    unbiased: float  # With an unbiased estimate of Hᵢᵢ²; zero on average were all Hᵢᵢ zero.
    unbiased_low: float  # 95 % confidence interval.
    unbiased_high: float
    reliability: float  # Of the signed estimate: correlation of two such.
    resolved: float  # Share of coordinates with |estimate| above two of its standard errors.
    coordinates: int
    probes: int


@dataclasses.dataclass(frozen=True)
class Density(Place):
    """Counts of coordinates in bins of log₁₀|gᵢ| and log₁₀|Hᵢᵢ| (as estimated)."""

    FILE: ClassVar = "anatomy_density.csv"
    KEY: ClassVar = (*PLACE, "gradient", "log_gradient", "log_diagonal")

    gradient: str  # As in Correlation.
    log_gradient: float  # Lower edge of a bin of width BIN; -inf holds exact zeros.
    log_diagonal: float  # Likewise.
    count: int


@dataclasses.dataclass(frozen=True)
class SpanPair(records.Cell):
    """Two directions: vᵢᵀvⱼ and vᵢᵀHvⱼ."""

    FILE: ClassVar = "anatomy_span.csv"
    KEY: ClassVar = (*PLACE, "algorithm", "other")

    other: str
    cosine: float
    curvature: float
    curvature_se: float  # Over micro-batches of the test subset.


@dataclasses.dataclass(frozen=True)
class SpanValue(Place):
    """An eigenvalue of the Hessian within the span of the directions."""

    FILE: ClassVar = "anatomy_span_values.csv"
    KEY: ClassVar = (*PLACE, "index")

    index: int  # From 0, the largest first.
    eigenvalue: float
    eigenvalue_se: float  # Over micro-batches of the test subset.
    kept: bool  # Whether the span's step goes along it.


@dataclasses.dataclass(frozen=True)
class Decrease(records.Cell):
    """How far down one direction goes, by the quadratic model and in truth."""

    FILE: ClassVar = "anatomy_decrease.csv"
    KEY: ClassVar = (*PLACE, "algorithm")

    # `algorithm` is one that is measured, or "span" for the best step in their span.
    coefficient: float  # Of its unit direction in the span's step; nan for the span itself.
    model_step: float  # The quadratic model's best distance; nan if it has none.
    predicted_decrease: float  # What the model promises there.
    model_decrease: float  # What the loss does there.
    best_step: float  # The best distance along the direction.
    best_decrease: float  # loss − least loss found along it.


@dataclasses.dataclass(frozen=True)
class Parts(records.Cell):
    """vᵀHv = vᵀGv + residual."""

    FILE: ClassVar = "anatomy_gauss_newton.csv"
    KEY: ClassVar = (*PLACE, "algorithm")

    sharpness: float
    sharpness_se: float  # Over micro-batches of the test subset, as the two below.
    gauss_newton: float
    gauss_newton_se: float
    residual: float
    residual_se: float


@dataclasses.dataclass(frozen=True)
class Ritz(Place):
    """One Ritz value of one Lanczos run."""

    FILE: ClassVar = "anatomy_spectrum.csv"
    KEY: ClassVar = (*PLACE, "probe", "index")

    probe: int  # From 0.
    index: int  # From 0, ascending.
    eigenvalue: float
    weight: float  # In the density; a probe's sum to 1.
    residual: float  # An eigenvalue of H lies within it.
    parameters: int


@dataclasses.dataclass(frozen=True)
class Clipped(Place):
    """A direction with a fraction of its coordinates clipped."""

    FILE: ClassVar = "anatomy_fractions.csv"
    KEY: ClassVar = (*PLACE, "quantity", "scope", "fraction")

    quantity: str  # "momentum" (SGD's) or "gradient" (of the training batch).
    scope: str  # "global" or "tensor".
    fraction: float
    slope: float
    sharpness: float
    sharpness_se: float  # Over micro-batches of the test subset.
    predicted_decrease: float
    best_step: float
    best_decrease: float


TABLES = (
    *(Lorenz, Block, Correlation, Density, SpanPair, SpanValue, Decrease, Parts, Ritz, Clipped),
    *explanation_rows.TABLES,
)
BIN = 0.25


def points(directory: Path | str) -> dict[tuple, dict[type, list]]:
    """The points with any record, in the order of the paper's columns, and their rows by table."""
    found: dict[tuple, dict[type, list]] = {}
    for table in TABLES:
        for row in records.read(directory, table):
            place = tuple(getattr(row, k) for k in PLACE)
            found.setdefault(place, {t: [] for t in TABLES})[table].append(row)
    order = list(paper.TABLE)
    rank = lambda p: (order.index(p[:2]) if p[:2] in order else len(order), *p)  # noqa: E731
    return {place: found[place] for place in sorted(found, key=rank)}


def by_algorithm(rows: list) -> dict[str, list]:
    """The rows of each algorithm, in the tables' order."""
    names = algorithms.in_order(r.algorithm for r in rows)
    return {a: [r for r in rows if r.algorithm == a] for a in names}


def in_order(rows: list) -> list:
    """A row an algorithm, in the tables' order; the span, which is none, last."""
    names = algorithms.in_order(r.algorithm for r in rows)
    return sorted(rows, key=lambda r: (is_span(r), names.index(r.algorithm)))


def is_span(row: Any) -> bool:
    """Whether a row is of the best step in all directions' span, not of an algorithm."""
    return row.algorithm == "span"


def as_spectrum(rows: list) -> Spectrum:
    """Recorded Ritz values, of one matrix, as the library's spectrum."""
    probes = max(r.probe for r in rows) + 1
    steps = max(r.index for r in rows) + 1
    values, weights, residuals = np.zeros((3, probes, steps))
    for r in rows:
        values[r.probe, r.index] = r.eigenvalue
        weights[r.probe, r.index] = r.weight
        residuals[r.probe, r.index] = r.residual
    return Spectrum(values, weights, residuals, rows[0].parameters)
