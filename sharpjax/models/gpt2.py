"""GPT-2: a stack of pre-norm blocks that sees backwards only, on learned absolute positions.

Radford et al. (2019), "Language Models are Unsupervised Multitask Learners"; the layout of its
weights is Hugging Face's. With h the hidden states, every sublayer is

    h ← h + dropout(sublayer(norm(h))),   norm(x) = scale · (x − mean x) / √(var x + ε) + bias

and the logits are norm(h) · Eᵀ, where E also embeds the tokens unless the head is untied.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sharpjax.models.configuration import check_fields
from sharpjax.models.layers import (
    Attention,
    LogitsKernel,
    activation,
    key_mask,
    logits_of,
    run_block,
)
from sharpjax.models.losses import IGNORED


@dataclasses.dataclass(frozen=True)
class GPT2Config:
    """A GPT-2, named as in Hugging Face's config.json; the defaults are gpt2."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None  # Width of the feed-forward layers; None: 4 · n_embd.
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1  # Dropout of what a sublayer adds,
    embd_pdrop: float = 0.1  # of the embeddings,
    attn_pdrop: float = 0.1  # and of the attention weights.
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True  # Scores are divided by √(n_embd/n_head),
    scale_attn_by_inverse_layer_idx: bool = False  # and in layer i, from 1, by i too.
    pad_token_id: int | None = None
    bos_token_id: int | None = 50256
    eos_token_id: int | tuple[int, ...] | None = 50256
    tie_word_embeddings: bool = True  # False: the head is a matrix of its own.
    model_type: Literal["gpt2"] = "gpt2"

    def __post_init__(self):
        check_fields(
            self,
            sizes=("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner"),
            activations=("activation_function",),
        )
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")


class FeedForward(nn.Module):
    """act(h wi) wo, with biases."""

    config: GPT2Config
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        c = self.config
        inner = 4 * c.n_embd if c.n_inner is None else c.n_inner
        init = nn.initializers.normal(c.initializer_range)
        h = nn.Dense(inner, dtype=self.dtype, kernel_init=init, name="wi")(h)
        h = activation(c.activation_function)(h)
        init = nn.initializers.normal(_residual_stddev(c))
        return nn.Dense(c.n_embd, dtype=self.dtype, kernel_init=init, name="wo")(h)


class Block(nn.Module):
    """Self-attention and feed-forward; `index` is the block's, from 0."""

    config: GPT2Config
    index: int
    dtype: Any = None

    @nn.compact
    def __call__(self, h: jax.Array, mask: jax.Array, *, deterministic: bool) -> jax.Array:
        c = self.config
        dropout = nn.Dropout(c.resid_pdrop, deterministic=deterministic)
        head_dim = c.n_embd // c.n_head
        scale = head_dim**-0.5 if c.scale_attn_weights else 1.0
        if c.scale_attn_by_inverse_layer_idx:
            scale /= self.index + 1
        attention = Attention(
            c.n_head,
            head_dim,
            scale,
            True,
            c.attn_pdrop,
            dict.fromkeys("qkv", c.initializer_range) | {"o": _residual_stddev(c)},
            self.dtype,
            name="attention",
        )
        x = _norm(c, self.dtype, "attention_norm")(h)
        h = h + dropout(attention(x, x, mask, deterministic=deterministic))
        x = _norm(c, self.dtype, "feed_forward_norm")(h)
        return h + dropout(FeedForward(c, self.dtype, name="feed_forward")(x))


class Embeddings(nn.Module):
    """The sum of a token's and its position's vectors."""

    config: GPT2Config
    dtype: Any = None

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        self.word = nn.Embed(c.vocab_size, c.n_embd, self.dtype, embedding_init=init)
        self.position = nn.Embed(c.n_positions, c.n_embd, self.dtype, embedding_init=init)
        self.dropout = nn.Dropout(c.embd_pdrop)

    def __call__(self, ids: jax.Array, positions: Any, *, deterministic: bool) -> jax.Array:
        length, longest = ids.shape[1], self.config.n_positions
        if length > longest:
            raise ValueError(f"{length} tokens, but the model has positions for {longest}")
        # Padding counts too, as in the reference, unless the caller says otherwise.
        positions = jnp.arange(length)[None] if positions is None else jnp.asarray(positions)
        h = self.word(ids) + self.position(positions)
        return self.dropout(h, deterministic=deterministic)


