"""A language model's loss, split by how frequent the target token is in the training text.

Kunstner et al. (2024), "Heavy-Tailed Class Imbalance and Why Adam Outperforms Gradient Descent on
Language Models", https://arxiv.org/abs/2402.19449: there the loss of rare tokens is what gradient
descent leaves behind.
"""

import dataclasses
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sharpjax.models.losses import Batch, check_options, example_weights, weighted_loss


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FrequencyBins:
    """A vocabulary of V tokens in P bins, the most frequent tokens in the first. NumPy arrays."""

    of_token: np.ndarray
    """int32 `[V]`: the bin of each token."""
    edges: np.ndarray
    """int64 `[P + 1]`: bin p holds ranks edges[p] to edges[p + 1] − 1; 0 is the most frequent."""
    shares: np.ndarray
    """float64 `[P]`: each bin's share of the training text's tokens; they sum to 1."""
    lowest: np.ndarray
    """float64 `[P]`: the count of each bin's least frequent token."""

    @property
    def labels(self) -> tuple[str, ...]:
        """A label for each bin, by its ranks from 1: "1", "2–10", "11–61"."""
        spans = zip(self.edges[:-1] + 1, self.edges[1:], strict=True)
        return tuple(f"{a:,}" if a == b else f"{a:,}–{b:,}" for a, b in spans)


def frequency_bins(counts: Any, bins: int | Sequence[int]) -> FrequencyBins:
    """Tokens in bins by their rank in the training text, the most frequent first.

    Ranks order the tokens by falling count; of equally frequent ones, the smaller comes first.
    With an integer P, the bins have equal mass as nearly as whole tokens allow: each ends with the
    first token by which it holds at least an equal part of what the bins before have left. Tokens
    that never occur are the last ranks, in the last bin.

    Args:
        counts: `[V]`, how often each token occurs in the training text, e.g.
            `np.bincount(ids, minlength=V)`.
        bins: How many bins; or the ranks, rising, at which a new bin begins: `(10, 100)` makes
            three, of the 10 most frequent tokens, the next 90, and all others.

    Raises:
        ValueError: If counts are not a vector, negative, not finite or all zero; if there are fewer
            occurring tokens than bins; if ranks do not rise or are not within 1 and V − 1.

    >>> bins = frequency_bins([5, 40, 25, 20, 10, 0], 3)
    >>> bins.labels, bins.of_token.tolist(), bins.shares.tolist()
    (('1', '2–3', '4–6'), [2, 0, 1, 1, 2, 2], [0.4, 0.45, 0.15])
    """
    counts = np.asarray(counts)
    if counts.ndim != 1 or counts.dtype.kind not in "iuf":
        raise ValueError(f"counts must be a vector of numbers, not {counts.dtype} {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any() or not counts.any():
        raise ValueError("counts must be finite and not negative, and one of them positive")
    counts = counts.astype(np.float64)  # Exact up to 2⁵³ tokens.
    order = np.argsort(-counts, kind="stable")
    mass = np.cumsum(counts[order])
    try:
        inner = _equal_mass(mass, int(np.count_nonzero(counts)), operator.index(bins))  # pyright: ignore
    except TypeError:
        inner = np.asarray(bins)
        if inner.ndim != 1 or (inner.size and inner.dtype.kind not in "iu"):
            raise ValueError(f"bins must be an integer or ranks, not {bins!r}") from None
    edges = np.concatenate([[0], inner, [counts.size]]).astype(np.int64)
    if (np.diff(edges) < 1).any():
        raise ValueError(f"ranks must rise, from 1 to {counts.size - 1} at most, not {bins}")
    of_token = np.empty(counts.size, np.int32)
    of_token[order] = np.repeat(np.arange(edges.size - 1), np.diff(edges))
    shares = np.diff(mass[edges[1:] - 1], prepend=0) / mass[-1]
    return FrequencyBins(of_token, edges, shares, counts[order][edges[1:] - 1])


def _equal_mass(mass: np.ndarray, occurring: int, bins: int) -> np.ndarray:
    if bins < 1:
        raise ValueError(f"bins must be positive, not {bins}")
    if bins > occurring:
        raise ValueError(f"{bins} bins, but only {occurring} tokens occur")
    edges, done = [], 0.0
    for left in range(bins, 1, -1):
        # The first rank whose mass reaches an equal part, if a token is left for each bin behind.
        end = int(np.argmax((mass - done) * left >= mass[-1] - done)) + 1
        edges.append(min(end, occurring - left + 1))
        done = mass[edges[-1] - 1]
    return np.asarray(edges, np.int64)


def frequency_parts(
    model: nn.Module,
    counts: Any,
    bins: int | Sequence[int] = 10,
    *,
    reduction: str = "example",
    logit_chunk: int | None = None,
    remat: bool = False,
) -> Callable[..., jax.Array]:
    """`parts_fn(params, batch, key=None)` -> `[P]`: the loss of the targets in each frequency bin.

        part p = Σ_bt weight_bt · [label_bt in bin p] · −log softmax(logits_bt)[label_bt]

    where the weights are those of `make_loss(model, reduction)`, so that the parts sum to its loss
    (up to rounding). A part is thus its bin's contribution, not a mean over its tokens: a bin
    without a target in the batch has part 0. This is the `parts_fn` of `measure_parts`. Float32 or
    wider, whatever the model computes in. It costs what the loss costs.

    Args:
        model: As in `make_loss`, as are `reduction`, `logit_chunk` and `remat`.
        counts: `[vocabulary]`, how often each token occurs in the training text.
        bins: As in `frequency_bins`, which also gives the bins' labels for a plot.
        reduction: "example" or "token".
        logit_chunk: Positions of each example whose logits are made at once.
        remat: Whether reverse mode makes a chunk's logits again instead of keeping them.

    Raises:
        ValueError: As `frequency_bins` and `make_loss`; when called, if the vocabulary of the
            logits is not that of the counts.

    >>> from sharpjax.models import GPT2, GPT2Config, init_params, make_loss
    >>> model = GPT2(GPT2Config(vocab_size=6, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> params = init_params(model, jax.random.key(0))
    >>> batch = {"input_ids": [[1, 2, 5]], "labels": [[2, 5, 1]]}
    >>> parts = frequency_parts(model, [5, 40, 25, 20, 10, 0], bins=3)(params, batch)
    >>> parts.shape, bool(abs(parts.sum() - make_loss(model)(params, batch)) < 1e-6)
    ((3,), True)
    """
    check_options(reduction, logit_chunk)
    found = frequency_bins(counts, bins)
    of_token, numbers = found.of_token, np.arange(found.shares.size)

    def weigh(labels: jax.Array, vocabulary: int) -> jax.Array:
        if vocabulary != of_token.size:
            raise ValueError(f"{of_token.size} counts, but the vocabulary has {vocabulary} tokens")
        # −100 reads some bin or other, and weighs nothing in it.
        own = jnp.take(jnp.asarray(of_token), jnp.clip(labels, 0, vocabulary - 1))
        inside = own[..., None] == jnp.asarray(numbers)[None, None]
        return example_weights(labels, reduction)[..., None] * inside

    def parts_fn(params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        options = {"logit_chunk": logit_chunk, "remat": remat}
        return weighted_loss(model, params, batch, key, weigh, **options)

    return parts_fn
