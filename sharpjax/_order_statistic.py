"""The magnitude of a given rank in a list of arrays: exact, without a sort, sharded or not.

The magnitudes of floats order like their bit patterns, so it is found by fixing its bits from the
top, two a pass: a pass counts how many magnitudes reach each of three pivots. It is one reduction
that fuses and needs no memory, and over sharded arrays it ends in one all-reduce of nine integers a
leaf (one for each way that leaves are split). Float32 takes 16 passes whatever the distribution,
16-bit floats 8, float64 32.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

Wide = tuple[jax.Array, jax.Array]  # An unsigned 64-bit integer: high and low uint32 words.

UINT = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}  # By the bytes of a float.

# Keys ---------------------------------------------------------------------------------------------


def common_dtype(leaves: Sequence[jax.Array]) -> Any:
    """The float dtype that holds every leaf, and so the one in which they are compared."""
    return jnp.result_type(*(leaf.dtype for leaf in leaves)) if leaves else jnp.dtype(jnp.float32)


def keys_of(x: jax.Array, dtype: Any) -> jax.Array:
    """The bits without the sign, which order like the magnitude."""
    uint = UINT[dtype.itemsize]
    return lax.bitcast_convert_type(x.astype(dtype), uint) & uint(jnp.iinfo(uint).max >> 1)


# The search ---------------------------------------------------------------------------------------


def threshold_keys(groups: Sequence[Sequence[jax.Array]], fraction: Any) -> list[jax.Array]:
    """The threshold's key for each group of leaves; groups of one dtype share their passes."""
    dtypes = [common_dtype(group) for group in groups]
    sizes = [sum(leaf.size for leaf in group) for group in groups]
    # Nothing to rank: infinity's key.
    keys = [keys_of(jnp.asarray(jnp.inf, dtype), dtype) for dtype in dtypes]
    for dtype in dict.fromkeys(dtypes):
        which = [i for i, n in enumerate(sizes) if n and dtypes[i] == dtype]
        if which:
            ranks = [_rank(sizes[i], fraction) for i in which]
            words = jnp.stack([r[0] for r in ranks]), jnp.stack([r[1] for r in ranks])
            found = _search([groups[i] for i in which], words, dtype)
            for j, i in enumerate(which):
                keys[i] = found[j]
    return keys


