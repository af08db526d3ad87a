"""What the transformers share: attention, activations, a soft maximum, and the wide precision.

Everything here is written so that `jax.experimental.jet` has a rule for it, as well as forward
and reverse mode at any order: no `custom_jvp` function (`jax.nn.relu`, `jax.nn.logsumexp`), no
scan, and remat only where it is asked for.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

Initializer = Callable[..., jax.Array]


def wide(dtype: Any) -> Any:
    """`dtype`, or float32 where that is wider: softmax, norms, logits and losses live there."""
    return jnp.promote_types(dtype, jnp.float32)


def _gelu(x: jax.Array) -> jax.Array:
    return 0.5 * x * (1 + lax.erf(x * 0.5**0.5))


def _gelu_tanh(x: jax.Array) -> jax.Array:
    return 0.5 * x * (1 + jnp.tanh((2 / jnp.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _silu(x: jax.Array) -> jax.Array:
    return x * lax.logistic(x)


# The names are those of `hidden_act` and `feed_forward_proj` in Hugging Face's config.json; there
# one function has up to five, which differ in how it is computed.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": lambda x: jnp.where(x > 0, x, 0),
    **dict.fromkeys(("silu", "swish"), _silu),
    **dict.fromkeys(("gelu", "gelu_python"), _gelu),
    **dict.fromkeys(
        ("gelu_new", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate", "gelu_fast"),
        _gelu_tanh,
    ),
}


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function that a configuration calls `name`; ValueError lists the known ones."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; known are {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def run_block(
    block: nn.Module, *inputs: jax.Array | None, deterministic: bool, remat: bool
) -> jax.Array:
    """A block's outputs; `remat` recomputes its insides in the backward pass.

    Reverse mode then keeps the inputs alone, for one more forward pass; `jet` has no rule for it.
    """
    call = lambda block, *inputs: block(*inputs, deterministic=deterministic)  # noqa: E731
    return (nn.remat(call) if remat else call)(block, *inputs)


def softmax(x: jax.Array) -> jax.Array:
    """exp(xᵢ) / Σⱼ exp(xⱼ) over the last axis; the shift by the maximum is a constant."""
    powers = jnp.exp(x - jnp.max(lax.stop_gradient(x), axis=-1, keepdims=True))
    return powers / jnp.sum(powers, axis=-1, keepdims=True)


def log_sum_exp(x: jax.Array) -> jax.Array:
    """The logarithm of Σⱼ exp(xⱼ) over the last axis, which goes; shifted like `softmax`."""
    top = jnp.max(lax.stop_gradient(x), axis=-1, keepdims=True)
    return jnp.log(jnp.sum(jnp.exp(x - top), axis=-1)) + jnp.squeeze(top, -1)


class Attention(nn.Module):
    """softmax(scale · q kᵀ + bias) v o, over the keys that `mask` lets through.

    The four projections q, k, v `[features, heads·head_dim]` and o `[heads·head_dim, features]`
    are matrices; heads appear only inside. Scores and their softmax are float32 or wider.
    """

    heads: int
    head_dim: int
    scale: float
    use_bias: bool
    dropout: float
    stddev: Mapping[str, float]  # Of the initial q, k, v and o.
    dtype: Any = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        memory: jax.Array,
        mask: jax.Array,
        bias: jax.Array | None = None,
        *,
        deterministic: bool,
    ) -> jax.Array:
        """From x `[batch, queries, features]` and memory `[batch, keys, features]`: like x.

        `mask` is Boolean and `bias` an addend to the scores, both broadcastable to
        `[batch, heads, queries, keys]`.
        """

        def project(name: str, features: int, inputs: jax.Array) -> jax.Array:
            init = nn.initializers.normal(self.stddev[name])
            dense = nn.Dense(features, self.use_bias, self.dtype, kernel_init=init, name=name)
            return dense(inputs)

        def split(y: jax.Array) -> jax.Array:
            return y.reshape(*y.shape[:2], self.heads, self.head_dim)

        inner = self.heads * self.head_dim
        q, k, v = (
            split(project(name, inner, y)) for name, y in (("q", x), ("k", memory), ("v", memory))
        )
        precise = wide(q.dtype)
        scores = self.scale * jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=precise)
        if bias is not None:
            scores = scores + bias.astype(precise)
        # Finite, so that a row without any key is uniform instead of NaN.
        weights = softmax(jnp.where(mask, scores, jnp.finfo(precise).min)).astype(v.dtype)
        weights = nn.Dropout(self.dropout)(weights, deterministic=deterministic)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v)
        return project("o", x.shape[-1], mixed.reshape(*x.shape[:2], inner))


def key_mask(attention_mask: jax.Array | None, ids: jax.Array) -> jax.Array:
    """The Boolean `[batch, 1, 1, keys]` mask of an `attention_mask` (None: every key counts)."""
    if attention_mask is None:
        attention_mask = jnp.ones(ids.shape, bool)
    return attention_mask.astype(bool)[:, None, None, :]


class LogitsKernel(nn.Module):
    """The matrix `[features, vocabulary]` of a head that is not tied to the embedding."""

    shape: tuple[int, int]
    stddev: float  # Of its initial values.

    @nn.compact
    def __call__(self) -> jax.Array:
        init = nn.initializers.normal(self.stddev)
        return self.param("kernel", init, self.shape, jnp.float32)


def logits_of(h: jax.Array, kernel: jax.Array, dtype: Any) -> jax.Array:
    """The logits h · kernel: the kernel in `dtype` (None: its own), sums in float32 or wider."""
    kernel = kernel.astype(dtype or kernel.dtype)
    return jnp.einsum("btd,dv->btv", h, kernel, preferred_element_type=wide(h.dtype))
