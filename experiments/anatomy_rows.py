"""The tables of an anatomy: what the curvature at one point is made of."""

from experiments import explanation_rows
from experiments.rows import AtPoint, AtUpdate, RitzValue


class Lorenz(AtUpdate, key=("fraction",), file="anatomy_lorenz"):
    """What the top coordinates by |training gradient| hold of one direction's sharpness."""

    fraction: float  # Of all coordinates.
    sharpness: float  # Σ of v ⊙ Hv over them, nats per squared unit of distance.
    sharpness_se: float  # Over micro-batches of the test subset.
    share: float  # sharpness/vᵀHv; contributions may be negative.
    squared_norm: float  # Σ of vᵢ² over them, of 1.


class Block(AtUpdate, key=("layer", "kind", "other_layer", "other_kind"), file="anatomy_blocks"):
    """vᵢᵀHᵢⱼvⱼ of two groups of tensors; all pairs sum to vᵀHv."""

    layer: str  # "embeddings", "encoder 1", …
    kind: str  # "embedding", "q", …; see KINDS.
    other_layer: str
    other_kind: str
    sharpness: float
    sharpness_se: float  # Over micro-batches of the test subset.
    squared_norm: float  # ‖vᵢ‖², of 1.


class Correlation(AtPoint, key=("gradient", "scope"), file="anatomy_correlation"):
    """Spearman's correlation of |gᵢ| with |Hᵢᵢ|; see `sharpjax.statistics.RankCorrelation`."""

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


class Density(AtPoint, key=("gradient", "log_gradient", "log_diagonal"), file="anatomy_density"):
    """Counts of coordinates in bins of log₁₀|gᵢ| and log₁₀|Hᵢᵢ| (as estimated)."""

    gradient: str  # As in Correlation.
    log_gradient: float  # Lower edge of a bin of width BIN; -inf holds exact zeros.
    log_diagonal: float  # Likewise.
    count: int


class SpanPair(AtUpdate, key=("other",), file="anatomy_span"):
    """Two directions: vᵢᵀvⱼ and vᵢᵀHvⱼ."""

    other: str
    cosine: float
    curvature: float
    curvature_se: float  # Over micro-batches of the test subset.


class SpanValue(AtPoint, key=("index",), file="anatomy_span_values"):
    """An eigenvalue of the Hessian within the span of the directions."""

    index: int  # From 0, the largest first.
    eigenvalue: float
    eigenvalue_se: float  # Over micro-batches of the test subset.
    kept: bool  # Whether the span's step goes along it.


class Decrease(AtUpdate, file="anatomy_decrease"):
    """How far down one direction goes, by the quadratic model and in truth."""

    # `algorithm` is one that is measured, or "span" for the best step in their span.
    coefficient: float  # Of its unit direction in the span's step; nan for the span itself.
    model_step: float  # The quadratic model's best distance; nan if it has none.
    predicted_decrease: float  # What the model promises there.
    model_decrease: float  # What the loss does there.
    best_step: float  # The best distance along the direction.
    best_decrease: float  # loss − least loss found along it.


class Parts(AtUpdate, file="anatomy_gauss_newton"):
    """vᵀHv = vᵀGv + residual."""

    sharpness: float
    sharpness_se: float  # Over micro-batches of the test subset, as the two below.
    gauss_newton: float
    gauss_newton_se: float
    residual: float
    residual_se: float


class Ritz(RitzValue, file="anatomy_spectrum"):
    """One Ritz value of one Lanczos run on the Hessian."""


class Clipped(AtPoint, key=("quantity", "scope", "fraction"), file="anatomy_fractions"):
    """A direction with a fraction of its coordinates clipped."""

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
