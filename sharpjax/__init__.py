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
from sharpjax.block_spectra import BlockSpectra, block_spectra
from sharpjax.clip_curve import ClipPoint, clip_curve
from sharpjax.clipping import clip_top_fraction, coord_clip, top_fraction_threshold
from sharpjax.curvature import (
    DirectionalTaylor,
    coordinate_sharpness,
    directional_sharpness,
    directional_taylor,
    hvp,
)
from sharpjax.diagonal import (
    HessianDiagonal,
    RankCorrelation,
    hessian_diagonal,
    rank_correlation,
    sample_coordinates,
    take_coordinates,
)
from sharpjax.directions import DirectionStats, measure_directions, measure_updates
from sharpjax.dominant import dominant_share, without_dominant
from sharpjax.gauss_newton import GaussNewton, example_targets, gauss_newton_sharpness
from sharpjax.landscape import LineSearch, loss_along, search_along
from sharpjax.monitor import (
    SharpnessMonitor,
    sharpness_monitor,
    tensorboard_logger,
    wandb_logger,
)
from sharpjax.noise import GradientNoise, gradient_noise
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
from sharpjax.parts import PartStats, measure_parts
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
    "BlockSpectra",
    "ClipPoint",
    "DirectionStats",
    "DirectionalTaylor",
    "FactoredRmsState",
    "GaussNewton",
    "GradientNoise",
    "HessianDiagonal",
    "LineSearch",
    "PartStats",
    "RankCorrelation",
    "SharpnessByRank",
    "SharpnessMonitor",
    "SpanModel",
    "SpanStep",
    "Spectrum",
    "adafactor",
    "adam",
    "adaptive_edge",
    "block_sharpness",
    "block_spectra",
    "clip_curve",
    "clip_top_fraction",
    "combine_directions",
    "coord_clip",
    "coordinate_sharpness",
    "directional_sharpness",
    "directional_taylor",
    "dominant_share",
    "example_targets",
    "gauss_newton_sharpness",
    "gradient_noise",
    "hessian_diagonal",
    "hessian_operator",
    "hvp",
    "lanczos_spectrum",
    "loss_along",
    "measure_directions",
    "measure_parts",
    "measure_span",
    "measure_updates",
    "normalize_by_tensor_rms",
    "normalized_sgd",
    "paper_algorithms",
    "pseudo_updates",
    "rank_correlation",
    "sample_coordinates",
    "scale_by_clipped_adam",
    "scale_by_clipped_factored_rms",
    "search_along",
    "sgd",
    "sharpness_by_rank",
    "sharpness_monitor",
    "span_step",
    "spectral_density",
    "take_coordinates",
    "tensorboard_logger",
    "top_fraction_threshold",
    "wandb_logger",
    "without_dominant",
]
