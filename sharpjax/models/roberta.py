"""RoBERTa for masked language modelling: post-norm blocks on learned absolute positions.

Liu et al. (2019), https://arxiv.org/abs/1907.11692; distilroberta by the recipe of
https://arxiv.org/abs/1910.01108. With h the hidden states, every sublayer is

    h ← norm(h + dropout(sublayer(h))),   norm(x) = scale · (x − mean x) / √(var x + ε) + bias

and the logits are norm(gelu(h W + b)) · Eᵀ + c, where E also embeds the tokens unless the
head is untied.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from sharpjax.models.configuration import check_fields
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
class RobertaConfig:
    """A RoBERTa, named as in Hugging Face's config.json; the defaults are distilroberta-base."""

    vocab_size: int = 50265
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    max_position_embeddings: int = 514  # Positions start behind the pad row: 512 tokens fit.
    type_vocab_size: int = 1  # Segments.
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-5
    pad_token_id: int = 1
    bos_token_id: int = 0
    eos_token_id: int | tuple[int, ...] = 2
    tie_word_embeddings: bool = True  # False: the head is a matrix of its own.
    # They differ in their tokenizers.
    model_type: Literal["roberta", "xlm-roberta", "camembert"] = "roberta"

    def __post_init__(self):
        check_fields(
            self,
            sizes=(
                *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
                *("intermediate_size", "max_position_embeddings", "type_vocab_size"),
            ),
            activations=("hidden_act",),
        )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of "
                f"num_attention_heads {self.num_attention_heads}"
            )


class LayerNorm(nn.Module):
    """scale · (h − mean h) / √(var h + ε) + bias, over the last axis."""

    config: RobertaConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (h.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (h.shape[-1],), jnp.float32)
        h = h.astype(wide(h.dtype))
        h = h - jnp.mean(h, -1, keepdims=True)
        h = h * lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + self.config.layer_norm_eps)
        return (h * scale[None, None] + bias[None, None]).astype(self.dtype or h.dtype)


class PaddedEmbed(nn.Module):
    """A table whose pad row starts at zero and is a constant where it is looked up.

    That is `padding_idx` of the reference. The row is no constant elsewhere: the tied head
    differentiates it like any other.
    """

    rows: int
    config: RobertaConfig
    dtype: Any = None

    def setup(self):
        c = self.config

        def init(key, shape, dtype):
            table = nn.initializers.normal(c.initializer_range)(key, shape, dtype)
            return table.at[c.pad_token_id].set(0)

        self.embedding = self.param("embedding", init, (self.rows, c.hidden_size), jnp.float32)

    def __call__(self, ids: jax.Array) -> jax.Array:
        rows = jnp.take(self.embedding, ids, axis=0)
        rows = rows.astype(self.dtype or rows.dtype)
        padding = (ids == self.config.pad_token_id)[..., None]
        return jnp.where(padding, lax.stop_gradient(rows), rows)


class Block(nn.Module):
    """Self-attention and feed-forward."""

    config: RobertaConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, mask: jax.Array, *, deterministic: bool) -> jax.Array:
        c = self.config
        dropout = nn.Dropout(c.hidden_dropout_prob, deterministic=deterministic)
        head_dim = c.hidden_size // c.num_attention_heads
        x = Attention(
            c.num_attention_heads,
            head_dim,
            head_dim**-0.5,
            True,
            c.attention_probs_dropout_prob,
            dict.fromkeys("qkvo", c.initializer_range),
            self.dtype,
            name="attention",
        )(h, h, mask, deterministic=deterministic)
        h = LayerNorm(c, self.dtype, name="attention_norm")(h + dropout(x))
        x = FeedForward(c, self.dtype, name="feed_forward")(h)
        return LayerNorm(c, self.dtype, name="feed_forward_norm")(h + dropout(x))


class FeedForward(nn.Module):
    """act(h wi) wo, with biases."""

    config: RobertaConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        h = nn.Dense(c.intermediate_size, dtype=self.dtype, kernel_init=init, name="wi")(h)
        h = activation(c.hidden_act)(h)
        return nn.Dense(c.hidden_size, dtype=self.dtype, kernel_init=init, name="wo")(h)


