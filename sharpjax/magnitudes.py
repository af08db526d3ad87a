"""How an update's magnitudes are spread: their histogram, and what its largest coordinates hold.

Nothing sorts or gathers a tree: all is counted where it lies. Only small ones are laid in a row.
"""

import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from sharpjax._checks import check_in_range, check_real_leaves, check_same_structure
from sharpjax._order_statistic import partitioning
from sharpjax.clipping import top_fraction_threshold
from sharpjax.objective import widen

# Edges that one pass over a leaf counts.
_TOGETHER = 8
# Trees up to here are copied into one leaf: the programs below are launched once for each leaf.
_SMALL = 2**20


def magnitude_histogram(tree: Any, edges: Any) -> np.ndarray:
    """How many coordinates have a magnitude below, between and above `edges`.

    Args:
        tree: Pytree of real floating-point arrays; each leaf has fewer than 2³² coordinates.
        edges: [B] finite numbers in ascending order.

    Returns:
        [B + 1] int64 counts on the host, of [0, e₀), [e₀, e₁), …, [e₍B₋₁₎, ∞]; NaN is in the last.
        Edges are compared in the type of each leaf, float32 at least.

    Raises:
        ValueError: edges that are not one ascending axis of finite numbers.
        TypeError: complex or integer leaves.

    Cost: ⌈B/8⌉ reads of the tree.

    Example:
        >>> import jax.numpy as jnp
        >>> from sharpjax.magnitudes import magnitude_histogram
        >>> magnitude_histogram(jnp.array([0.0, -0.5, 3.0, 100.0]), [0.1, 1.0]).tolist()
        [1, 1, 2]
    """
    check_real_leaves("tree", tree)
    edges = np.asarray(edges, np.float64)
    if edges.ndim != 1 or not (np.all(np.isfinite(edges)) and np.all(np.diff(edges) > 0)):
        raise ValueError(f"edges must be finite and ascending along one axis, got {edges!r}")
    leaves = _leaves(tree)
    size = sum(x.size for x in leaves)
    found = [_reaching(x, edges) for x in leaves]
    counts = [np.asarray(x, np.int64) for x in found]
    reaching = sum(counts, np.zeros(len(edges), np.int64))
    return -np.diff(np.concatenate([[size], reaching, [0]]))


def top_share(tree: Any, fraction: float) -> jax.Array:
    """The share of ‖tree‖² in its r = ⌊n·fraction⌋ largest coordinates. May be jitted.

    Args:
        tree: Pytree of real floating-point arrays, n < 2³² coordinates in all.
        fraction: A number in [0, 1].

    Returns:
        A scalar of [0, 1], in float32 or wider; NaN for a tree that is zero or not finite.

    Raises:
        ValueError: fraction outside [0, 1].
        TypeError: complex or integer leaves; a fraction that is not a number.

    Cost: that of `top_fraction_threshold`, and two reads of the tree.

    Example:
        >>> import jax.numpy as jnp
        >>> from sharpjax.magnitudes import top_share
        >>> float(top_share(jnp.array([1.0, -1.0, 1.0, 1.0, 2.0, 0.0, 0.0, 0.0]), 0.125))
        0.5
    """
    _check_fraction(fraction)
    check_real_leaves("tree", tree)
    leaves = _leaves(tree)
    threshold = top_fraction_threshold(leaves, float(fraction))
    largest, sound = _largest(leaves)  # Relative to it, squares do not vanish.
    scale = jnp.where(sound, largest, 1)
    squares = [_squares(x, threshold, scale) for x in leaves]
    return _share(squares, threshold, scale, sound, _wanted(leaves, float(fraction)))


