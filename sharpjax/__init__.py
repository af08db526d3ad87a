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
    coordinate_sharpness,
    directional_sharpness,
    directional_taylor,
    hvp,
)
from sharpjax.diagonal import HessianDiagonal, hessian_diagonal
from sharpjax.directions import DirectionStats, measure_directions, measure_updates
from sharpjax.exact_diagonal import ExactDiagonal, exact_diagonal
from sharpjax.gauss_newton import GaussNewton, gauss_newton_sharpness
from sharpjax.landscape import LineSearch, loss_along, search_along
from sharpjax.monitor import (
    SharpnessMonitor,
    sharpness_monitor,
    tensorboard_logger,
    wandb_logger,
)
from sharpjax.objective import hessian_operator
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
from sharpjax.pseudo import pseudo_updates
from sharpjax.spectrum import Spectrum, adaptive_edge, lanczos_spectrum, spectral_density
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
    "ExactDiagonal",
    "FactoredRmsState",
    "GaussNewton",
    "HessianDiagonal",
    "LineSearch",
    "SharpnessByRank",
    "SharpnessMonitor",
    "SpanModel",
    "SpanStep",
    "Spectrum",
    "adafactor",
    "adam",
    "adaptive_edge",
    "block_sharpness",
    "clip_curve",
    "clip_top_fraction",
    "combine_directions",
    "coord_clip",
    "coordinate_sharpness",
    "directional_sharpness",
    "directional_taylor",
    "exact_diagonal",
    "gauss_newton_sharpness",
    "hessian_diagonal",
    "hessian_operator",
    "hvp",
    "lanczos_spectrum",
    "loss_along",
    "measure_directions",
    "measure_span",
    "measure_updates",
    "normalize_by_tensor_rms",
    "normalized_sgd",
    "paper_algorithms",
    "pseudo_updates",
    "scale_by_clipped_adam",
    "scale_by_clipped_factored_rms",
    "search_along",
    "sgd",
    "sharpness_by_rank",
    "sharpness_monitor",
    "span_step",
    "spectral_density",
    "tensorboard_logger",
    "top_fraction_threshold",
    "wandb_logger",
]
