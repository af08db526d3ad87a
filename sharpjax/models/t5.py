"""T5: an encoder and a decoder of pre-norm blocks, relative positions, one embedding for all.

Raffel et al. (2020), https://arxiv.org/abs/1910.10683; version 1.1 (gated GELU, a head of its
own) in https://arxiv.org/abs/2002.05202. With h the hidden states, every sublayer is

    h ← h + dropout(sublayer(h · scale / √(mean(h²) + ε)))

and the logits are dec · Eᵀ / √d_model, where E also embeds the tokens of both stacks.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax

from sharpjax.models.configuration import check_activation, check_fields
from sharpjax.models.layers import (
    Attention,
    LogitsKernel,
    activation,
    key_mask,
    logits_of,
    run_block,
    wide,
)


@dataclasses.dataclass(frozen=True)
class T5Config:
    """A T5, named as in Hugging Face's config.json; the defaults are t5-small."""

    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64  # Width of one attention head.
    d_ff: int = 2048
    num_layers: int = 6  # Blocks of the encoder.
    num_decoder_layers: int | None = None  # None: as many as the encoder has.
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    dropout_rate: float = 0.1
    layer_norm_epsilon: float = 1e-6
    initializer_factor: float = 1.0
    feed_forward_proj: str = "relu"  # "gated-gelu" in version 1.1.
    tie_word_embeddings: bool = True  # False in version 1.1: the head is a matrix of its own.
    scale_decoder_outputs: bool | None = None  # By 1/√d_model; None: if the head is tied.
    pad_token_id: int = 0
    eos_token_id: int | tuple[int, ...] = 1
    decoder_start_token_id: int = 0
    model_type: Literal["t5", "mt5"] = "t5"  # mt5 is version 1.1, never scaled.

    def __post_init__(self):
        check_fields(
            self,
            sizes=(
                *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers"),
                *("num_heads", "relative_attention_num_buckets", "relative_attention_max_distance"),
            ),
        )
        form, dash, name = self.feed_forward_proj.rpartition("-")
        if dash and form != "gated":
            value = self.feed_forward_proj
            raise ValueError(f"feed_forward_proj is {value!r}; the only prefix is 'gated-'")
        check_activation("feed_forward_proj", self.feed_forward_proj, name)
        if self.model_type == "mt5" and self.scale_decoder_outputs:
            raise ValueError("scale_decoder_outputs is True, but an mt5 never scales them")

    @property
    def is_gated_act(self) -> bool:
        """Whether the feed-forward layers are gated."""
        return self.feed_forward_proj.startswith("gated-")

    @property
    def dense_act_fn(self) -> str:
        """The activation of the feed-forward layers: the reference reads "gated-gelu" as tanh's."""
        if self.feed_forward_proj == "gated-gelu":
            return "gelu_new"
        return self.feed_forward_proj.removeprefix("gated-")

    @property
    def scales_decoder_outputs(self) -> bool:
        """Whether what the head reads is multiplied by 1/√d_model."""
        if self.model_type == "mt5":
            return False
        scaled = self.scale_decoder_outputs
        return self.tie_word_embeddings if scaled is None else scaled


class RMSNorm(nn.Module):
    """h · scale / √(mean(h²) + ε): neither centred nor shifted."""

    config: T5Config
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        init = nn.initializers.constant(self.config.initializer_factor)
        scale = self.param("scale", init, (h.shape[-1],), jnp.float32)
        h = h.astype(wide(h.dtype))
        h = h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + self.config.layer_norm_epsilon)
        return (h * scale[None, None]).astype(self.dtype or h.dtype)


