"""Language models in Flax, equal to Hugging Face's, as pure functions of their parameters."""

from sharpjax.models.checkpoint import load_pretrained, save_pretrained
from sharpjax.models.decoding import greedy_decode
from sharpjax.models.gpt2 import GPT2, GPT2Config, next_token_labels
from sharpjax.models.losses import init_params, make_logits, make_loss
from sharpjax.models.roberta import RobertaConfig, RobertaForMaskedLM
from sharpjax.models.t5 import T5, T5Config

__all__ = [
    "GPT2",
    "T5",
    "GPT2Config",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "T5Config",
    "greedy_decode",
    "init_params",
    "load_pretrained",
    "make_logits",
    "make_loss",
    "next_token_labels",
    "save_pretrained",
]
