"""Language models in Flax, equal to Hugging Face's, as pure functions of their parameters."""

from sharpjax.models.losses import init_params, make_logits, make_loss
from sharpjax.models.roberta import RobertaConfig, RobertaForMaskedLM
from sharpjax.models.t5 import T5, T5Config

__all__ = [
    "T5",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "T5Config",
    "init_params",
    "make_logits",
    "make_loss",
]
