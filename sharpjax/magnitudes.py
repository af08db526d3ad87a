"""How an update's magnitudes are spread: their histogram, and what its largest coordinates hold.

Nothing sorts, ravels or gathers a tree: all is counted where it lies.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from sharpjax._checks import check_in_range, check_real_leaves, check_same_structure
from sharpjax.clipping import top_fraction_threshold
from sharpjax.objective import widen

# Edges that one pass over a leaf counts.
_TOGETHER = 8


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
    size = sum(np.size(x) for x in jax.tree.leaves(tree))
    counts = [np.asarray(x, np.int64) for x in _reaching(tree, edges)]
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
    return _share(tree, float(fraction))


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
    return _overlap([*updates.values()], float(fraction))


def _check_fraction(fraction) -> None:
    if isinstance(fraction, Tracer) or callable(fraction):
        raise TypeError(f"fraction must be a number in [0, 1], got {fraction!r}")
    check_in_range("fraction", fraction, 0.0, 1.0)


@jax.jit
def _reaching(tree, edges) -> list[jax.Array]:
    """For each leaf, how many magnitudes are not below each edge."""
    edges = jnp.asarray(edges)

    def count(x):
        at = jnp.pad(edges, (0, -len(edges) % _TOGETHER)).astype(x.dtype)

        def some(pivots):
            # Tied to the pivots, or XLA hoists the magnitudes out of the loop: a copy.
            values, pivots = jax.lax.optimization_barrier((x, pivots))
            return _count([~(jnp.abs(values) < pivot) for pivot in pivots])

        return jax.lax.map(some, at.reshape(-1, _TOGETHER)).reshape(-1)[: len(edges)]

    return [count(x) for x in jax.tree.leaves(widen(tree))]


@functools.partial(jax.jit, static_argnames="fraction")
def _share(tree, fraction):
    scaled, sound = _scaled(tree)
    top = _Top(scaled, fraction)
    square_above = _sum(jnp.sum(jnp.where(x > top.threshold, x, 0) ** 2) for x in scaled)
    total = _sum(jnp.sum(x**2) for x in scaled)
    at = jnp.asarray(top.missing, total.dtype) * top.threshold.astype(total.dtype) ** 2
    return jnp.where(sound, (square_above + at) / total, jnp.nan)


@functools.partial(jax.jit, static_argnames="fraction")
def _overlap(updates, fraction):
    trees = [[jnp.asarray(x) for x in jax.tree.leaves(u) if x.size] for u in updates]
    sound = [jnp.isfinite(largest) & (largest > 0) for largest in map(_largest, trees)]
    tops = [_Top(tree, fraction) for tree in trees]
    size = sum(x.size for x in trees[0])
    wanted = math.floor(size * fraction)
    ends = [top.last_tie() for top in tops]
    shared = jnp.zeros((len(tops), len(tops)), jnp.uint32)
    for i in range(len(tops)):
        for leaf in range(len(trees[0])):
            members = [tops[j].members(leaf, ends[j]) for j in range(i, len(tops))]
            counts = _count([members[0] & other for other in members])
            shared = shared.at[i, i:].add(counts)
    shared = jnp.triu(shared) + jnp.triu(shared, 1).T
    both = jnp.stack(sound)[:, None] & jnp.stack(sound)[None, :]
    return jnp.where(both & (wanted > 0), shared / jnp.float32(max(wanted, 1)), jnp.nan)


class _Top:
    """The ⌊n·fraction⌋ largest of some leaves: all above τ, and the first of those equal to it."""

    def __init__(self, leaves: Sequence[jax.Array], fraction: float):
        self.leaves = leaves
        self.threshold = top_fraction_threshold(list(leaves), fraction)
        sizes = [x.size for x in leaves]
        self.offsets = np.cumsum([0, *sizes])[:-1]
        above = _sum(_count([jnp.abs(x) > self.threshold])[0] for x in leaves)
        self.missing = jnp.uint32(math.floor(sum(sizes) * fraction)) - above

    def members(self, leaf: int, end: jax.Array) -> jax.Array:
        """Which coordinates of a leaf belong to the top, given `last_tie`."""
        x = jnp.abs(self.leaves[leaf])
        tie = (x == self.threshold) & (self._index(leaf) < end)
        return (x > self.threshold) | tie

    def last_tie(self) -> jax.Array:
        """The index that exactly as many ties precede as are missing, by bisection."""

        def search():
            def halve(_, bounds):
                low, high = bounds  # Too few precede low; enough precede high.
                middle = low + (high - low) // 2
                enough = self._ties_before(middle) >= self.missing
                return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

            last = jnp.uint32(sum(x.size for x in self.leaves))
            return jax.lax.fori_loop(0, 32, halve, (jnp.uint32(0), last))[1]

        return jax.lax.cond(self.missing > 0, search, lambda: jnp.uint32(0))

    def _ties_before(self, end):
        ties = [
            (jnp.abs(x) == self.threshold) & (self._index(i) < end)
            for i, x in enumerate(self.leaves)
        ]
        return _sum(_count([tie])[0] for tie in ties)

    def _index(self, leaf):
        """Where each coordinate is in the tree, laid out in a row."""
        shape = self.leaves[leaf].shape
        strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
        index = jnp.full((), self.offsets[leaf], jnp.uint32)
        for axis, stride in enumerate(strides):
            index = index + jnp.uint32(stride) * jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        return index


def _scaled(tree) -> tuple[list[jax.Array], jax.Array]:
    """Magnitudes relative to the largest, whose squares do not vanish; whether there are any."""
    leaves = [x for x in jax.tree.leaves(widen(tree)) if x.size]
    largest = _largest(leaves)
    sound = jnp.isfinite(largest) & (largest > 0)
    scale = jnp.where(sound, largest, 1)
    return [jnp.abs(x) / scale.astype(x.dtype) for x in leaves], sound


def _sum(terms: Iterable[jax.Array]) -> jax.Array:
    return functools.reduce(jnp.add, terms)


def _largest(leaves) -> jax.Array:
    return functools.reduce(jnp.maximum, [jnp.max(jnp.abs(x)) for x in leaves])


def _count(masks: Sequence[jax.Array]) -> jax.Array:
    """How often each of several masks of one shape is true, in one read.

    One reduction of all: XLA:CPU splits single sums into trees that store what they sum, which is
    fifty times slower.
    """
    zeros = (jnp.uint32(0),) * len(masks)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True))  # noqa: E731
    terms = tuple(mask.astype(jnp.uint32) for mask in masks)
    return jnp.stack(jax.lax.reduce(terms, zeros, add, tuple(range(masks[0].ndim))))
