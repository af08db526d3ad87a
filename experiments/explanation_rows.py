"""The rows of what later work explains Adam's lead by, measured at an anatomy's point."""

import dataclasses
from typing import ClassVar

from experiments.records import PLACE, Cell, Place


@dataclasses.dataclass(frozen=True)
class Preconditioned(Place):
    """One Ritz value of P^(−½)HP^(−½), P = √v̂ + ε of Adam once it has seen the batch's gradient."""

    FILE: ClassVar = "anatomy_preconditioned.csv"
    KEY: ClassVar = (*PLACE, "probe", "index")

    probe: int  # From 0.
    index: int  # From 0, ascending.
    eigenvalue: float  # H of the test subset.
    weight: float  # In the density; a probe's sum to 1.
    residual: float  # An eigenvalue lies within it.
    parameters: int
    edge: float  # (2 + 2β₁)/((1 − β₁)η) at Adam's rate; nan where another optimizer trains.


@dataclasses.dataclass(frozen=True)
class FrequencyPart(Cell):
    """What the targets of one bin of token frequency contribute to slope and sharpness."""

    FILE: ClassVar = "anatomy_frequency.csv"
    KEY: ClassVar = (*PLACE, "algorithm", "part")

    part: int  # From 0, the most frequent tokens.
    ranks: str  # Of its tokens in the training text, from 1: "2–10".
    tokens: float  # Share of the training text's tokens.
    slope: float  # gₚᵀv, nats per unit of distance; the parts sum to gᵀv.
    slope_se: float  # Over micro-batches of the test subset.
    sharpness: float  # vᵀHₚv, nats per squared unit of distance; the parts sum to vᵀHv.
    sharpness_se: float


@dataclasses.dataclass(frozen=True)
class Noise(Place):
    """The noise of the test subset's gradient, Σ the covariance of one example's."""

    FILE: ClassVar = "anatomy_noise.csv"
    KEY: ClassVar = PLACE

    trace: float  # trΣ, nats² per squared unit of distance.
    trace_se: float  # Jackknife over micro-batches, as the others.
    squared_norm: float  # ‖G‖², unbiased; negative where noise drowns it.
    squared_norm_se: float
    noise_scale: float  # trΣ/‖G‖², examples; nan where ‖G‖² is not positive.
    noise_scale_se: float


@dataclasses.dataclass(frozen=True)
class Signal(Cell):
    """How far one direction's slope stands above the noise of one example's."""

    FILE: ClassVar = "anatomy_signal.csv"
    KEY: ClassVar = (*PLACE, "algorithm")

    signal_to_noise: float  # Gᵀu/√(uᵀΣu); negative is downhill.
    signal_to_noise_se: float  # Jackknife over micro-batches.


@dataclasses.dataclass(frozen=True)
class Diagonal(Place):
    """One element of the Hessian's diagonal, exact, and the gradients there."""

    FILE: ClassVar = "anatomy_exact_diagonal.csv"
    KEY: ClassVar = (*PLACE, "tensor", "coordinate")

    tensor: str  # Its path.
    coordinate: int  # In the flattened tensor.
    stratum: int  # Of the batch's |gradient|, from 0, the largest.
    weight: float  # How many coordinates it stands for.
    gradient: float  # Of the training batch.
    test_gradient: float  # Of the loss whose Hessian it is.
    diagonal: float  # Hᵢᵢ.
    diagonal_se: float  # Over micro-batches of the test subset.


@dataclasses.dataclass(frozen=True)
class ExactCorrelation(Place):
    """Spearman's correlation of |gᵢ| with |Hᵢᵢ| over all coordinates, without probes."""

    FILE: ClassVar = "anatomy_exact_correlation.csv"
    KEY: ClassVar = (*PLACE, "gradient")

    gradient: str  # "batch": the training batch's; "test": of the loss whose Hessian it is.
    correlation: float
    low: float  # 95 % confidence interval, for the choice of coordinates.
    high: float
    coordinates: int


@dataclasses.dataclass(frozen=True)
class Eigenvector(Place):
    """One of the Hessian's top eigenvectors, as Lanczos has it."""

    FILE: ClassVar = "anatomy_eigenvectors.csv"
    KEY: ClassVar = (*PLACE, "index")

    index: int  # From 0, the largest eigenvalue's.
    eigenvalue: float
    residual: float  # ‖Hx − θx‖.


@dataclasses.dataclass(frozen=True)
class Cosine(Cell):
    """The share of one update in one eigenvector."""

    FILE: ClassVar = "anatomy_cosines.csv"
    KEY: ClassVar = (*PLACE, "algorithm", "index")

    index: int  # Of the eigenvector.
    squared_cosine: float  # (xᵀu)²/‖u‖².


@dataclasses.dataclass(frozen=True)
class Dominant(Cell):
    """One direction with its part in the dominant subspace and without it, each at unit length."""

    FILE: ClassVar = "anatomy_dominant.csv"
    KEY: ClassVar = (*PLACE, "algorithm")

    eigenvectors: int  # That span the subspace.
    share: float  # Of ‖u‖² in it.
    sharpness: float
    sharpness_se: float  # Over micro-batches of the test subset.
    best_decrease: float  # Of the test loss along it.
    sharpness_without: float
    sharpness_without_se: float
    best_decrease_without: float


@dataclasses.dataclass(frozen=True)
class BlockRitz(Place):
    """One Ritz value of a diagonal block of the Hessian."""

    FILE: ClassVar = "anatomy_block_spectra.csv"
    KEY: ClassVar = (*PLACE, "layer", "kind", "probe", "index")

    layer: str  # "embeddings", "encoder 1", …
    kind: str  # "embedding", "q", …; see KINDS.
    probe: int  # From 0.
    index: int  # From 0, ascending.
    eigenvalue: float
    weight: float  # In the block's density; a probe's sum to 1.
    residual: float
    parameters: int  # Of the block.


@dataclasses.dataclass(frozen=True)
class BlockDistance(Place):
    """The Jensen-Shannon distance of two blocks' densities, 0 to 0.83."""

    FILE: ClassVar = "anatomy_block_distances.csv"
    KEY: ClassVar = (*PLACE, "layer", "kind", "other_layer", "other_kind")

    layer: str
    kind: str
    other_layer: str
    other_kind: str
    distance: float


@dataclasses.dataclass(frozen=True)
class BlockSummary(Place):
    """The mean distance over all pairs of two blocks."""

    FILE: ClassVar = "anatomy_block_summary.csv"
    KEY: ClassVar = PLACE

    blocks: int
    distance: float
    distance_se: float  # Jackknife over starts; nan with one.


TABLES = (
    *(Preconditioned, FrequencyPart, Noise, Signal, Diagonal, ExactCorrelation, Eigenvector),
    *(Cosine, Dominant, BlockRitz, BlockDistance, BlockSummary),
)
