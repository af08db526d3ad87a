"""The magnitude of a given rank in a list of arrays: exact, in few passes, sharded or not.

The magnitudes of floats order like their bit patterns, their keys, so the search is for an integer.
A pass counts how many keys reach each of three pivots, and finds the least key that does; it is one
reduction that fuses and needs no memory. The first pivots come from a small sorted sample, the next
from interpolation between the counts at both ends of the bracket that is left. Only counts decide,
so that a sample or a distribution that misleads costs passes, never exactness: a bracket that is
behind the schedule of two bits a pass is cut in four. Float32 takes about four passes on smooth
distributions, rarely more than six, and never more than 18; 16-bit floats at most 10, float64 34.

Everything is plain reductions. Where a mesh partitions the leaves, each device reduces what it
holds, and XLA merges the all-reduces of a pass.
"""

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from sharpjax._wide import Wide, add, greater, join, limbs, rank_of, subtract, to_float, wide

UINT = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}  # By the bytes of a float.
SAMPLE = 2**16  # Magnitudes at most that are sorted to choose the first pivots.
# Leaves up to here are copied into one: a kernel less to compile for each.
_SMALL = 2**14
# On one accelerator, up to here: a launch of each kernel in each pass costs more than the copy. On
# an H100, clipping t5-small's 131 tensors took five milliseconds, and one array as large one.
_SMALL_FOR_LAUNCHES = 2**22
_WORD = 2**31  # A uint32 counts at least as many.

# Keys ---------------------------------------------------------------------------------------------


def common_dtype(leaves: Sequence[jax.Array]) -> Any:
    """The float dtype that holds every leaf, and so the one in which they are compared."""
    return jnp.result_type(*(leaf.dtype for leaf in leaves)) if leaves else jnp.dtype(jnp.float32)


def keys_of(x: jax.Array, dtype: Any) -> jax.Array:
    """The bits without the sign, which order like the magnitude."""
    uint = UINT[dtype.itemsize]
    return lax.bitcast_convert_type(x.astype(dtype), uint) & _largest(uint)


def _largest(uint: Any) -> Any:
    """The largest key; as a signed integer too, which is what some backends compare."""
    return np.array(jnp.iinfo(uint).max >> 1, uint)


# The search ---------------------------------------------------------------------------------------


def threshold_keys(
    groups: Sequence[Sequence[jax.Array]], fraction: Any, axis_name: Hashable = None
) -> list[jax.Array]:
    """The threshold's key for each group of leaves; groups of one dtype share their passes."""
    dtypes = [common_dtype(group) for group in groups]
    groups = [[x for x in group if x.size] for group in groups]
    keys: list[Any] = [None] * len(groups)
    for dtype in dict.fromkeys(dtypes):
        which = [i for i, group in enumerate(groups) if group and dtypes[i] == dtype]
        if which:
            found, _ = search([groups[i] for i in which], fraction, dtype, axis_name)
            for j, i in enumerate(which):
                keys[i] = found[j]
    # Nothing to rank: infinity's key.
    return [
        keys_of(jnp.asarray(jnp.inf, dtype), dtype) if key is None else key
        for key, dtype in zip(keys, dtypes, strict=True)
    ]


def search(
    groups: Sequence[Sequence[jax.Array]], fraction: Any, dtype: Any, axis_name: Hashable = None
) -> tuple[list[jax.Array], jax.Array]:
    """The key of each group's rank, and how many passes were needed; no group or leaf is empty."""
    sizes = [
        sum(
            x.size * int(np.prod([lax.axis_size(a) for a in over]))
            for x, over in zip(*pair, strict=True)
        )
        for pair in zip(groups, _axes(groups, axis_name), strict=True)
    ]
    rank = {n: rank_of(n, fraction) for n in dict.fromkeys(sizes)}
    each = np.array([list(rank).index(n) for n in sizes])
    on_host = all(isinstance(word, np.ndarray) for pair in rank.values() for word in pair)
    stack = np.stack if on_host else jnp.stack
    high, low = (stack(words)[each] for words in zip(*rank.values(), strict=True))
    return _search(groups, (high, low), sizes=tuple(sizes), dtype=dtype, axis_name=axis_name)


