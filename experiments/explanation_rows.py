"""The tables of what later work explains Adam's lead by, measured at an anatomy's point."""

from experiments.rows import AtPoint, AtUpdate, RitzValue


class Preconditioned(RitzValue, file="anatomy_preconditioned"):
    """One Ritz value of P^(−½)HP^(−½), P = √v̂ + ε of Adam once it has seen the batch's gradient."""

    edge: float  # (2 + 2β₁)/((1 − β₁)η) at Adam's rate; nan where another optimizer trains.


class FrequencyPart(AtUpdate, key=("part",), file="anatomy_frequency"):
    """What the targets of one bin of token frequency contribute to slope and sharpness."""

    part: int  # From 0, the most frequent tokens.
    ranks: str  # Of its tokens in the training text, from 1: "2–10".
    tokens: float  # Share of the training text's tokens.
    slope: float  # gₚᵀv, nats per unit of distance; the parts sum to gᵀv.
    slope_se: float  # Over micro-batches of the test subset.
    sharpness: float  # vᵀHₚv, nats per squared unit of distance; the parts sum to vᵀHv.
    sharpness_se: float


class Noise(AtPoint, file="anatomy_noise"):
    """The noise of the test subset's gradient, Σ the covariance of one example's."""

    trace: float  # trΣ, nats² per squared unit of distance.
    trace_se: float  # Jackknife over micro-batches, as the others.
    squared_norm: float  # ‖G‖², unbiased; negative where noise drowns it.
    squared_norm_se: float
    noise_scale: float  # trΣ/‖G‖², examples; nan where ‖G‖² is not positive.
    noise_scale_se: float


class Signal(AtUpdate, file="anatomy_signal"):
    """How far one direction's slope stands above the noise of one example's."""

    signal_to_noise: float  # Gᵀu/√(uᵀΣu); negative is downhill.
    signal_to_noise_se: float  # Jackknife over micro-batches.


class Diagonal(AtPoint, key=("tensor", "coordinate"), file="anatomy_exact_diagonal"):
    """One element of the Hessian's diagonal, exact, and the gradients there."""

    tensor: str  # Its path.
    coordinate: int  # In the flattened tensor.
    stratum: int  # Of the batch's |gradient|, from 0, the largest.
    weight: float  # How many coordinates it stands for.
    gradient: float  # Of the training batch.
    test_gradient: float  # Of the loss whose Hessian it is.
    diagonal: float  # Hᵢᵢ.
    diagonal_se: float  # Over micro-batches of the test subset.


class ExactCorrelation(AtPoint, key=("gradient",), file="anatomy_exact_correlation"):
    """Spearman's correlation of |gᵢ| with |Hᵢᵢ| over all coordinates, without probes."""

    gradient: str  # "batch": the training batch's; "test": of the loss whose Hessian it is.
    correlation: float
    low: float  # 95 % confidence interval, for the choice of coordinates.
    high: float
    coordinates: int


class Eigenvector(AtPoint, key=("index",), file="anatomy_eigenvectors"):
    """One of the Hessian's top eigenvectors, as Lanczos has it."""

    index: int  # From 0, the largest eigenvalue's.
    eigenvalue: float
    residual: float  # ‖Hx − θx‖.


class Cosine(AtUpdate, key=("index",), file="anatomy_cosines"):
    """The share of one update in one eigenvector."""

    index: int  # Of the eigenvector.
    squared_cosine: float  # (xᵀu)²/‖u‖².


class Dominant(AtUpdate, file="anatomy_dominant"):
    """One direction with its part in the dominant subspace and without it, each at unit length."""

    eigenvectors: int  # That span the subspace.
    share: float  # Of ‖u‖² in it.
    sharpness: float
    sharpness_se: float  # Over micro-batches of the test subset.
    best_decrease: float  # Of the test loss along it.
    sharpness_without: float
    sharpness_without_se: float
    best_decrease_without: float


class BlockRitz(AtPoint, key=("layer", "kind", "probe", "index"), file="anatomy_block_spectra"):
    """One Ritz value of a diagonal block of the Hessian."""

    layer: str  # "embeddings", "encoder 1", …
    kind: str  # "embedding", "q", …; see KINDS.
    probe: int  # From 0.
    index: int  # From 0, ascending.
    eigenvalue: float
    weight: float  # In the block's density; a probe's sum to 1.
    residual: float
    parameters: int  # Of the block.


class BlockDistance(
    AtPoint, key=("layer", "kind", "other_layer", "other_kind"), file="anatomy_block_distances"
):
    """The Jensen-Shannon distance of two blocks' densities, 0 to 0.83."""

    layer: str
    kind: str
    other_layer: str
    other_kind: str
    distance: float


class BlockSummary(AtPoint, file="anatomy_block_summary"):
    """The mean distance over all pairs of two blocks."""

    blocks: int
    distance: float
    distance_se: float  # Jackknife over starts; nan with one.


class PaddingGroup(AtUpdate, key=("group", "other"), file="anatomy_padding"):
    """vᵢᵀHᵢⱼvⱼ of two groups of coordinates, the padding's row of the embedding one of them."""

    group: str  # "padding’s row", "other rows", "relative positions", …
    other: str
    sharpness: float  # All pairs sum to vᵀHv.
    sharpness_se: float  # Over micro-batches of the test subset.
    squared_norm: float  # ‖vᵢ‖², of 1.
    coordinates: int  # Of the group.
    clipped: float  # Share of them whose training gradient the clip fraction saturates.


class PaddingPart(AtUpdate, key=("part",), file="anatomy_padding_parts"):
    """What the targets that are text, or padding, contribute along one direction."""

    part: str  # "text" or "padding".
    targets: float  # Share of the test subset's loss weights.
    slope: float  # gₚᵀv, nats per unit of distance; the parts sum to gᵀv.
    slope_se: float  # Over micro-batches of the test subset.
    sharpness: float  # vᵀHₚv, nats per squared unit of distance; the parts sum to vᵀHv.
    sharpness_se: float


TABLES = (
    *(Preconditioned, FrequencyPart, Noise, Signal, Diagonal, ExactCorrelation, Eigenvector),
    *(Cosine, Dominant, BlockRitz, BlockDistance, BlockSummary, PaddingGroup, PaddingPart),
)
