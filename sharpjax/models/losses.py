"""The cross-entropy of a language model as a pure function of its parameters.

Generic over the model: a `flax.linen` module with `features(batch, deterministic=…)`
-> `[batch, length, width]` and `head(features)` -> logits `[batch, length, vocabulary]`, whose
position t predicts `batch["labels"][:, t]`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from sharpjax.models.layers import log_sum_exp, wide

Batch = Mapping[str, jax.Array]

IGNORED = -100  # The label of a position that does not count.
CHUNK_LOGITS = 2**25  # Logits alive at once unless told otherwise: 128 MiB in float32.


def make_logits(model: nn.Module) -> Callable[..., jax.Array]:
    """`logits_fn(params, batch, key=None)` -> logits `[batch, length, vocabulary]`.

    float32 or wider, whatever the model computes in. `key` is a dropout key; None means
    evaluation mode.
    """

    def logits_fn(params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        return _apply(model, params, batch, key, method="__call__")

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
    without any has loss 0. float32 or wider, whatever the model computes in. `key` is a dropout
    key: one key gives one fixed function; None means evaluation mode.

    Logits are made `logit_chunk` positions of each example at a time (None: as many as keep a
    chunk below 2²⁵ logits, so small models have one chunk), with equal value and derivatives:

    * `remat=False`: the chunks are unrolled. Every transformation runs, `jax.experimental.jet`
      included. Forward modes hold one chunk, reverse mode keeps all for its way back.
    * `remat=True`: a scan over the chunks that makes each again on the way back, for one more
      product with the head. Forward and reverse modes of any order hold one chunk; `jet` has no
      rule for it.

    Args:
        model: A module of this package, or one with its `features` and `head`.
        reduction: "example" or "token".
        logit_chunk: Positions of each example whose logits are made at once.
        remat: Whether reverse mode makes a chunk's logits again instead of keeping them.

    Raises:
        ValueError: If the reduction is unknown or `logit_chunk` is not positive.
    """
    if reduction not in ("example", "token"):
        raise ValueError(f"unknown reduction {reduction!r}; known are 'example' and 'token'")
    if logit_chunk is not None and logit_chunk < 1:
        raise ValueError(f"logit_chunk must be positive, not {logit_chunk}")

    def loss_fn(params: Any, batch: Batch, key: jax.Array | None = None) -> jax.Array:
        labels = jnp.asarray(batch["labels"])
        features = _apply(model, params, batch, key, method="features")

        def chunk_loss(h: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
            logits = model.apply({"params": params}, h, method="head")
            assert isinstance(logits, jax.Array)
            return jnp.sum(weights.astype(logits.dtype) * _negative_log_likelihood(logits, labels))

        length = labels.shape[1]
        size = logit_chunk or max(1, CHUNK_LOGITS // (labels.shape[0] * _vocabulary(model)))
        streams = features, labels, _weights(labels, reduction)
        if size >= length:
            return jax.checkpoint(chunk_loss)(*streams) if remat else chunk_loss(*streams)
        # Along the length, not the batch, which may be split over devices.
        total = jnp.zeros((), wide(features.dtype))
        if not remat:
            for i in range(0, length, size):
                h, *rest = (x[:, i : i + size] for x in streams)
                # Always times 1, but only known when the chunk before is done: else the compiler
                # may make all chunks at once. Times, so that derivatives wait as well.
                gate = jnp.where(total == -jnp.inf, 0, 1).astype(h.dtype)
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

    return loss_fn


def init_params(model: nn.Module, key: jax.Array) -> Any:
    """Parameters drawn as the reference draws them: a nested dictionary of float32 arrays."""
    ids = jnp.zeros((1, 2), jnp.int32)
    return jax.jit(model.init)(key, {"input_ids": ids, "labels": ids})["params"]


def _apply(model: nn.Module, params: Any, batch: Batch, key: jax.Array | None, method: str) -> Any:
    rngs = None if key is None else {"dropout": key}
    variables = {"params": params}
    return model.apply(variables, batch, deterministic=key is None, rngs=rngs, method=method)


def _vocabulary(model: nn.Module) -> int:
    return model.config.vocab_size  # pyright: ignore[reportAttributeAccessIssue]


def _negative_log_likelihood(logits: jax.Array, labels: jax.Array) -> jax.Array:
    # A masked sum, not a gather: it fuses, splits over devices and needs no scatter on its way
    # back. A label of −100 meets no column.
    columns = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    picked = jnp.sum(jnp.where(columns == labels[..., None], logits, 0), axis=-1)
    return log_sum_exp(logits) - picked


def _weights(labels: jax.Array, reduction: str) -> jax.Array:
    counted = (labels != IGNORED).astype(float)
    axis = 1 if reduction == "example" else None
    weights = counted / jnp.maximum(jnp.sum(counted, axis=axis, keepdims=True), 1)
    return weights / labels.shape[0] if reduction == "example" else weights
