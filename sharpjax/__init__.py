"""Directional sharpness of optimizers, and coordinate-wise clipping to flatten it.

`sharpjax.models` (Flax T5, RoBERTa and GPT-2) needs the extra `sharpjax[models]` and is imported apart.
"""

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
from sharpjax.landscape import LineSearch, loss_along, search_along
from sharpjax.monitor import (
    SharpnessMonitor,
    sharpness_monitor,
    tensorboard_logger,
    wandb_logger,
)
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

__version__ = "0.1.0"

__all__ = [
    "DirectionStats",
    "DirectionalTaylor",
    "FactoredRmsState",
    "LineSearch",
    "SharpnessMonitor",
    "adafactor",
    "adam",
    "clip_top_fraction",
    "coord_clip",
    "coordinate_sharpness",
    "directional_sharpness",
    "directional_taylor",
    "hvp",
    "loss_along",
    "measure_directions",
    "normalize_by_tensor_rms",
    "normalized_sgd",
    "paper_algorithms",
    "pseudo_updates",
    "scale_by_clipped_adam",
    "scale_by_clipped_factored_rms",
    "search_along",
    "sgd",
    "sharpness_monitor",
    "tensorboard_logger",
    "top_fraction_threshold",
    "wandb_logger",
]
