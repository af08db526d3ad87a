"""Where a tensor of our models stands: its layer and what kind it is, read off its path."""

import re

KINDS = (
    *("embedding", "position", "q", "k", "v", "o", "cross q", "cross k", "cross v", "cross o"),
    *("feed-forward", "norm", "output", "other"),
)
FAMILIES = ("embedding", "position", "attention", "feed-forward", "norm", "output", "other")
PLACES = (
    *("embedding", "positions", "relative positions", "attention", "feed-forward", "norms"),
    *("head", "other"),
)


def places(path: str) -> str:
    """The part of a transformer that a tensor belongs to: ready groups for `block_sharpness`.

    Args:
        path: The tensor's keys in the parameters of a `T5`, `RobertaForMaskedLM` or `GPT2`, joined
            by "/".

    Returns:
        One of `PLACES`: "embedding" (of tokens and segments; with a tied head, also that),
        "positions" (absolute), "relative positions", "attention" (q, k, v and o, also across),
        "feed-forward", "norms", "head", and "other" for what none of the models has.

    >>> places("encoder/block_0/attention/q/kernel"), places("encoder/final_norm/scale")
    ('attention', 'norms')
    >>> places("decoder/relative_attention_bias/embedding"), places("shared/embedding")
    ('relative positions', 'embedding')
    """
    family = family_of(place_of(path)[1])
    if family == "position":
        return "relative positions" if "relative" in path else "positions"
    return {"norm": "norms", "output": "head"}.get(family, family)


def place_of(path: str) -> tuple[str, str]:
    """(layer, kind) of a tensor of our models, from its path; the kind is one of KINDS."""
    block = re.match(r"(\w+?)/(?:block|layer|h)_(\d+)/(.*)", path)
    if block:
        layer, rest = f"{block[1]} {int(block[2]) + 1}", block[3]
    else:
        first, _, rest = path.partition("/")
        layer = {"shared": "embeddings", "lm_head": "head"}.get(first, first)
        if layer == "head":
            return layer, "norm" if rest.startswith("norm") else "output"
    if "norm" in rest:
        return layer, "norm"
    attention = re.match(r"(cross_)?(?:self_)?attention/([qkvo])\b", rest)
    if attention:
        return layer, ("cross " if attention[1] else "") + attention[2]
    if "feed_forward" in rest:
        return layer, "feed-forward"
    if "position" in rest or "relative" in rest:
        return layer, "position"
    return layer, "embedding" if "embedding" in path else "other"


def family_of(kind: str) -> str:
    """One of FAMILIES: all projections of attention are one."""
    return "attention" if kind.split()[-1] in ("q", "k", "v", "o") else kind