class FeedForward(nn.Module):
    """act(h wi) wo, or the gated (act(h wi_0) ⊙ h wi_1) wo."""

    config: T5Config
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, *, deterministic: bool) -> jax.Array:
        c = self.config

        def dense(name: str, inputs: jax.Array, outputs: int) -> jax.Array:
            init = nn.initializers.normal(c.initializer_factor * inputs.shape[-1] ** -0.5)
            return nn.Dense(outputs, False, self.dtype, kernel_init=init, name=name)(inputs)

        act = activation(c.dense_act_fn)
        if c.is_gated_act:
            inner = act(dense("wi_0", h, c.d_ff)) * dense("wi_1", h, c.d_ff)
        else:
            inner = act(dense("wi", h, c.d_ff))
        inner = nn.Dropout(c.dropout_rate)(inner, deterministic=deterministic)
        return dense("wo", inner, c.d_model)


class Block(nn.Module):
    """Self-attention, attention to the encoder (in the decoder only), feed-forward."""

    config: T5Config
    dtype: Any = None

    @nn.compact
    def __call__(self, h, bias, mask, memory, memory_mask, *, deterministic: bool):
        c = self.config
        factor, inner = c.initializer_factor, c.num_heads * c.d_kv
        # No 1/√d_kv on the scores: the initial q carries it.
        stddev = {"k": factor * c.d_model**-0.5, "v": factor * c.d_model**-0.5}
        stddev |= {"q": factor * (c.d_model * c.d_kv) ** -0.5, "o": factor * inner**-0.5}
        attention = (c.num_heads, c.d_kv, 1.0, False, c.dropout_rate, stddev, self.dtype)
        dropout = nn.Dropout(c.dropout_rate, deterministic=deterministic)

        x = RMSNorm(c, self.dtype, name="attention_norm")(h)
        x = Attention(*attention, name="attention")(x, x, mask, bias, deterministic=deterministic)
        h = h + dropout(x)
        if memory is not None:
            x = RMSNorm(c, self.dtype, name="cross_attention_norm")(h)
            cross = Attention(*attention, name="cross_attention")
            h = h + dropout(cross(x, memory, memory_mask, deterministic=deterministic))
        x = RMSNorm(c, self.dtype, name="feed_forward_norm")(h)
        x = FeedForward(c, self.dtype, name="feed_forward")(x, deterministic=deterministic)
        return h + dropout(x)


class Stack(nn.Module):
    """The encoder, or the decoder (`causal`), on embedded tokens `[batch, length, d_model]`."""

    config: T5Config
    layers: int
    causal: bool
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, h, mask, memory=None, memory_mask=None, *, deterministic: bool):
        c, length = self.config, h.shape[1]
        dropout = nn.Dropout(c.dropout_rate, deterministic=deterministic)
        # One table of distances serves all blocks.
        init = nn.initializers.normal(c.initializer_factor * c.d_model**-0.5)
        table = nn.Embed(
            c.relative_attention_num_buckets,
            c.num_heads,
            embedding_init=init,
            name="relative_attention_bias",
        )
        offsets = np.arange(length)[None, :] - np.arange(length)[:, None]  # Key minus query.
        buckets = relative_position_buckets(
            offsets,
            not self.causal,
            c.relative_attention_num_buckets,
            c.relative_attention_max_distance,
        )
        bias = table(jnp.asarray(buckets)).transpose(2, 0, 1)[None]
        if self.causal:
            mask = mask & jnp.asarray(offsets <= 0)[None, None]
        h = dropout(h)
        for i in range(self.layers):
            block = Block(c, self.dtype, name=f"block_{i}")
            h = run_block(
                block,
                h,
                bias,
                mask,
                memory,
                memory_mask,
                deterministic=deterministic,
                remat=self.remat,
            )
        return dropout(RMSNorm(c, self.dtype, name="final_norm")(h))


