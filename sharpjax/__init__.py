"""Directional sharpness of optimizers, and coordinate-wise clipping to flatten it.

`sharpjax.models` (Flax T5, RoBERTa and GPT-2) needs the extra `sharpjax[models]` and is imported
apart.
"""

from sharpjax.anatomy import (
    BlockSharpness,
    SharpnessByRank,
    block_sharpness,
    sharpness_by_rank,
)
from sharpjax.clip_curve import ClipPoint, clip_curve
from sharpjax.clipping import clip_top_fraction, coord_clip, top_fraction_threshold
from sharpjax.curvature import (
    DirectionalTaylor,
    DirectionStats,
    coordinate_sharpness,
    directional_sharpness,
    directional_taylor,
    hvp,
    measure_directions,
)
from sharpjax.diagonal import (
    HessianDiagonal,
    RankCorrelation,
    hessian_diagonal,
    rank_correlation,
    sample_coordinates,
    take_coordinates,
)
from sharpjax.gauss_newton import GaussNewton, example_targets, gauss_newton_sharpness
from sharpjax.landscape import LineSearch, loss_along, search_along
from sharpjax.monitor import (
    SharpnessMonitor,
    sharpness_monitor,
    tensorboard_logger,
    wandb_logger,
)
from sharpjax.named import named
from sharpjax.optimizers import (
    FactoredRmsState,
    adafactor,
    adam,
    normalize_by_tensor_rms,
    normalized_sgd,
    paper_algorithms,
    scale_by_clipped_adam,
    scale_by_clipped_factored_rms,
    sgd,
)
from sharpjax.preconditioner import preconditioner
from sharpjax.pseudo import pseudo_updates
from sharpjax.signed import lion, saturate_top_fraction, sign_momentum
from sharpjax.spectrum import Spectrum, lanczos_spectrum, spectral_density
from sharpjax.subspace import (
    SpanModel,
    SpanStep,
    combine_directions,
    measure_span,
    span_step,
)

__version__ = "0.1.0"

__all__ = [
    "BlockSharpness",
    "ClipPoint",
    "DirectionStats",
    "DirectionalTaylor",
    "FactoredRmsState",
    "GaussNewton",
    "HessianDiagonal",
    "LineSearch",
    "RankCorrelation",
    "SharpnessByRank",
    "SharpnessMonitor",
    "SpanModel",
    "SpanStep",
    "Spectrum",
    "adafactor",
    "adam",
    "block_sharpness",
    "clip_curve",
    "clip_top_fraction",
    "combine_directions",
    "coord_clip",
    "coordinate_sharpness",
    "directional_sharpness",
    "directional_taylor",
    "example_targets",
    "gauss_newton_sharpness",
    "hessian_diagonal",
    "hvp",
    "lanczos_spectrum",
    "lion",
    "loss_along",
    "measure_directions",
    "measure_span",
    "named",
    "normalize_by_tensor_rms",
    "normalized_sgd",
    "paper_algorithms",
    "preconditioner",
    "pseudo_updates",
    "rank_correlation",
    "sample_coordinates",
    "saturate_top_fraction",
    "scale_by_clipped_adam",
    "scale_by_clipped_factored_rms",
    "search_along",
    "sgd",
    "sharpness_by_rank",
    "sharpness_monitor",
    "sign_momentum",
    "span_step",
    "spectral_density",
    "take_coordinates",
    "tensorboard_logger",
    "top_fraction_threshold",
    "wandb_logger",
]