class Embeddings(nn.Module):
    """The normalised sum of a token's, its position's and its segment's vectors."""

    config: RobertaConfig
    dtype: Any = None

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        self.word = PaddedEmbed(c.vocab_size, c, self.dtype)
        self.position = PaddedEmbed(c.max_position_embeddings, c, self.dtype)
        self.token_type = nn.Embed(
            c.type_vocab_size, c.hidden_size, self.dtype, embedding_init=init
        )
        self.norm = LayerNorm(c, self.dtype)
        self.dropout = nn.Dropout(c.hidden_dropout_prob)

    def __call__(self, ids: jax.Array, segments: Any, *, deterministic: bool) -> jax.Array:
        c = self.config
        longest = c.max_position_embeddings - c.pad_token_id - 1
        if ids.shape[1] > longest:
            raise ValueError(f"{ids.shape[1]} tokens, but the model has positions for {longest}")
        # Padding keeps the pad row's position; the others count from behind it.
        real = (ids != c.pad_token_id).astype(ids.dtype)
        positions = jnp.cumsum(real, axis=1, dtype=ids.dtype) * real + c.pad_token_id
        segments = jnp.zeros_like(ids) if segments is None else jnp.asarray(segments)
        h = self.word(ids) + self.position(positions) + self.token_type(segments)
        return self.dropout(self.norm(h), deterministic=deterministic)


class Encoder(nn.Module):
    """The blocks, one after the other."""

    config: RobertaConfig
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, h: jax.Array, mask: jax.Array, *, deterministic: bool) -> jax.Array:
        for i in range(self.config.num_hidden_layers):
            block = Block(self.config, self.dtype, name=f"block_{i}")
            h = run_block(block, h, mask, deterministic=deterministic, remat=self.remat)
        return h


class MaskedLMHead(nn.Module):
    """norm(gelu(h W + b)) · kernel + c; the kernel is the caller's, or its own where untied."""

    config: RobertaConfig
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, embedding: jax.Array) -> jax.Array:
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        h = nn.Dense(c.hidden_size, dtype=self.dtype, kernel_init=init, name="dense")(h)
        h = LayerNorm(c, self.dtype, name="norm")(activation("gelu")(h))
        if c.tie_word_embeddings:
            kernel = embedding.T
        else:
            shape = c.hidden_size, c.vocab_size
            kernel = LogitsKernel(shape, c.initializer_range, name="decoder")()
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,), jnp.float32)
        return logits_of(h, kernel, self.dtype) + bias[None, None]


class RobertaForMaskedLM(nn.Module):
    """RoBERTa with its masked-language-model head.

    `dtype` is that of the computation (None: that of the parameters); parameters are float32.
    `remat` recomputes each block's insides in the backward pass.
    A batch is a dictionary of integer arrays `[batch, length]`: `input_ids`, and optionally
    `attention_mask` (1: attend). Padding may stand on either side. ValueError if the length
    exceeds the positions.
    """

    config: RobertaConfig = RobertaConfig()
    dtype: Any = None
    remat: bool = False

    def setup(self):
        self.embeddings = Embeddings(self.config, self.dtype)
        self.encoder = Encoder(self.config, self.dtype, self.remat)
        self.lm_head = MaskedLMHead(self.config, self.dtype)

    def __call__(self, batch: Mapping[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """Logits `[batch, length, vocabulary]`, float32 or wider."""
        return self.head(self.features(batch, deterministic=deterministic))

    def features(self, batch: Mapping[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """The last hidden states `[batch, length, hidden_size]`, which `head` reads."""
        ids = jnp.asarray(batch["input_ids"])
        h = self.embeddings(ids, batch.get("token_type_ids"), deterministic=deterministic)
        mask = key_mask(batch.get("attention_mask"), ids)
        return self.encoder(h, mask, deterministic=deterministic)

    def head(self, h: jax.Array) -> jax.Array:
        """Logits of hidden states `[batch, any, hidden_size]`, float32 or wider."""
        return self.lm_head(h, self.embeddings.word.embedding)