def top_overlap(updates: Mapping[str, Any], fraction: float) -> jax.Array:
    """How many of their r = ⌊n·fraction⌋ largest coordinates two updates share, |A ∩ B|/r.

    1 where both move the same coordinates most; `fraction` is what chance would give. Of
    coordinates of one magnitude, those that come first in the tree count as larger, so that exactly
    r are taken: signs overlap fully. May be jitted.

    Args:
        updates: Name -> pytree of real floating-point arrays, all alike, n < 2³² coordinates.
        fraction: A number in [0, 1].

    Returns:
        [K, K] float32, symmetric, in the order of `updates`. NaN if r is 0, and in rows and columns
        of updates that are zero or not finite.

    Raises:
        ValueError: no updates; updates of different structure or shape; fraction outside [0, 1].
        TypeError: complex or integer leaves; a fraction that is not a number.

    Cost: for each update that of `top_fraction_threshold` (and 32 reads more where magnitudes tie
    at the threshold), and for each pair one read of both. No memory beside the updates.

    Example:
        >>> import jax.numpy as jnp
        >>> from sharpjax.magnitudes import top_overlap
        >>> updates = {"a": jnp.array([4.0, -3.0, 2.0, 1.0]), "b": jnp.array([9.0, 1.0, 8.0, 2.0])}
        >>> top_overlap(updates, 0.5).tolist()
        [[1.0, 0.5], [0.5, 1.0]]
    """
    _check_fraction(fraction)
    if not updates:
        raise ValueError(f"updates must name at least one update, got {updates!r}")
    first = next(iter(updates))
    for name, update in updates.items():
        check_real_leaves(f"updates[{name!r}]", update)
        check_same_structure(f"updates[{name!r}]", update, f"updates[{first!r}]", updates[first])
    trees = [_leaves(update) for update in updates.values()]
    wanted = _wanted(trees[0], float(fraction))
    tops = [_top(x, float(fraction), wanted) for x in trees]
    pairs = itertools.combinations(zip(trees, tops, strict=True), 2)
    counts = [_common(ours, theirs) for ours, theirs in pairs]
    return _table(counts, [top.sound for top in tops], wanted)


def _check_fraction(fraction) -> None:
    if isinstance(fraction, Tracer) or callable(fraction):
        raise TypeError(f"fraction must be a number in [0, 1], got {fraction!r}")
    check_in_range("fraction", fraction, 0.0, 1.0)


# Programs are of one leaf: they serve all leaves of its shape, of any number of trees.
@jax.jit
def _reaching(x, edges) -> jax.Array:
    """How many magnitudes are not below each edge."""
    edges = jnp.asarray(edges)
    x = widen(x)
    at = jnp.pad(edges, (0, -len(edges) % _TOGETHER)).astype(x.dtype)

    def some(pivots):
        # Tied to the pivots, or XLA hoists the magnitudes out of the loop: a copy.
        values, pivots = jax.lax.optimization_barrier((x, pivots))
        return _count([~(jnp.abs(values) < pivot) for pivot in pivots])

    return jax.lax.map(some, at.reshape(-1, _TOGETHER)).reshape(-1)[: len(edges)]


