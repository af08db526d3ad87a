r"""Coordinate-wise clipping at an exact order statistic of the gradient's magnitudes.

The magnitudes of floats order like their bit patterns, so the threshold is found by fixing its
bits from the top, two a pass: a pass counts how many magnitudes reach each of three pivots. It is
one reduction that fuses and needs no memory, and over sharded arrays it ends in one all-reduce of
nine integers a leaf (one for each way that leaves are split). Float32 takes 16 passes whatever the
distribution, 16-bit floats 8, float64 32.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from sharpjax._checks import check_choice, check_in_range

Scope = Literal["global", "tensor"]
Wide = tuple[jax.Array, jax.Array]  # An unsigned 64-bit integer: high and low uint32 words.

_UINT = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def coord_clip(fraction: Any, *, scope: Scope = "global") -> optax.GradientTransformation:
    r"""Clip the largest coordinates to the magnitude that a fraction of them exceeds.

    With $n$ coordinates, $r = \lfloor n \cdot \text{fraction} \rfloor$ and $\tau$ the magnitude of
    rank $\min(r, n-1)$, counted from 0 in descending order,

    $$ \hat g_i = \operatorname{sgn}(g_i) \min(|g_i|, \tau), $$

    so that at most $r$ coordinates change. Fraction 0 is the identity; at fraction 1, $\tau$ is the
    smallest magnitude. See `top_fraction_threshold` for exactness, special values and cost.

    A fixed $\tau$ is already `optax.clip`. Chained before an adaptive optimizer this clips what the
    optimizer's statistics see, and the scaling partly cancels it; the paper's clipped adaptive
    methods clip the numerator only, which is `sharpjax.adam(..., clip=fraction)`.

    Args:
        fraction: A number in [0, 1], or a traced scalar, as from `optax.inject_hyperparams`, which
            is taken into [0, 1], NaN as 0.
        scope: "global" takes one $\tau$ over all tensors jointly, "tensor" one for each.

    Returns:
        A stateless transformation. Shapes, dtypes, signs, `None` and masked nodes are kept.

    Raises:
        TypeError: `fraction` is not a number, or a leaf of the updates is not a float.
        ValueError: `fraction` is outside [0, 1], or `scope` is unknown.

    Example:
        >>> import jax.numpy as jnp, optax, sharpjax
        >>> tx = optax.chain(sharpjax.coord_clip(0.25), optax.sgd(1.0))
        >>> grads = jnp.array([1.0, -8.0, 2.0, 3.0])
        >>> updates, _ = tx.update(grads, tx.init(grads))
        >>> updates.tolist()
        [-1.0, 3.0, -2.0, -3.0]

    References:
        The paper, section 4 and Appendix A.2; Pan & Li, https://arxiv.org/abs/2306.00204
    """
    _check_fraction(fraction)
    check_choice("scope", scope, ("global", "tensor"))
    return optax.stateless(lambda updates, _: clip_top_fraction(updates, fraction, scope=scope))


def clip_top_fraction(updates: Any, fraction: Any, *, scope: Scope = "global") -> Any:
    """Clip a pytree as `coord_clip` does: the function that the transformation applies.

    Costs the passes of `top_fraction_threshold` in either scope, and one that writes the result.
    Of float dtypes narrower than τ's, a leaf takes the largest number that is at most τ.
    """
    _check_fraction(fraction)
    check_choice("scope", scope, ("global", "tensor"))
    leaves, treedef = _float_leaves(updates)
    if isinstance(fraction, int | float | np.integer) and fraction == 0:
        return updates
    groups = [leaves] if scope == "global" else [[leaf] for leaf in leaves]
    keys = _threshold_keys(groups, fraction)
    clipped = [
        _saturate(leaf, key, _common_dtype(group))
        for group, key in zip(groups, keys, strict=True)
        for leaf in group
    ]
    return treedef.unflatten(clipped)


def top_fraction_threshold(tree: Any, fraction: Any) -> jax.Array:
    r"""The magnitude of rank $\min(\lfloor n \cdot \text{fraction} \rfloor, n-1)$, largest first.

    It is exactly one of the $n$ magnitudes of the tree, of any float dtypes in any mix, as a scalar
    of the dtype that holds them all; an empty tree has $\infty$, at which nothing is clipped. NaN
    ranks above infinity. Ranks are of bit patterns: denormals count and are kept exactly, even
    where the backend's arithmetic flushes them, as XLA does on CPU; only a float32 denormal that
    is widened beside float64 leaves may count as zero there.

    A Python number or a float64 rounds $n \cdot \text{fraction}$ in float64, as NumPy does. A
    narrower array, such as a schedule's float32, stands for the reals that round to it: the product
    is exact and taken up to the next integer where half a unit in its last place reaches that, so
    that float32 0.7 of 10 is 7.

    Cost: 16 reads of the tree in float32 (8 if all leaves are of one 16-bit dtype, 32 with
    float64), no sort, no copy, no temporary that grows with $n$. Sharded leaves stay where they
    are. Counts are exact below 2^63 coordinates, without 64-bit types.

    Raises:
        TypeError: `fraction` is not a number, or a leaf is not a 16-, 32- or 64-bit float.
        ValueError: `fraction` is outside [0, 1].

    Example:
        >>> import sharpjax
        >>> float(sharpjax.top_fraction_threshold({"w": [4.0, -1.0], "b": [-3.0, 2.0]}, 0.5))
        2.0
    """
    _check_fraction(fraction)
    leaves, _ = _float_leaves(tree)
    (key,) = _threshold_keys([leaves], fraction)
    return lax.bitcast_convert_type(key, _common_dtype(leaves))


# Validation ---------------------------------------------------------------------------------------


def _check_fraction(fraction: Any) -> None:
    if callable(fraction):
        raise TypeError(
            f"fraction must be a number in [0, 1], got {fraction!r}: "
            "optax.inject_hyperparams(coord_clip)(fraction=...) takes a schedule"
        )
    check_in_range("fraction", fraction, 0, 1)


def _float_leaves(tree: Any) -> tuple[list[jax.Array], Any]:
    paths, treedef = jax.tree.flatten_with_path(tree)
    for path, leaf in paths:
        dtype = jnp.result_type(leaf) if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize not in _UINT:
            name = jax.tree_util.keystr(path) or "the only leaf"
            raise TypeError(f"leaves must be 16-, 32- or 64-bit floats, got {dtype} at {name}")
    return [jnp.asarray(leaf) for _, leaf in paths], treedef


# Keys: a float's bits without the sign, which order like its magnitude ----------------------------


def _common_dtype(leaves: Sequence[jax.Array]) -> Any:
    return jnp.result_type(*(leaf.dtype for leaf in leaves)) if leaves else jnp.dtype(jnp.float32)


def _keys(x: jax.Array, dtype: Any) -> jax.Array:
    uint = _UINT[dtype.itemsize]
    return lax.bitcast_convert_type(x.astype(dtype), uint) & uint(jnp.iinfo(uint).max >> 1)


def _saturate(x: jax.Array, threshold: jax.Array, dtype: Any) -> jax.Array:
    """sgn(x)·min(|x|, τ) by bits, so that no backend flushes a denormal; NaN stays."""
    uint = _UINT[x.dtype.itemsize]
    limit = threshold
    if x.dtype != dtype:
        tau = lax.bitcast_convert_type(threshold, dtype).astype(x.dtype)
        rounded_up = _keys(tau, dtype) > threshold
        limit = lax.bitcast_convert_type(tau, uint) - rounded_up.astype(uint)
    sign = lax.bitcast_convert_type(x, uint) & uint(jnp.iinfo(uint).max // 2 + 1)
    over = (_keys(x, dtype) > threshold) & ~jnp.isnan(x)
    return jnp.where(over, lax.bitcast_convert_type(sign | limit, x.dtype), x)


# The search ---------------------------------------------------------------------------------------


def _threshold_keys(groups: Sequence[Sequence[jax.Array]], fraction: Any) -> list[jax.Array]:
    """The threshold's key for each group of leaves; groups of one dtype share their passes."""
    dtypes = [_common_dtype(group) for group in groups]
    sizes = [sum(leaf.size for leaf in group) for group in groups]
    # Nothing to rank: infinity's key.
    keys = [_keys(jnp.asarray(jnp.inf, dtype), dtype) for dtype in dtypes]
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
    uint = _UINT[dtype.itemsize]
    leaves = [lax.stop_gradient(x) for group in groups for x in group if x.size]
    group_of = np.array([i for i, group in enumerate(groups) for x in group if x.size])
    last = 8 * dtype.itemsize - 2

    def fix_two_bits(i, prefix):
        # Tied to the carry, or XLA hoists the keys out of the loop and stores them: a copy.
        xs, prefix = lax.optimization_barrier((leaves, prefix))
        shift = (last - 2 * i).astype(uint)
        pivots = prefix[:, None] + (jnp.arange(1, 4, dtype=uint)[None, :] << shift)
        by_leaf = _limbs(_count([_keys(x, dtype) for x in xs], pivots[group_of]))
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


def _limbs(a: Wide) -> jax.Array:
    """[3, ...] words that 2^16 devices can sum without carry: high word, 16 bits, 16 bits."""
    return jnp.stack([a[0], a[1] >> 16, a[1] & 0xFFFF])


def _join(limbs: jax.Array) -> Wide:
    return _add((limbs[0] + (limbs[1] >> 16), limbs[1] << 16), (jnp.zeros_like(limbs[2]), limbs[2]))


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


def _min(a: Wide, b: Wide) -> Wide:
    swap = _greater(a, b)
    return jnp.where(swap, b[0], a[0]), jnp.where(swap, b[1], a[1])


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