# Compiled once for calls outside of jit too.
@partial(jax.jit, static_argnames=("sizes", "dtype", "axis_name"))
def _search(groups: Any, ranks: Wide, *, sizes: Any, dtype: Any, axis_name: Any) -> Any:
    """The largest key per group that more than `rank` keys reach.

    A bracket [low, high) holds it: more than `rank` keys reach `low`, and no more reach `high`.
    """
    uint, bits = UINT[dtype.itemsize], 8 * dtype.itemsize
    groups = lax.stop_gradient(groups)
    if axis_name is None:
        leaves, owners = _merged(groups, dtype)
    else:
        leaves = [x for group in groups for x in group]
        owners = [np.array([i]) for i, group in enumerate(groups) for _ in group]
    axes = _axes([leaves], axis_name)[0]
    first = _sampled_pivots(leaves, owners, axes, ranks, sizes, dtype)

    def narrow(state):
        i, low, high, at_low, at_high, spread, pivots = state
        # Tied to the carry, or XLA hoists the keys out of the loop and stores them: a copy.
        xs = [lax.optimization_barrier((x, low))[0] for x in leaves]
        counts, least = _count(xs, owners, axes, pivots, dtype)
        reached = greater(counts, (ranks[0][:, None], ranks[1][:, None]))
        j = jnp.sum(reached, axis=1, dtype=jnp.int32)[:, None]
        pick = lambda *columns: jnp.take_along_axis(  # noqa: E731
            jnp.concatenate([c if c.ndim > 1 else c[:, None] for c in columns], axis=1), j, axis=1
        )[:, 0]
        low, high = pick(low, least), pick(pivots, high)
        at_high = pick(counts[0], at_high[0]), pick(counts[1], at_high[1])
        at_low = pick(at_low[0], counts[0]), pick(at_low[1], counts[1])
        # Exactly `rank` + 1 keys reach the least of them: that one it is.
        over = subtract(at_low, ranks)
        high = jnp.where((over[0] == 0) & (over[1] == 1), low + uint(1), high)
        # A miss on either side: the density is not level, and the next pivots are set wider.
        missed = (j[:, 0] == 0) | (j[:, 0] == 3)
        spread = jnp.where(missed, 8 * spread, 1.0)

        # The next pivots are carried: otherwise XLA computes them anew for every leaf.
        i, width = i + 1, high - low
        ahead = bits - lax.clz(width - uint(1)).astype(jnp.int32) + 2 * i <= bits + 1
        guess = _interpolated(width, at_low, at_high, ranks, spread)
        quarter = (width + uint(3)) // uint(4)
        quarters = quarter[:, None] * jnp.arange(1, 4, dtype=uint)[None]
        pivots = low[:, None] + jnp.where(ahead[:, None], guess, quarters)
        return i, low, high, at_low, at_high, spread, _inside(pivots, low, high)

    # Zeros that vary over the mesh axes that leaves vary over, as `shard_map` wants of a carry.
    zeros = jnp.asarray(
        sum(
            _total(lax.full_like(x, 0, uint, (len(groups),)), a, lax.psum)
            for x, a in zip(leaves, axes, strict=True)
        )
    )
    word = zeros.astype(jnp.uint32)
    low, high = zeros, zeros + uint(1 << (bits - 1))
    start = (
        jnp.int32(0) + word[0].astype(jnp.int32),
        low,
        high,
        tuple(word + part for part in wide(sizes)),
        (word, word),
        word + jnp.float32(1),
        _inside(first, low, high),
    )
    passes, low, *_ = lax.while_loop(lambda s: jnp.any(s[2] - s[1] > 1), narrow, start)
    return [_row(low, i) for i in range(len(sizes))], passes