class Decoder(nn.Module):
    """The blocks, one after the other, and the last norm."""

    config: GPT2Config
    dtype: Any = None
    remat: bool = False

    @nn.compact
    def __call__(self, h: jax.Array, mask: jax.Array, *, deterministic: bool) -> jax.Array:
        mask = mask & jnp.asarray(np.tri(h.shape[1], dtype=bool))[None, None]
        for i in range(self.config.n_layer):
            block = Block(self.config, i, self.dtype, name=f"block_{i}")
            h = run_block(block, h, mask, deterministic=deterministic, remat=self.remat)
        return _norm(self.config, self.dtype, "final_norm")(h)


class GPT2(nn.Module):
    """GPT-2 with its language-model head.

    `dtype` is that of the computation (None: that of the parameters); parameters are float32.
    `remat` recomputes each block's insides in the backward pass.
    A batch is a dictionary of integer arrays `[batch, length]`: `input_ids`, and optionally
    `attention_mask` (1: attend) and `position_ids` (without them, 0, 1, … whether padded or not).
    ValueError if the length exceeds the positions.

    The logits at position t see the tokens up to t, and predict token t + 1. `make_loss` compares
    them with `labels[:, t]`, so labels are the *next* tokens: `next_token_labels` makes them.
    (The reference's `labels` are the tokens themselves, which it shifts inside.)
    """

    config: GPT2Config = GPT2Config()
    dtype: Any = None
    remat: bool = False

    def setup(self):
        self.embeddings = Embeddings(self.config, self.dtype)
        self.decoder = Decoder(self.config, self.dtype, self.remat)
        c = self.config
        if not c.tie_word_embeddings:
            self.lm_head = LogitsKernel((c.n_embd, c.vocab_size), c.initializer_range)

    def __call__(self, batch: Mapping[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """Logits `[batch, length, vocabulary]`, float32 or wider."""
        return self.head(self.features(batch, deterministic=deterministic))

    def features(self, batch: Mapping[str, jax.Array], *, deterministic: bool = True) -> jax.Array:
        """The last hidden states `[batch, length, n_embd]`, which `head` reads."""
        ids = jnp.asarray(batch["input_ids"])
        h = self.embeddings(ids, batch.get("position_ids"), deterministic=deterministic)
        mask = key_mask(batch.get("attention_mask"), ids)
        return self.decoder(h, mask, deterministic=deterministic)

    def head(self, h: jax.Array) -> jax.Array:
        """Logits of hidden states `[batch, any, n_embd]`, float32 or wider."""
        tied = self.config.tie_word_embeddings
        kernel = self.embeddings.word.embedding.T if tied else self.lm_head()
        return logits_of(h, kernel, self.dtype)


def next_token_labels(input_ids: Any, attention_mask: Any = None) -> np.ndarray:
    """What each position predicts: labels[:, t] = input_ids[:, t + 1], −100 where there is none.

    That is at the last position, and where t or t + 1 is padding. −100 in `input_ids` stays, so
    that labels of the reference's alignment are shifted as it shifts them.

    Args:
        input_ids: int `[batch, length]`.
        attention_mask: int or bool `[batch, length]`, 1: a token; None: no padding.

    Returns:
        A NumPy array like `input_ids`.
    """
    ids = np.asarray(input_ids)
    labels = np.full_like(ids, IGNORED)
    labels[:, :-1] = ids[:, 1:]
    if attention_mask is not None:
        real = np.asarray(attention_mask).astype(bool)
        labels[:, :-1][~(real[:, :-1] & real[:, 1:])] = IGNORED
    return labels


def _norm(config: GPT2Config, dtype: Any, name: str) -> nn.LayerNorm:
    # The fast variance, mean h² − (mean h)², would cancel in float32.
    epsilon = config.layer_norm_epsilon
    return nn.LayerNorm(epsilon, dtype, use_fast_variance=False, name=name)


def _residual_stddev(config: GPT2Config) -> float:
    """Of what ends a sublayer: 2 · n_layer of them add up on the way to the head."""
    return config.initializer_range * (2 * config.n_layer) ** -0.5
