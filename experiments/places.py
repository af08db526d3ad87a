"""Where a tensor of our models stands: its layer and what kind it is, read off its path."""

import re

KINDS = (
    *("embedding", "position", "q", "k", "v", "o", "cross q", "cross k", "cross v", "cross o"),
    *("feed-forward", "norm", "output", "other"),
)
FAMILIES = ("embedding", "position", "attention", "feed-forward", "norm", "output", "other")


def place_of(path: str) -> tuple[str, str]:
    """(layer, kind) of a tensor of our models, from its path."""
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
