"""Directional sharpness of optimizers, and coordinate-wise clipping to flatten it.

What is here needs jax and optax alone. `sharpjax.models` (Flax T5, RoBERTa and GPT-2),
`sharpjax.plot` and `sharpjax.report` need the extra of their name and are imported apart;
statistics, loggers and what optimizers are made of are in modules of their own.
"""

from sharpjax.anatomy import BlockSharpness, SharpnessByRank, block_sharpness, sharpness_by_rank
from sharpjax.block_spectra import BlockSpectra, block_spectra
from sharpjax.clip_curve import ClipPoint, clip_curve
from sharpjax.clipping import clip_top_fraction, coord_clip, top_fraction_threshold
from sharpjax.compare import Comparison, compare
from sharpjax.curvature import (
    DirectionalTaylor,
    coordinate_sharpness,
    directional_sharpness,
    directional_taylor,
    hvp,
)
from sharpjax.descent import gradient_descent, nesterov
from sharpjax.diagonal import HessianDiagonal, hessian_diagonal
from sharpjax.directions import DirectionStats, measure_directions, measure_updates
from sharpjax.dominant import dominant_share, without_dominant
from sharpjax.exact_diagonal import ExactDiagonal, exact_diagonal
from sharpjax.gauss_newton import GaussNewton, gauss_newton_sharpness
from sharpjax.landscape import LineSearch, loss_along, search_along
from sharpjax.magnitudes import magnitude_histogram, top_overlap, top_share
from sharpjax.monitor import SharpnessMonitor, sharpness_monitor
from sharpjax.named import named
from sharpjax.noise import GradientNoise, gradient_noise
from sharpjax.objective import hessian_operator
from sharpjax.optimizers import adafactor, adam, normalized_sgd, paper_algorithms, sgd
from sharpjax.parts import PartStats, measure_parts
from sharpjax.plane import LossPlane, loss_plane
from sharpjax.point import Point, measure_point
from sharpjax.precision import Precision, measure_precision
from sharpjax.preconditioner import preconditioner
from sharpjax.pseudo import pseudo_updates
from sharpjax.signed import lion, sign_momentum
from sharpjax.spectrum import Spectrum, adaptive_edge, lanczos_spectrum
from sharpjax.subspace import SpanModel, SpanStep, combine_directions, measure_span, span_step

__version__ = "0.2.0"

__all__ = [
    "BlockSharpness",
    "BlockSpectra",
    "ClipPoint",
    "Comparison",
    "DirectionStats",
    "DirectionalTaylor",
    "ExactDiagonal",
    "GaussNewton",
    "GradientNoise",
    "HessianDiagonal",
    "LineSearch",
    "LossPlane",
    "PartStats",
    "Point",
    "Precision",
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
    "compare",
    "coord_clip",
    "coordinate_sharpness",
    "directional_sharpness",
    "directional_taylor",
    "dominant_share",
    "exact_diagonal",
    "gauss_newton_sharpness",
    "gradient_descent",
    "gradient_noise",
    "hessian_diagonal",
    "hessian_operator",
    "hvp",
    "lanczos_spectrum",
    "lion",
    "loss_along",
    "loss_plane",
    "magnitude_histogram",
    "measure_directions",
    "measure_parts",
    "measure_point",
    "measure_precision",
    "measure_span",
    "measure_updates",
    "named",
    "nesterov",
    "normalized_sgd",
    "paper_algorithms",
    "preconditioner",
    "pseudo_updates",
    "search_along",
    "sgd",
    "sharpness_by_rank",
    "sharpness_monitor",
    "sign_momentum",
    "span_step",
    "top_fraction_threshold",
    "top_overlap",
    "top_share",
    "without_dominant",
]
