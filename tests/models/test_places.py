"""Every tensor of every family has a place."""

import jax
import pytest

from sharpjax.models import (
    GPT2,
    T5,
    GPT2Config,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    init_params,
    places,
)
from sharpjax.models.tensor_places import PLACES

T5_TINY = {"vocab_size": 11, "d_model": 4, "d_kv": 2, "d_ff": 6, "num_layers": 1, "num_heads": 2}
MODELS = {
    "t5": T5(T5Config(**T5_TINY)),
    "t5-untied": T5(T5Config(**T5_TINY, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
    "roberta": RobertaForMaskedLM(
        RobertaConfig(11, 4, 1, 2, 6, max_position_embeddings=12, tie_word_embeddings=False)
    ),
    "gpt2": GPT2(GPT2Config(11, 12, 4, 1, 2, tie_word_embeddings=False)),
}


def sizes(model):
    shapes = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    found = dict.fromkeys(PLACES, 0)
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        found[places(jax.tree_util.keystr(path, simple=True, separator="/"))] += leaf.size
    return {place: size for place, size in found.items() if size}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Counted by hand: vocabulary 11, width 4, inner width 4, feed-forward width 6, one layer.
        (
            "t5",
            {
                "embedding": 11 * 4,
                "relative positions": 2 * 32 * 2,
                "attention": 3 * 4 * 4 * 4,
                "feed-forward": 2 * 2 * 4 * 6,
                "norms": (3 + 4) * 4,
            },
        ),
        (
            "t5-untied",
            {
                "embedding": 11 * 4,
                "relative positions": 2 * 32 * 2,
                "attention": 3 * 4 * 4 * 4,
                "feed-forward": 2 * 3 * 4 * 6,
                "norms": (3 + 4) * 4,
                "head": 4 * 11,
            },
        ),
        (
            "roberta",
            {
                "embedding": (11 + 1) * 4,
                "positions": 12 * 4,
                "attention": 4 * (4 * 4 + 4),
                "feed-forward": 2 * 4 * 6 + 6 + 4,
                "norms": 4 * 2 * 4,
                "head": 4 * 4 + 4 + 4 * 11 + 11,
            },
        ),
        (
            "gpt2",
            {
                "embedding": 11 * 4,
                "positions": 12 * 4,
                "attention": 4 * (4 * 4 + 4),
                "feed-forward": 2 * 4 * 16 + 16 + 4,
                "norms": 3 * 2 * 4,
                "head": 4 * 11,
            },
        ),
    ],
)
def test_every_tensor_has_its_place(name, expected):
    assert sizes(MODELS[name]) == expected


def test_a_strangers_tensor_is_other():
    assert places("tower/dense/kernel") == "other"