def _inside(pivots: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
    """Pivots between the ends of the brackets."""
    one_up = (low + low.dtype.type(1))[:, None]
    return jnp.clip(pivots, one_up, jnp.maximum(high[:, None] - low.dtype.type(1), one_up))


def _interpolated(width: Any, at_low: Wide, at_high: Wide, ranks: Wide, spread: Any) -> jax.Array:
    """Where the key lies in a bracket of even density, and on both sides of it: [groups, 3].

    The n keys of the bracket, the lowest of which is its end, are order statistics: the one that
    k reach is expected at 1 - k/n of the width, with a deviation of at most √(t(1-t)/n).
    """
    uint = width.dtype.type
    n = to_float(subtract(at_low, at_high))
    t = jnp.maximum(to_float(subtract(at_low, ranks)) - 1.5, 0.5) / n
    half = spread * (1.5 * jnp.sqrt(t * (1 - t) / n) + 1 / 256)
    at = jnp.clip(jnp.stack([t - half, t, t + half], axis=1), 0, 1)
    offsets = (at * width.astype(jnp.float32)[:, None]).astype(uint)
    middle = jnp.clip(offsets[:, 1], uint(1), jnp.maximum(width, uint(2)) - uint(1))
    return jnp.stack(
        [jnp.minimum(offsets[:, 0], middle - uint(1)), middle,
         jnp.maximum(offsets[:, 2], middle + uint(1))], axis=1
    )  # fmt: skip


def _sampled_pivots(
    leaves: Any, owners: Any, axes: Any, ranks: Wide, sizes: Any, dtype: Any
) -> jax.Array:
    """The ranks in a sample, and 2.5 deviations to both sides of them: [groups, 3]."""
    stride = stride_of(sum(sizes))
    lengths = [x.size // len(own) for x, own in zip(leaves, owners, strict=True)]
    row = np.repeat(lengths, [len(own) for own in owners])
    mean = np.bincount(np.concatenate(owners), row) / np.bincount(np.concatenate(owners))
    sample, whose = [], []
    for x, own, length, over in zip(leaves, owners, lengths, axes, strict=True):
        if np.any(1024 * length >= mean[own]):  # Others hardly count.
            sample.append(_across(_strided(keys_of(x, dtype), len(own), stride), over))
            whose.append(np.repeat(own, sample[-1].size // len(own)))
    keys, group_of = jnp.concatenate(sample), np.concatenate(whose)
    counts = np.bincount(group_of)
    group_of = lax.full_like(keys, 0, jnp.int32) + group_of.astype(np.int32)
    _, keys = lax.sort((group_of, keys), num_keys=2) if len(sizes) > 1 else (None, lax.sort(keys))
    n, count = np.array(sizes, np.float32), counts.astype(np.float32)
    share = to_float(ranks) / n
    deviation = 2.5 * jnp.sqrt(jnp.maximum(count * share * (1 - share), 1)) + 1
    above = (count * share)[:, None] + deviation[:, None] * jnp.float32([[1, 0, -1]])
    last = counts - 1
    from_below = jnp.clip(last[:, None] - above.astype(jnp.int32), 0, last[:, None])
    pivots = keys[(np.cumsum(counts) - counts)[:, None] + from_below]
    # One above where they tie: if the rank lies in the tie, that is the end.
    return pivots.at[:, 2].max(pivots[:, 1] + pivots.dtype.type(1))


def stride_of(n: int) -> int:
    """Of n values, each how many-th is in the sample.

    Sorting a value costs as much as a hundred passes over it: of few values, a part is enough. Odd,
    so that it meets every column of a matrix whose width is a power of two.
    """
    return max(n // SAMPLE, min(n // 2**12, 16)) | 1


def _strided(x: jax.Array, rows: int, stride: int) -> jax.Array:
    """Every `stride`-th element of each row, without moving the others of a partitioned array."""
    mesh = partitioning(x)
    if mesh is None or x.ndim == 0:  # A scalar lies whole on every device.
        return x.reshape(rows, -1)[:, ::stride].reshape(-1)
    # A gather at given places: each device looks up its own, and one all-reduce of the sample
    # joins them, where a slice would gather the array.
    at = np.unravel_index(np.arange(0, x.size, stride), x.shape)
    return x.at[at].get(out_sharding=NamedSharding(mesh, PartitionSpec(None)))


# Counting -----------------------------------------------------------------------------------------


def _count(leaves: Any, owners: Any, axes: Any, pivots: jax.Array, dtype: Any) -> Any:
    """How many keys of each group reach each of its pivots, and the least: [groups, 3]."""
    count = partial(_count_leaf, dtype=dtype, limit=_WORD)
    found = [
        jax.vmap(count)(x, pivots[own])
        if len(own) > 1
        else jax.tree.map(lambda y: y[None], count(x, _row(pivots, own[0])))
        for x, own in zip(leaves, owners, strict=True)
    ]
    zeros = jnp.zeros(pivots.shape, jnp.uint32)
    counts: Wide = zeros, zeros
    least = none = jnp.full(pivots.shape, _largest(pivots.dtype))
    for over in dict.fromkeys(axes):
        which = [i for i, a in enumerate(axes) if a == over]
        groups = np.concatenate([owners[i] for i in which])
        (high, low), keys = jax.tree.map(lambda *x: jnp.concatenate(x), *(found[i] for i in which))
        by_group = jnp.zeros((3, *pivots.shape), jnp.uint32).at[:, groups].add(limbs((high, low)))
        counts = add(counts, join(_total(limbs(join(by_group)), over, lax.psum)))
        least = jnp.minimum(least, _total(none.at[groups].min(keys), over, lax.pmin))
    return counts, least


@partial(jax.jit, static_argnames=("dtype", "limit"))  # Traced once for each shape.
def _count_leaf(x: jax.Array, pivots: jax.Array, *, dtype: Any, limit: int) -> tuple[Wide, Any]:
    """How many keys of one leaf reach each of three pivots, and the least that does."""
    axes, kept = [], x.size
    for axis in sorted(range(x.ndim), key=lambda axis: x.shape[axis]):
        if x.size // kept * x.shape[axis] <= limit:  # More than a word counts: keep an axis.
            axes.append(axis)
            kept //= x.shape[axis]
    if x.size > limit and not axes:  # A single long axis: halve it. A slice fuses, without a copy.
        (a, p), (b, q) = (
            _count_leaf(part, pivots, dtype=dtype, limit=limit) for part in jnp.array_split(x, 2)
        )
        return add(a, b), jnp.minimum(p, q)
    keys = keys_of(x, dtype)
    none = _largest(keys.dtype)
    reached = [keys >= pivot for pivot in pivots]
    ones = [r.astype(jnp.uint32) for r in reached]
    candidates = [jnp.where(r, keys, none) for r in reached]
    if partitioning(x) is None:
        # One reduction of six operands: XLA:CPU splits single sums into trees that store what they
        # sum, which is ten times slower.
        out = lax.reduce(
            (*ones, *candidates),
            (jnp.uint32(0),) * 3 + (none,) * 3,
            lambda a, b: (
                *(x + y for x, y in zip(a[:3], b[:3], strict=True)),
                *(jnp.minimum(x, y) for x, y in zip(a[3:], b[3:], strict=True)),
            ),
            axes,
        )
    else:  # XLA merges the all-reduces of single reductions, and gathers those of several operands.
        out = [jnp.sum(x, axes, dtype=jnp.uint32) for x in ones] + [
            jnp.min(x, axes) for x in candidates
        ]
    low, least = jnp.stack(out[:3]), jnp.stack(out[3:])
    if kept == 1:
        low, least = low.reshape(3), least.reshape(3)
        return (jnp.zeros_like(low), low), least
    rest = tuple(range(1, low.ndim))
    zero = jnp.zeros(3, jnp.uint32)
    middle = jnp.sum(low >> 16, rest, dtype=jnp.uint32)
    bottom = jnp.sum(low & 0xFFFF, rest, dtype=jnp.uint32)
    return join(jnp.stack([zero, middle, bottom])), jnp.min(least, rest)


def _row(x: jax.Array, i: int) -> jax.Array:
    """x[i], as a masked sum, so that leaves of one shape share a compiled kernel.

    XLA:CPU compiles equal kernels once. Where a slice begins is a constant inside of its kernel, so
    that each leaf's is another; a mask is an argument.
    """
    if len(x) == 1:
        return x[0]
    mask = (np.arange(len(x)) == i).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.sum(jnp.where(mask, x, x.dtype.type(0)), axis=0, dtype=x.dtype)


def _merged(groups: Sequence[Sequence[jax.Array]], dtype: Any) -> tuple[list[jax.Array], list]:
    """The leaves with the small ones joined, and for each leaf the groups that its rows belong to.

    A kernel for each small leaf would be slow. With one group they become one leaf; with many,
    those of one size become the rows of a leaf. Every other leaf is one row, and so is each that a
    mesh splits.
    """
    leaves, owners, small = [], [], {}
    alone = jax.default_backend() != "cpu" and jax.device_count() == 1
    most = _SMALL_FOR_LAUNCHES if alone else _SMALL
    for i, group in enumerate(groups):
        for x in group:
            if x.size <= most and x.dtype == dtype and not partitioning(x):
                small.setdefault(x.size if len(groups) > 1 else 0, []).append((i, x.reshape(-1)))
            else:
                leaves.append(x)
                owners.append(np.array([i]))
    for several in small.values():
        own, xs = zip(*several, strict=True)
        owners.append(np.array(own if len(groups) > 1 else [0]))
        leaves.append(jnp.concatenate(xs).reshape(len(owners[-1]), -1))
    return leaves, owners


# Meshes -------------------------------------------------------------------------------------------


def partitioning(x: jax.Array) -> Any:
    """The mesh over which XLA may have split an array, None where it is whole or a shard."""
    for mesh in (jax.typeof(x).sharding.mesh, jax.sharding.get_abstract_mesh()):
        types = zip(mesh.axis_sizes, mesh.axis_types, strict=True) if not mesh.empty else ()
        # Types of Explicit axes say how an array is split even over one device.
        if any(
            kind == AxisType.Explicit or (size > 1 and kind == AxisType.Auto)
            for size, kind in types
        ):
            return mesh
    return None


def _axes(groups: Any, axis_name: Any) -> list[list[tuple[Hashable, ...]]]:
    """Over which of the named axes each leaf is split: all, unless types say that it is whole."""
    names = () if axis_name is None else axis_name if isinstance(axis_name, tuple) else (axis_name,)
    varying = [[_varying(x) for x in group] for group in groups]
    known = any(over for group in varying for over in group)
    return [
        [tuple(n for n in names if not known or n in over) for over in group] for group in varying
    ]


def _varying(x: jax.Array) -> frozenset:
    """The manual mesh axes over which an array is known to differ."""
    kind = jax.typeof(x)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(kind.manual_axis_type.varying)
    return getattr(kind, "vma", frozenset())  # JAX before 0.10.


def _total(x: jax.Array, axes: tuple[Hashable, ...], collective: Any) -> jax.Array:
    return collective(x, axes) if axes else x


def _across(x: jax.Array, axes: tuple[Hashable, ...]) -> jax.Array:
    """The shards' samples one after another, by a sum: what a gather gives, known to be equal."""
    if not axes:
        return x
    shards = int(np.prod([lax.axis_size(a) for a in axes]))
    mine = jnp.zeros((shards, x.size), x.dtype).at[lax.axis_index(axes)].set(x)
    return lax.psum(mine, axes).reshape(-1)