@partial(jax.jit, static_argnames="dtype")  # So that calls outside of jit compile once.
def _search(groups: Sequence[Sequence[jax.Array]], ranks: Wide, dtype: Any) -> jax.Array:
    """Largest key per group that more than `rank` keys reach, two bits a pass from the top.

    Four-way splits were as fast as more pivots (more work per element) and as interpolation in
    rank (fewer passes, but dependent on the distribution): a pass is bound by memory.
    """
    uint = UINT[dtype.itemsize]
    leaves = [lax.stop_gradient(x) for group in groups for x in group if x.size]
    group_of = np.array([i for i, group in enumerate(groups) for x in group if x.size])
    last = 8 * dtype.itemsize - 2

    def fix_two_bits(i, prefix):
        # Tied to the carry, or XLA hoists the keys out of the loop and stores them: a copy.
        xs, prefix = lax.optimization_barrier((leaves, prefix))
        shift = (last - 2 * i).astype(uint)
        pivots = prefix[:, None] + (jnp.arange(1, 4, dtype=uint)[None, :] << shift)
        by_leaf = _limbs(_count([keys_of(x, dtype) for x in xs], pivots[group_of]))
        by_group = jnp.zeros((3, *pivots.shape), jnp.uint32).at[:, group_of].add(by_leaf)
        above = _greater(_join(by_group), (ranks[0][:, None], ranks[1][:, None]))
        return prefix + (jnp.sum(above, axis=1, dtype=uint) << shift)

    # Zeros that vary over the mesh axes that leaves vary over, as `shard_map` wants of a carry.
    start = sum(lax.full_like(x, 0, uint, (len(groups),)) for x in leaves)
    return lax.fori_loop(0, last // 2 + 1, fix_two_bits, start)


# Counting -----------------------------------------------------------------------------------------


def _count_here(leaves: list[jax.Array], pivots: jax.Array) -> Wide:
    """How many keys of each leaf reach each of its pivots: [leaves, 3] from [leaves, 3]."""
    counts = [_count_leaf(x, row, 2**31) for x, row in zip(leaves, pivots, strict=True)]
    return jnp.stack([high for high, _ in counts]), jnp.stack([low for _, low in counts])


def _count_leaf(x: jax.Array, pivots: jax.Array, limit: int) -> Wide:
    if x.size > limit:  # More than a word counts: halve. A slice fuses, so nothing is copied.
        axis = max(range(x.ndim), key=lambda i: x.shape[i])
        parts = jnp.array_split(x, 2, axis)
        return _add(*(_count_leaf(part, pivots, limit) for part in parts))
    # One reduction of three operands: XLA:CPU splits single sums into trees that store what they
    # sum, which is ten times slower.
    low = lax.reduce(
        tuple((x >= pivot).astype(jnp.uint32) for pivot in pivots),
        (jnp.uint32(0),) * 3,
        lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
        tuple(range(x.ndim)),
    )
    return jnp.zeros(3, jnp.uint32), jnp.stack(low)


def _partition_count(mesh: Any, args: Any, _: Any) -> Any:
    """Each device counts what it holds; leaves that are split alike share one all-reduce."""
    shardings = [leaf.sharding for leaf in args[0]]
    alike = {}
    for i, sharding in enumerate(shardings):
        parts = (part if isinstance(part, tuple) else (part,) for part in sharding.spec if part)
        alike.setdefault(frozenset(axis for part in parts for axis in part), []).append(i)

    def count(leaves, pivots):
        limbs = _limbs(_count_here(leaves, pivots))
        for axes, which in alike.items():
            if axes:
                which = np.array(which)
                limbs = limbs.at[:, which].set(lax.psum(limbs[:, which], tuple(sorted(axes))))
        return _join(limbs)

    whole = NamedSharding(mesh, PartitionSpec())
    return mesh, count, (whole, whole), (shardings, whole)


def _sharding_rule(_: Any, operands: Any, __: Any) -> str:
    """Einsum-like: every dimension of every leaf may be split; pivots and counts are whole."""
    ranks = [len(leaf.shape) for leaf in operands[:-1]]
    leaves = [" ".join(f"d{i}_{j}" for j in range(rank)) for i, rank in enumerate(ranks)]
    return ", ".join([*leaves, "g p"]) + " -> g p, g p"


_count_sharded = custom_partitioning(_count_here)
_count_sharded.def_partition(
    partition=_partition_count,
    infer_sharding_from_operands=lambda mesh, *_: (NamedSharding(mesh, PartitionSpec()),) * 2,
    sharding_rule=_sharding_rule,
)


@jax.custom_batching.custom_vmap
def _count(leaves: list[jax.Array], pivots: jax.Array) -> Wide:
    # Partitioned by our rule: XLA's own would all-gather each leaf's counts.
    return _count_sharded(leaves, pivots)


@_count.def_vmap
def _count_batched(_: int, batched: Any, leaves: Any, pivots: Any) -> Any:
    axes = jax.tree.map(lambda b: 0 if b else None, batched)
    return jax.vmap(_count_here, in_axes=tuple(axes))(leaves, pivots), (True, True)


# Ranks --------------------------------------------------------------------------------------------


def _rank(n: int, fraction: Any) -> Wide:
    """min(⌊n·fraction⌋, n-1), rounded as `top_fraction_threshold` says."""
    if isinstance(fraction, int | float | np.integer):
        return _wide(min(int(np.floor(n * float(fraction))), n - 1))
    if jnp.result_type(fraction) == jnp.float64:
        rank = (n * jnp.clip(jnp.nan_to_num(fraction), 0, 1)).astype(jnp.uint64)
        rank = (rank >> 32).astype(jnp.uint32), rank.astype(jnp.uint32)
    else:
        rank = _rank_float32(n, jnp.asarray(fraction, jnp.float32))
    return _min(rank, _wide(n - 1))


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
    high, low = _wide(n)
    up = jnp.arange(1, -1, -1, dtype=jnp.uint32)  # The first is rounded up, the second down.

    def step(i, product):
        bit = (m >> i.astype(jnp.uint32)) & 1
        product = _add(product, (bit * high, bit * low))
        return _halve(_add(product, (jnp.zeros_like(up), up)))

    steps = 151 - exponent.astype(jnp.int32)
    product = lax.fori_loop(0, steps, step, (jnp.zeros_like(up), jnp.zeros_like(up)))
    below = _min((product[0][0], product[1][0]), (product[0][1], product[1][1]))
    whole = fraction >= 1
    return jnp.where(whole, high, below[0]), jnp.where(whole, low, below[1])


# Unsigned 64-bit integers as two words, since users run without 64-bit types ----------------------


def _wide(n: int) -> Wide:
    return jnp.uint32(n >> 32), jnp.uint32(n & 0xFFFFFFFF)


def _add(a: Wide, b: Wide) -> Wide:
    low = a[1] + b[1]
    return a[0] + b[0] + (low < a[1]).astype(jnp.uint32), low


def _halve(a: Wide) -> Wide:
    return a[0] >> 1, (a[1] >> 1) | (a[0] << 31)


def _greater(a: Wide, b: Wide) -> jax.Array:
    return (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] > b[1]))


def _min(a: Wide, b: Wide) -> Wide:
    swap = _greater(a, b)
    return jnp.where(swap, b[0], a[0]), jnp.where(swap, b[1], a[1])


def _limbs(a: Wide) -> jax.Array:
    """[3, ...] words that 2^16 devices can sum without carry: high word, 16 bits, 16 bits."""
    return jnp.stack([a[0], a[1] >> 16, a[1] & 0xFFFF])


def _join(limbs: jax.Array) -> Wide:
    return _add((limbs[0] + (limbs[1] >> 16), limbs[1] << 16), (jnp.zeros_like(limbs[2]), limbs[2]))
