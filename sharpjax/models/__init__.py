"""Language models in Flax, equal to Hugging Face's, as pure functions of their parameters."""

try:
    import flax  # noqa: F401
    import safetensors  # noqa: F401
except ImportError as error:
    said = f"sharpjax.models needs {error.name}: pip install 'sharpjax[models]'"
    raise ImportError(said, name=error.name) from error

from sharpjax.models.checkpoint import load_config, load_pretrained, save_pretrained
from sharpjax.models.decoding import greedy_decode
from sharpjax.models.frequency import FrequencyBins, frequency_bins, frequency_parts
from sharpjax.models.gpt2 import GPT2, GPT2Config, next_token_labels
from sharpjax.models.losses import init_params, make_logits, make_loss
from sharpjax.models.roberta import RobertaConfig, RobertaForMaskedLM
from sharpjax.models.t5 import T5, T5Config
from sharpjax.models.tensor_places import places

__all__ = [
    "GPT2",
    "T5",
    "FrequencyBins",
    "GPT2Config",
    "RobertaConfig",
    "RobertaForMaskedLM",
    "T5Config",
    "frequency_bins",
    "frequency_parts",
    "greedy_decode",
    "init_params",
    "load_config",
    "load_pretrained",
    "make_logits",
    "make_loss",
    "next_token_labels",
    "places",
    "save_pretrained",
]