@jax.jit
def _squares(x, threshold, scale) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums of (x/scale)² above the threshold and of all, and how many are above it."""
    x = jnp.abs(widen(x))
    above, square = x > threshold, jnp.square(x / scale.astype(x.dtype))
    return jnp.sum(jnp.where(above, square, 0)), jnp.sum(square), _count([above])[0]


@functools.partial(jax.jit, static_argnames="wanted")
def _share(squares, threshold, scale, sound, wanted):
    above, total, counts = map(_sum, zip(*squares, strict=True))
    missing = (jnp.uint32(wanted) - counts).astype(total.dtype)
    at = missing * (widen(threshold) / scale).astype(total.dtype) ** 2
    return jnp.where(sound, (above + at) / total, jnp.nan)


class _Top(NamedTuple):
    """The largest coordinates of a tree: all above τ, and of those equal to it the first."""

    threshold: jax.Array
    end: jax.Array
    """The index that exactly as many ties precede as are missing above τ."""
    sound: jax.Array
    """Whether the tree is finite and not zero."""


def _top(leaves, fraction, wanted) -> _Top:
    threshold = top_fraction_threshold(leaves, fraction)
    missing = _missing([_above(x, threshold) for x in leaves], wanted)
    # Ties are rare: where values can be looked at, their program is compiled only if it runs.
    none = not isinstance(missing, Tracer) and not missing.any()
    end = jnp.uint32(0) if none else _last_tie(leaves, threshold, missing)
    return _Top(threshold, end, _largest(leaves)[1])


@jax.jit
def _above(x, threshold):
    return _count([jnp.abs(x) > threshold])[0]


@functools.partial(jax.jit, static_argnames="wanted")
def _missing(above, wanted):
    return jnp.uint32(wanted) - _sum(above)


@jax.jit
def _last_tie(leaves, threshold, missing):
    """The index that exactly as many ties precede as are missing, by bisection."""

    def search():
        def halve(_, bounds):
            low, high = bounds  # Too few precede low; enough precede high.
            middle = low + (high - low) // 2
            enough = _ties_before(leaves, threshold, middle) >= missing
            return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

        last = jnp.uint32(sum(x.size for x in leaves))
        return jax.lax.fori_loop(0, 32, halve, (jnp.uint32(0), last))[1]

    return jax.lax.cond(missing > 0, search, lambda: jnp.uint32(0))


def _common(ours, theirs) -> jax.Array:
    """How many coordinates are among the largest of both of two (leaves, `_Top`)."""
    (ours, top), (theirs, other) = ours, theirs
    pairs = zip(ours, theirs, _offsets(ours), strict=True)
    return _total([_common_of_leaf(x, top, y, other, offset) for x, y, offset in pairs])


@jax.jit
def _total(counts):
    return _sum(counts)


@jax.jit
def _common_of_leaf(x, x_top, y, y_top, offset):
    return _count([_members(x, x_top, offset) & _members(y, y_top, offset)])[0]


@functools.partial(jax.jit, static_argnames="wanted")
def _table(counts, sound, wanted):
    """[K, K] shares from the counts of the pairs above the diagonal, row by row."""
    size = len(sound)
    shared = jnp.zeros((size, size), jnp.float32)
    if counts:
        pairs = np.triu_indices(size, 1)
        shared = shared.at[pairs].set(jnp.stack(counts).astype(jnp.float32))
    shared = (shared + shared.T) / max(wanted, 1) + jnp.eye(size, dtype=jnp.float32)
    both = jnp.stack(sound)[:, None] & jnp.stack(sound)[None, :]
    return jnp.where(both & (wanted > 0), shared, jnp.nan)


def _members(x, top, offset):
    """Which coordinates of a leaf belong to the top."""
    tie = (jnp.abs(x) == top.threshold) & (_index(x, offset) < top.end)
    return (jnp.abs(x) > top.threshold) | tie


def _ties_before(leaves, threshold, end):
    pairs = zip(leaves, _offsets(leaves), strict=True)
    ties = [(jnp.abs(x) == threshold) & (_index(x, offset) < end) for x, offset in pairs]
    return _sum(_count([tie])[0] for tie in ties)


def _index(x, offset) -> jax.Array:
    """Where each coordinate is in the tree, laid out in a row."""
    strides = [math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim)]
    index = jnp.full((), offset, jnp.uint32)
    for axis, stride in enumerate(strides):
        index = index + jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return index


def _offsets(leaves) -> np.ndarray:
    return np.cumsum([0, *(x.size for x in leaves)])[:-1].astype(np.uint32)


def _leaves(tree) -> list[jax.Array]:
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(tree) if np.size(x)]
    small = len(leaves) > 1 and sum(x.size for x in leaves) <= _SMALL
    if not small or any(isinstance(x, Tracer) for x in leaves):
        return leaves
    devices = set().union(*(x.sharding.device_set for x in leaves))
    alike = len(devices) == len({x.dtype for x in leaves}) == 1
    return [_in_a_row(leaves)] if alike and not any(map(partitioning, leaves)) else leaves


@jax.jit
def _in_a_row(leaves):
    return jnp.concatenate([x.ravel() for x in leaves])


def _wanted(leaves, fraction) -> int:
    return math.floor(sum(x.size for x in leaves) * fraction)


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)


def _largest(leaves) -> tuple[jax.Array, jax.Array]:
    """The largest magnitude, and whether it is finite and not zero."""
    return _overall([_largest_of_leaf(x) for x in leaves])


@jax.jit
def _largest_of_leaf(x):
    return jnp.max(jnp.abs(widen(x)))


@jax.jit
def _overall(magnitudes):
    largest = functools.reduce(jnp.maximum, magnitudes)
    return largest, jnp.isfinite(largest) & (largest > 0)


def _count(masks: Sequence[jax.Array]) -> jax.Array:
    """How often each of several masks of one shape is true, in one read.

    One reduction of all: XLA:CPU splits single sums into trees that store what they sum, which is
    fifty times slower.
    """
    zeros = (jnp.uint32(0),) * len(masks)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))  # noqa: E731
    terms = tuple(mask.astype(jnp.uint32) for mask in masks)
    return jnp.stack(jax.lax.reduce(terms, zeros, add, tuple(range(masks[0].ndim))))
