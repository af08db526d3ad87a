"""Where a direction's sharpness sits: in which coordinates, and in which blocks of tensors."""

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from sharpjax._checks import check_choice, check_in_range
from sharpjax.clipping import top_fraction_threshold
from sharpjax.objective import (
    LossFn,
    Objective,
    Params,
    dot,
    linearize_gradient,
    result,
    standard_error,
    static,
    updates_objective,
)


@result
class SharpnessByRank:
    """What the top coordinates hold of vᵀHv and of ‖v‖² = 1; arrays [F] in the fractions' order."""

    sharpness: jax.Array
    """Σ of (v ⊙ Hv)ᵢ over the top coordinates; at fraction 1 all of vᵀHv."""
    sharpness_se: jax.Array
    """Its standard error: sample deviation over M micro-batches/√M; NaN with one."""
    share: jax.Array
    """sharpness/vᵀHv: may leave [0, 1], since contributions may be negative."""
    squared_norm: jax.Array
    """Σ of vᵢ² over the top coordinates."""


@result
class BlockSharpness:
    """vᵀHv as a sum over pairs of groups of tensors."""

    labels: tuple[Any, ...] = static()
    """[G], in the order of the groups' first tensors."""
    matrix: jax.Array
    """[G, G], vᵢᵀHᵢⱼvⱼ, symmetric; its sum is vᵀHv, the diagonal is within."""
    matrix_se: jax.Array
    """[G, G], its standard error: sample deviation over M micro-batches/√M; NaN with one."""
    squared_norms: jax.Array
    """[G], ‖vᵢ‖²; they sum to 1."""


def sharpness_by_rank(
    loss_fn: LossFn,
    params: Params,
    updates: Mapping[str, Any],
    magnitudes: Any,
    fractions: Sequence[float],
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
) -> dict[str, SharpnessByRank]:
    """The sharpness that sits in the top coordinates of another tree, such as the gradient.

    With c = v ⊙ Hv (`coordinate_sharpness`), v = u/‖u‖₂ for an update u, and n coordinates, the
    value at fraction p is Σ cᵢ over the ⌊n·p⌋ coordinates of largest |magnitudes|. Of coordinates
    that tie at the threshold, each counts with the same weight, so that no order among them is
    chosen. Thresholds are exact (`top_fraction_threshold`) and nothing is sorted. May be jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays.
        updates: Name -> direction, a pytree like `params`, of any scale. A zero direction, or one
            that is not finite, gives NaN.
        magnitudes: Pytree like `params` whose absolute values rank the coordinates; NaN among them
            gives NaN.
        fractions: [F] numbers in [0, 1], not traced.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            objective is the mean over micro-batches.
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        Name -> `SharpnessByRank`, in float32 or wider.

    Raises:
        ValueError: no update; no fraction, or one outside [0, 1]; trees unlike `params`; empty or
            ragged `batches`.
        TypeError: updates that are not a mapping; traced fractions; complex or integer leaves; a
            loss that is not a real scalar.

    Cost: 3 gradients and F sums a micro-batch and update, and 18 reads of `magnitudes` a fraction;
    memory of a Hessian product.

    Source: the paper, Section 3 (a small fraction of the coordinates causes SGD's sharpness).

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(jnp.array([1.0, 3.0]) * x**2) / 2
        >>> x, updates = jnp.ones(2), {"gd": jnp.array([1.0, 1.0])}
        >>> parts = sharpjax.sharpness_by_rank(
        ...     loss, x, updates, jnp.array([1.0, 3.0]), [0.5, 1.0], jnp.ones((1, 1))
        ... )["gd"]
        >>> [round(float(x), 4) for x in (*parts.sharpness, *parts.share)]
        [1.5, 2.0, 0.75, 1.0]
    """
    measured = updates_objective(loss_fn, params, updates, batches, args, has_aux)
    measured.check_directions({"magnitudes": magnitudes})
    if isinstance(fractions, Tracer) or any(isinstance(f, Tracer) for f in fractions):
        raise TypeError(f"fractions must be numbers that are not traced, got {fractions!r}")
    if not len(fractions):
        raise ValueError(f"fractions must hold at least one number, got {fractions!r}")
    for fraction in fractions:
        check_in_range("fractions", fraction, 0.0, 1.0)
    size = sum(jnp.size(x) for x in jax.tree.leaves(magnitudes))
    ranks = [divmod(int(size * float(fraction)), 2**16) for fraction in fractions]
    # One after the other and not in one program: outside of jit, they share a compiled search.
    thresholds = jnp.stack([top_fraction_threshold(magnitudes, f) for f in fractions])
    ranking = measured.run(_ranking, magnitudes, thresholds, np.array(ranks, np.int32))
    return {
        name: measured.run(_by_rank, update, magnitudes, *ranking)
        for name, update in updates.items()
    }


