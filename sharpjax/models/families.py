"""How each architecture is stored on the Hugging Face hub.

A family is a table of rewriting rules from our parameter paths to the reference's tensor names;
kernels are the transposes of its weights, or in some families equal, and may be parts of one
tensor there.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sharpjax.models.gpt2 import GPT2, GPT2Config
from sharpjax.models.roberta import RobertaConfig, RobertaForMaskedLM
from sharpjax.models.t5 import T5, T5Config


class Family(NamedTuple):
    """How one architecture is stored on the hub."""

    model: Any  # The module's class, called with a configuration.
    config: Any  # The configuration's class.
    architectures: Mapping[str, str]  # model_type -> what config.json calls the reference's class.
    absent: Mapping[str, Mapping[str, Any]]  # model_type -> what an entry that config.json lacks
    # means, if not our default.
    constants: Mapping[str, Any]  # Entries of config.json that must have this value, or be absent.
    rules: tuple[tuple[str, str], ...]  # Our path to the reference's name, applied in order.
    duplicates: Mapping[str, str]  # Names under which files repeat a tied tensor.
    head: str  # The duplicate that is a tensor of its own where the head is untied.
    harmless: str  # Names that files hold and the model does not need.
    transposed: bool = True  # Whether files hold kernels as [outputs, inputs], as they do heads.
    fused: tuple[str, tuple[str, ...]] | None = None  # A module that is ours side by side.
    prefix: str = ""  # What names may lack, in files of the model without its head.
    read_if_untied: tuple[str, ...] = ()  # Duplicates that then are what the reference reads.


_ROBERTA_DEFAULTS = {
    "num_hidden_layers": 12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}

FAMILIES = (
    Family(
        T5,
        T5Config,
        {"t5": "T5ForConditionalGeneration", "mt5": "MT5ForConditionalGeneration"},
        {
            "mt5": {
                "vocab_size": 250112,
                "d_ff": 1024,
                "num_layers": 8,
                "num_heads": 6,
                "feed_forward_proj": "gated-gelu",
            }
        },
        {"is_encoder_decoder": True},
        (
            (r"relative_attention_bias", "block_0/attention/relative_attention_bias"),
            (r"block_(\d+)/", r"block/\1/layer/"),
            (r"/cross_attention_norm/", "/1/layer_norm/"),
            (r"/cross_attention/", "/1/EncDecAttention/"),
            (r"/attention_norm/", "/0/layer_norm/"),
            (r"/attention/", "/0/SelfAttention/"),
            (r"(encoder.*)/feed_forward", r"\1/1/feed_forward"),
            (r"(decoder.*)/feed_forward", r"\1/2/feed_forward"),
            (r"/feed_forward_norm/", "/layer_norm/"),
            (r"/feed_forward/", "/DenseReluDense/"),
            (r"final_norm", "final_layer_norm"),
        ),
        {
            "encoder.embed_tokens.weight": "shared.weight",
            "decoder.embed_tokens.weight": "shared.weight",
            "lm_head.weight": "shared.weight",
        },
        "lm_head.weight",
        # Original T5 files give the decoder's cross-attention a table that no code reads.
        r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    ),
    Family(
        RobertaForMaskedLM,
        RobertaConfig,
        {
            "roberta": "RobertaForMaskedLM",
            "xlm-roberta": "XLMRobertaForMaskedLM",
            "camembert": "CamembertForMaskedLM",
        },
        {
            "roberta": _ROBERTA_DEFAULTS,
            "xlm-roberta": {**_ROBERTA_DEFAULTS, "vocab_size": 30522},
            "camembert": {**_ROBERTA_DEFAULTS, "vocab_size": 30522},
        },
        {
            "position_embedding_type": "absolute",
            "is_decoder": False,
            "add_cross_attention": False,
        },
        (
            (r"^(embeddings|encoder)", r"roberta/\1"),
            (r"(word|position|token_type)/embedding$", r"\1_embeddings/embedding"),
            (r"^roberta/embeddings/norm/", "roberta/embeddings/LayerNorm/"),
            (r"block_(\d+)/", r"layer/\1/"),
            (r"/attention_norm/", "/attention/output/LayerNorm/"),
            (r"/attention/q/", "/attention/self/query/"),
            (r"/attention/k/", "/attention/self/key/"),
            (r"/attention/v/", "/attention/self/value/"),
            (r"/attention/o/", "/attention/output/dense/"),
            (r"/feed_forward_norm/", "/output/LayerNorm/"),
            (r"/feed_forward/wi/", "/intermediate/dense/"),
            (r"/feed_forward/wo/", "/output/dense/"),
            (r"^lm_head/norm/", "lm_head/layer_norm/"),
        ),
        {
            "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        "lm_head.decoder.weight",
        r"roberta\.pooler\..*|roberta\.embeddings\.(position_ids|token_type_ids)",
        read_if_untied=("lm_head.decoder.bias",),
    ),
    Family(
        GPT2,
        GPT2Config,
        {"gpt2": "GPT2LMHeadModel"},
        {},
        {"add_cross_attention": False},
        (
            (r"^embeddings/word/", "transformer/wte/"),
            (r"^embeddings/position/", "transformer/wpe/"),
            (r"^decoder/final_norm/", "transformer/ln_f/"),
            (r"^decoder/block_(\d+)/", r"transformer/h/\1/"),
            (r"/attention_norm/", "/ln_1/"),
            (r"/attention/o/", "/attn/c_proj/"),
            (r"/attention/", "/attn/c_attn/"),
            (r"/feed_forward_norm/", "/ln_2/"),
            (r"/feed_forward/wi/", "/mlp/c_fc/"),
            (r"/feed_forward/wo/", "/mlp/c_proj/"),
        ),
        {"lm_head.weight": "transformer.wte.weight"},
        "lm_head.weight",
        # Files of old versions hold the causal mask and the score of what it hides.
        r"transformer\.h\.\d+\.attn\.(bias|masked_bias)",
        transposed=False,
        fused=("c_attn", ("q", "k", "v")),
        prefix="transformer.",
    ),
)
