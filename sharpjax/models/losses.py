"""The cross-entropy of a language model as a pure function of its parameters.

Generic over the model: any `flax.linen` module with two methods,

    features(batch, *, deterministic) -> [batch, length, width]
    head(features) -> logits [batch, length, vocabulary]

whose position t predicts `batch["labels"][:, t]`; `head` works on any part of the length, and
both find their modules in `setup`. Nothing else is asked of it: no configuration, no `__call__`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sharpjax.models.layers import log_sum_exp, wide

Batch = Mapping[str, Any]  # Of arrays, or of what `np.asarray` reads: lists, torch tensors.

IGNORED = -100  # The label of a position that does not count.
CHUNK_LOGITS = 2**25  # Logits alive at once unless told otherwise: 128 MiB in float32.


def make_logits(model: nn.Module) -> Callable[..., jax.Array]:
    """`logits_fn(params, batch, key=None)` -> logits `[batch, length, vocabulary]`.

    float32 or wider, whatever the model computes in. `key` is a dropout key; None means
    evaluation mode. The batch is a dictionary, or another mapping such as
    `transformers.BatchEncoding`, of arrays or of what `np.asarray` reads, e.g. torch tensors.
    (`jax.jit` itself takes arrays in dictionaries only.)

    Args:
        model: A module of this package, or any with its `features` and `head`.

    >>> import jax
    >>> from sharpjax.models import GPT2, GPT2Config, init_params, make_logits
    >>> model = GPT2(GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> params = init_params(model, jax.random.key(0))
    >>> make_logits(model)(params, {"input_ids": [[1, 2, 3]]}).shape
    (1, 3, 9)
    """

    def logits_fn(params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        logits = _apply(model, params, _arrays(batch), key, method=_logits)
        return logits.astype(wide(logits.dtype))

    return logits_fn


def make_loss(
    model: nn.Module,
    reduction: str = "example",
    *,
    logit_chunk: int | None = None,
    remat: bool = False,
) -> Callable[..., jax.Array]:
    """`loss_fn(params, batch, key=None)` -> mean cross-entropy, a scalar in nats.

    With C_b the counted positions of example b of B (those whose label is not −100),

        "example":  1/B Σ_b 1/|C_b| Σ_{t ∈ C_b} −log softmax(logits_bt)[label_bt]
        "token":    1/Σ_b|C_b| Σ_b Σ_{t ∈ C_b} −log softmax(logits_bt)[label_bt]

    An example without a counted position contributes zero (and still counts in B); a batch
    without any has loss 0. A label that is neither −100 nor a token of the vocabulary makes the
    loss NaN. Log-softmax and sums are in float32 or wider, whatever the model computes in. `key`
    is a dropout key: one key gives one fixed function; None means evaluation mode. The batch is
    what `make_logits` takes, with `labels`.

    Logits are made `logit_chunk` positions of each example at a time (None: as many as keep a
    chunk below 2²⁵ logits, so small models have one chunk), with equal value and derivatives:

    * `remat=False`: the chunks are unrolled. Every transformation runs, `jax.experimental.jet`
      included. Forward modes hold one chunk, reverse mode keeps all for its backward pass.
    * `remat=True`: a scan over the chunks that recomputes each in the backward pass, for one
      more product with the head. Forward and reverse modes of any order hold one chunk; `jet` has
      no rule for it.

    Args:
        model: A module of this package, or any with its `features` and `head`.
        reduction: "example" or "token".
        logit_chunk: Positions of each example whose logits are made at once.
        remat: Whether reverse mode makes a chunk's logits again instead of keeping them.

    Raises:
        ValueError: If the reduction is unknown or `logit_chunk` is not positive; when called, if
            the labels are not integers, or not those of the features' positions.

    >>> import jax
    >>> from sharpjax.models import GPT2, GPT2Config, init_params, make_loss
    >>> model = GPT2(GPT2Config(vocab_size=9, n_positions=8, n_embd=4, n_layer=1, n_head=2))
    >>> params = init_params(model, jax.random.key(0))
    >>> batch = {"input_ids": [[1, 2, 3]], "labels": [[2, 3, -100]]}
    >>> print(f"{make_loss(model)(params, batch):.1f}")  # About log 9.
    2.2
    """
    check_options(reduction, logit_chunk)

    def loss_fn(params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        weigh = lambda labels, _: example_weights(labels, reduction)  # noqa: E731
        options = {"logit_chunk": logit_chunk, "remat": remat}
        return weighted_loss(model, params, batch, key, weigh, **options)

    return loss_fn


def check_options(reduction: str, logit_chunk: int | None) -> None:
    """ValueError if a loss cannot be reduced or made in pieces like that."""
    if reduction not in ("example", "token"):
        raise ValueError(f"unknown reduction {reduction!r}; known are 'example' and 'token'")
    if logit_chunk is not None and logit_chunk < 1:
        raise ValueError(f"logit_chunk must be positive, not {logit_chunk}")


def example_weights(labels: jax.Array, reduction: str) -> jax.Array:
    """What each position `[batch, length]` weighs in the loss."""
    counted = (labels != IGNORED).astype(float)
    axis = 1 if reduction == "example" else None
    weights = counted / jnp.maximum(jnp.sum(counted, axis=axis, keepdims=True), 1)
    return weights / labels.shape[0] if reduction == "example" else weights


def weighted_loss(
    model: nn.Module,
    params: Any,
    batch: Batch,
    key: jax.Array | None,
    weigh: Callable[[jax.Array, int], jax.Array],
    *,
    logit_chunk: int | None,
    remat: bool,
) -> jax.Array:
    """Σ_bt weights[b, t, …] · −log softmax(logits_bt)[label_bt], shaped like the trailing axes.

    What `make_loss` and its kin are made of; its other arguments are theirs. `weigh` goes from
    labels, int32 `[batch, length]`, and the size of the vocabulary to weights
    `[batch, length, …]`, in which a label of −100 weighs nothing. Float32 or wider.
    """
    batch = _arrays(batch)
    labels = _labels(batch)
    features = _apply(model, params, batch, key, method="features")
    if features.ndim != 3 or features.shape[:2] != labels.shape:
        raise ValueError(
            f"labels are {labels.shape}, but the model's features are {features.shape}: the "
            "first two axes must agree"
        )

    def head(params: Any, h: jax.Array) -> jax.Array:
        logits: Any = model.apply({"params": params}, h, method="head")
        return logits.astype(wide(logits.dtype))

    def chunk_loss(h: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
        logits = head(params, h)
        losses = _negative_log_likelihood(logits, labels)
        losses = losses.reshape(*losses.shape, *[1] * (weights.ndim - 2))
        return jnp.sum(weights.astype(logits.dtype) * losses, axis=(0, 1))

    # What one position's logits would be: no model need say how large its vocabulary is.
    one = jax.eval_shape(lambda params, h: head(params, h[:, :1]), params, features)
    examples, length = labels.shape
    weights = weigh(labels, one.shape[-1])
    size = logit_chunk or max(1, CHUNK_LOGITS // (examples * one.shape[-1]))
    streams = features, labels, weights
    if size >= length:
        return jax.checkpoint(chunk_loss)(*streams) if remat else chunk_loss(*streams)
    # Along the length, not the batch, which may be split over devices.
    total = jnp.zeros(weights.shape[2:], one.dtype)
    if not remat:
        for i in range(0, length, size):
            h, *rest = (x[:, i : i + size] for x in streams)
            # Always times 1, but only known when the chunk before is done: else the compiler
            # may make all chunks at once. Times, so that derivatives wait as well.
            gate = jnp.where(jnp.sum(total) == -jnp.inf, 0, 1).astype(h.dtype)
            total = total + chunk_loss(h * gate, *rest)
        return total

    def chunks(x: jax.Array) -> jax.Array:
        # Padding weighs nothing, so that it may hold any label.
        padding = [(0, 0), (0, -length % size)] + [(0, 0)] * (x.ndim - 2)
        x = jnp.pad(x, padding).reshape(x.shape[0], -1, size, *x.shape[2:])
        return jnp.moveaxis(x, 1, 0)

    def step(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return total + jax.checkpoint(chunk_loss)(*chunk), None

    return jax.lax.scan(step, total, tuple(map(chunks, streams)))[0]


def init_params(model: nn.Module, key: jax.Array) -> Any:
    """Parameters drawn as the reference draws them: a nested dictionary of float32 arrays.

    The model is one of this package, or any whose `features` need no more of a batch than
    `input_ids` and `labels`.
    """
    ids = jnp.zeros((1, 2), jnp.int32)
    init = lambda key, batch: model.init(key, batch, method=_logits)  # noqa: E731
    return jax.jit(init)(key, {"input_ids": ids, "labels": ids})["params"]


def _logits(module: Any, batch: Batch, *, deterministic: bool = True) -> jax.Array:
    return module.head(module.features(batch, deterministic=deterministic))


def _apply(model: nn.Module, params: Any, batch: Batch, key: jax.Array | None, method: Any) -> Any:
    rngs = None if key is None else {"dropout": key}
    variables = {"params": params}
    return model.apply(variables, batch, deterministic=key is None, rngs=rngs, method=method)


def _arrays(batch: Batch) -> dict[str, jax.Array]:
    """The batch as JAX arrays; narrow integers, in which −100 or a token may not fit, as int32."""

    def array(value: Any) -> jax.Array:
        value = jnp.asarray(value if isinstance(value, jax.Array) else np.asarray(value))
        narrow = jnp.issubdtype(value.dtype, jnp.integer) and value.dtype.itemsize < 4
        return value.astype(jnp.int32) if narrow else value

    return {name: array(value) for name, value in batch.items()}


def _labels(batch: Mapping[str, jax.Array]) -> jax.Array:
    if "labels" not in batch:
        raise ValueError(f"a loss needs labels; the batch has only {[*batch]}")
    labels = batch["labels"]
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, not {labels.dtype}")
    return labels.astype(jnp.int32)


def _negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    # A masked sum, not a gather: it fuses, splits over devices and needs no scatter on its way
    # back. A label of −100 meets no column.
    columns = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    picked = jnp.sum(jnp.where(columns == labels[..., None], logits, 0), axis=-1)
    known = (labels == IGNORED) | (labels >= 0) & (labels < logits.shape[-1])
    return log_sum_exp(logits) - jnp.where(known, picked, jnp.nan)
