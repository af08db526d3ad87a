"""Unsigned 64-bit integers as two words, since users run without 64-bit types.

And ranks, ⌊n·fraction⌋, in them.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

Wide = tuple[Any, Any]  # High and low uint32 words, NumPy's or JAX's.


def wide(n: ArrayLike) -> Wide:
    """On the host: outside of `jit`, each operation on an array is a launch."""
    words = np.asarray(n, np.uint64)
    high, low = words >> np.uint64(32), words & np.uint64(0xFFFFFFFF)
    return np.asarray(high, np.uint32), np.asarray(low, np.uint32)


def add(a: Wide, b: Wide) -> Wide:
    low = a[1] + b[1]
    return a[0] + b[0] + (low < a[1]).astype(jnp.uint32), low


def halve(a: Wide) -> Wide:
    return a[0] >> 1, (a[1] >> 1) | (a[0] << 31)


def greater(a: Wide, b: Wide) -> jax.Array:
    return (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] > b[1]))


def minimum(a: Wide, b: Wide) -> Wide:
    swap = greater(a, b)
    return jnp.where(swap, b[0], a[0]), jnp.where(swap, b[1], a[1])


def limbs(a: Wide) -> jax.Array:
    """[3, ...] words that 2^16 devices can sum without carry: high word, 16 bits, 16 bits."""
    return jnp.stack([a[0], a[1] >> 16, a[1] & 0xFFFF])


def join(limbs: jax.Array) -> Wide:
    return add((limbs[0] + (limbs[1] >> 16), limbs[1] << 16), (jnp.zeros_like(limbs[2]), limbs[2]))


def subtract(a: Wide, b: Wide) -> Wide:
    """The difference, for a ≥ b."""
    return a[0] - b[0] - (a[1] < b[1]).astype(jnp.uint32), a[1] - b[1]


def to_float(a: Wide) -> jax.Array:
    """Rounded to float32."""
    return a[0].astype(jnp.float32) * 2.0**32 + a[1].astype(jnp.float32)


# Ranks --------------------------------------------------------------------------------------------


def rank_of(n: int, fraction: Any) -> Wide:
    """min(⌊n·fraction⌋, n-1), rounded as `top_fraction_threshold` says."""
    if isinstance(fraction, int | float | np.integer):
        return wide(min(int(np.floor(n * float(fraction))), n - 1))
    if jnp.result_type(fraction) == jnp.float64:
        rank = (n * jnp.clip(jnp.nan_to_num(fraction), 0, 1)).astype(jnp.uint64)
        rank = (rank >> 32).astype(jnp.uint32), rank.astype(jnp.uint32)
    else:
        rank = _rank_float32(n, jnp.asarray(fraction, jnp.float32))
    return minimum(rank, wide(n - 1))


@partial(jax.jit, static_argnames="n")
def _rank_float32(n: int, fraction: jax.Array) -> Wide:
    """min(⌈n·f⌉, ⌊n·(f + half an ulp)⌋) for f in [0, 1), exactly; n for f ≥ 1; 0 for NaN.

    With f = m·2^-s: ⌊(b + x)/2⌋ = ⌊(b + ⌊x⌋)/2⌋ for integers b, and so for ⌈⌉, so that adding n
    where m has a bit, and halving, s times from the lowest bit up, never exceeds 2n.
    """
    bits = lax.bitcast_convert_type(jnp.where(fraction > 0, fraction, 0), jnp.uint32)
    exponent = jnp.maximum(bits >> 23, 1)
    mantissa = (bits & 0x7FFFFF) | jnp.where(bits >> 23 > 0, jnp.uint32(0x800000), 0)
    m = 2 * mantissa + jnp.arange(2, dtype=jnp.uint32)  # Of f, and of f + half an ulp.
    high, low = wide(n)
    up = jnp.arange(1, -1, -1, dtype=jnp.uint32)  # The first is rounded up, the second down.

    def step(i, product):
        bit = (m >> i.astype(jnp.uint32)) & 1
        product = add(product, (bit * high, bit * low))
        return halve(add(product, (jnp.zeros_like(up), up)))

    steps = 151 - exponent.astype(jnp.int32)
    product = lax.fori_loop(0, steps, step, (jnp.zeros_like(up), jnp.zeros_like(up)))
    below = minimum((product[0][0], product[1][0]), (product[0][1], product[1][1]))
    whole = fraction >= 1
    return jnp.where(whole, high, below[0]), jnp.where(whole, low, below[1])