class T5(nn.Module):
    """T5 with its language-model head.

    `dtype` is that of the computation (None: that of the parameters); parameters are float32.
    `remat` recomputes each block's insides in the backward pass.
    A batch is a dictionary of integer arrays: `input_ids` `[batch, source]`, `attention_mask`
    (1: attend; optional), `decoder_input_ids` `[batch, length]` or, without them, `labels` to be
    shifted right, and optionally `decoder_attention_mask`. Padding may stand on either side.
    """

    config: T5Config = T5Config()
    dtype: Any = None
    remat: bool = False

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.initializer_factor)
        layers = c.num_layers if c.num_decoder_layers is None else c.num_decoder_layers
        self.shared = nn.Embed(c.vocab_size, c.d_model, self.dtype, embedding_init=init)
        self.encoder = Stack(c, c.num_layers, False, self.dtype, self.remat)
        self.decoder = Stack(c, layers, True, self.dtype, self.remat)
        if not c.tie_word_embeddings:
            shape = c.d_model, c.vocab_size
            self.lm_head = LogitsKernel(shape, c.initializer_factor)

    def __call__(self, batch: Mapping[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """Logits `[batch, length, vocabulary]`, float32 or wider."""
        return self.head(self.features(batch, deterministic=deterministic))

    def features(self, batch: Mapping[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """The decoder's last hidden states `[batch, length, d_model]`, which `head` reads."""
        memory = self.encode(batch, deterministic=deterministic)
        return self.decode(batch, memory, deterministic=deterministic)

    def encode(self, batch: Mapping[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """The encoder's last hidden states `[batch, source, d_model]`."""
        ids = batch["input_ids"]
        mask = key_mask(batch.get("attention_mask"), ids)
        return self.encoder(self.shared(ids), mask, deterministic=deterministic)

    def decode(self, batch, memory: jax.Array, *, deterministic: bool = True) -> jax.Array:
        """The decoder's last hidden states, given the encoder's."""
        ids = batch.get("decoder_input_ids")
        if ids is None:
            if "labels" not in batch:
                raise ValueError(f"a T5 needs labels or decoder_input_ids, not only {[*batch]}")
            ids = shift_right(batch["labels"], self.config)
        mask = key_mask(batch.get("decoder_attention_mask"), ids)
        source = key_mask(batch.get("attention_mask"), batch["input_ids"])
        return self.decoder(self.shared(ids), mask, memory, source, deterministic=deterministic)

    def head(self, h: jax.Array) -> jax.Array:
        """Logits of hidden states `[batch, any, d_model]`, float32 or wider."""
        c = self.config
        if c.scales_decoder_outputs:
            h = h * c.d_model**-0.5
        kernel = self.shared.embedding.T if c.tie_word_embeddings else self.lm_head()
        return logits_of(h, kernel, self.dtype)


def shift_right(labels: jax.Array, config: T5Config) -> jax.Array:
    """The decoder's input: the start token, then the labels but the last, −100 read as padding."""
    start = jnp.full_like(labels[:, :1], config.decoder_start_token_id)
    shifted = jnp.concatenate([start, labels[:, :-1]], axis=1)
    return jnp.where(shifted == -100, config.pad_token_id, shifted)


def relative_position_buckets(
    offsets: np.ndarray, bidirectional: bool, buckets: int, max_distance: int
) -> np.ndarray:
    """The bucket of each offset (key position minus query position), int32, shaped like it.

    Of the buckets for one direction, the first half hold one distance each; the others grow
    geometrically up to `max_distance`, and the last holds all beyond. Bidirectionally, keys
    behind the query take the lower half of all buckets, keys ahead the upper; else keys ahead
    (masked anyway) are in bucket 0. Constants of the program, in the reference's float32.
    """
    base = np.zeros_like(offsets)
    if bidirectional:
        buckets //= 2
        base = buckets * (offsets > 0)
        distance = np.abs(offsets)
    else:
        distance = np.maximum(-offsets, 0)
    exact = buckets // 2
    ratio = np.maximum(distance, exact).astype(np.float32) / np.float32(exact)
    growth = np.log(ratio) / np.float32(math.log(max_distance / exact)) * (buckets - exact)
    far = np.minimum(exact + growth.astype(np.int64), buckets - 1)
    return (base + np.where(distance < exact, distance, far)).astype(np.int32)