def block_sharpness(
    loss_fn: LossFn,
    params: Params,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    groups: Callable[[str], Hashable] | Literal["tensor"] | None = None,
    args: tuple = (),
    has_aux: bool = False,
) -> dict[str, BlockSharpness]:
    """The sharpness as a matrix over groups of tensors: within a group, and across two.

    With vᵢ the part of v = u/‖u‖₂ of an update u in group i and Hᵢⱼ the block of the Hessian,

        vᵀHv = Σᵢⱼ vᵢᵀHᵢⱼvⱼ,

    and row i's sum is what group i's coordinates contribute to `coordinate_sharpness`. May be
    jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays.
        updates: Name -> direction, a pytree like `params`, of any scale. A zero direction, or one
            that is not finite, gives NaN.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            objective is the mean over micro-batches.
        groups: None groups tensors by the first key of their path, "tensor" makes each a group by
            its path, and `groups(path)` returns a hashable label; a path is its keys joined by "/",
            as in "encoder/block/0/wi/kernel".
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        Name -> `BlockSharpness` of G groups, in float32 or wider. The matrix is the mean of the
        measured one and its transpose, which differ by rounding.

    Raises:
        ValueError: no update; an update unlike `params`; empty or ragged `batches`; unknown groups.
        TypeError: updates that are not a mapping; complex or integer leaves; a loss that is not a
            real scalar.

    Cost: G Hessian products, 1 + 2G gradients a micro-batch and update; memory of one product,
    whatever G is.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda p, batch: jnp.mean(batch) * p["a"] * p["b"] ** 2
        >>> params = {"a": jnp.array(1.0), "b": jnp.array(1.0)}
        >>> blocks = sharpjax.block_sharpness(loss, params, {"v": params}, jnp.ones((1, 1)))["v"]
        >>> blocks.labels, blocks.matrix.round(4).tolist()
        (('a', 'b'), [[0.0, 1.0], [1.0, 1.0]])
    """
    measured = updates_objective(loss_fn, params, updates, batches, args, has_aux)
    of_leaf = _labels(params, groups)
    labels = tuple(dict.fromkeys(of_leaf))
    index = tuple(labels.index(label) for label in of_leaf)
    return {
        name: BlockSharpness(labels, *measured.run(_blocks, update, index=index))
        for name, update in updates.items()
    }


def _labels(params, groups) -> list:
    """The label of each leaf's group."""
    if groups is not None and not callable(groups):
        check_choice("groups", groups, ("tensor",))
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    if groups is None:
        paths = [path[:1] for path in paths]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    return [groups(name) for name in names] if callable(groups) else names


def _ranking(_: Objective, magnitudes, thresholds, ranks) -> tuple[jax.Array, jax.Array]:
    """The threshold of each fraction [F], and the weight of a coordinate that ties with it [F]."""
    known = [jnp.all(~jnp.isnan(x)) for x in jax.tree.leaves(magnitudes)]
    known = functools.reduce(jnp.logical_and, known)

    def tie(at):
        threshold, rank = at
        above = _count(lambda x: jnp.abs(x) > threshold, magnitudes)
        equal = _count(lambda x: jnp.abs(x) == threshold, magnitudes)
        missing = _number([r - a for r, a in zip(rank, above, strict=True)])
        return jnp.maximum(missing, 0) / jnp.maximum(_number(equal), 1)

    ties = jax.lax.map(tie, (thresholds, ranks))
    return jnp.where(known, thresholds, jnp.nan), jnp.where(known, ties, jnp.nan)


def _count(condition, tree) -> list[jax.Array]:
    """(high, low) with high·2¹⁶ + low coordinates of a tree that fulfil a condition, in int32.

    Exact for leaves below 2³² coordinates, whatever their sum.
    """
    counts = [jnp.sum(condition(x), dtype=jnp.uint32) for x in jax.tree.leaves(tree)]
    parts = [((c >> 16).astype(jnp.int32), (c & 0xFFFF).astype(jnp.int32)) for c in counts]
    return [functools.reduce(jnp.add, part) for part in zip(*parts, strict=True)]


def _number(words) -> jax.Array:
    """high·2¹⁶ + low as a float, rounded once: the carry goes first, as signs may differ."""
    high, low = words
    high, low = high + (low >> 16), low & 0xFFFF
    return high.astype(float) * 2**16 + low.astype(float)


def _by_rank(objective: Objective, update, magnitudes, thresholds, ties) -> SharpnessByRank:
    unit, norm = objective.unit(update)
    magnitudes = jax.tree.leaves(objective.like_sharding(magnitudes))

    def top_sums(tree):
        def one(at):
            threshold, tie = at

            def part(m, x):
                m = jnp.abs(m)
                weight = jnp.where(m > threshold, 1, jnp.where(m == threshold, tie, 0))
                return jnp.sum(x * weight.astype(x.dtype))

            parts = map(part, magnitudes, jax.tree.leaves(tree))
            return jnp.where(jnp.isnan(threshold), jnp.nan, functools.reduce(jnp.add, parts))

        return jax.lax.map(one, (thresholds, ties))

    def one_micro_batch(loss):
        product = linearize_gradient(loss, objective.params)[2](unit)
        return top_sums(jax.tree.map(jnp.multiply, unit, product)), dot(unit, product)

    tops, totals = objective.each(one_micro_batch)
    sharpness, total = tops.mean(0), jnp.mean(totals)
    squared_norm = top_sums(jax.tree.map(jnp.square, unit))
    return jax.tree.map(
        lambda x: jnp.where(norm > 0, x, jnp.nan),
        SharpnessByRank(sharpness, standard_error(tops), sharpness / total, squared_norm),
    )


def _blocks(objective: Objective, update, *, index) -> tuple[jax.Array, ...]:
    unit, norm = objective.unit(update)
    leaves, structure = jax.tree.flatten(unit)
    count = max(index) + 1

    def by_group(a, b):
        """[G] sums of the products of two lists of leaves."""
        dots = [[] for _ in range(count)]
        for i, x, y in zip(index, a, b, strict=True):
            dots[i].append(jnp.sum(x * y))
        return jnp.stack([functools.reduce(jnp.add, of_group) for of_group in dots])

    def one_micro_batch(loss):
        product = linearize_gradient(loss, objective.params)[2]

        def column(group):
            masked = [jnp.where(group == i, x, 0) for i, x in zip(index, leaves, strict=True)]
            return by_group(leaves, jax.tree.leaves(product(structure.unflatten(masked))))

        matrix = jax.lax.map(column, jnp.arange(count))
        return (matrix + matrix.T) / 2

    matrices = objective.each(one_micro_batch)
    found = matrices.mean(0), standard_error(matrices), by_group(leaves, leaves)
    return jax.tree.map(lambda x: jnp.where(norm > 0, x, jnp.nan), found)
