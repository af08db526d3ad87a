"""Where a direction's sharpness sits: in which coordinates, and in which blocks of tensors."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sharpjax._checks import check_in_range, check_real_leaves, check_same_structure
from sharpjax._legacy import _normalize, _widen
from sharpjax.clipping import top_fraction_threshold
from sharpjax.landscape import _check


class SharpnessByRank(NamedTuple):
    """What the top coordinates hold of vᵀHv and of ‖v‖² = 1; arrays [F] in the fractions' order."""

    sharpness: jax.Array  # Σ of (v ⊙ Hv)ᵢ over the top coordinates; at fraction 1 all of vᵀHv.
    sharpness_se: jax.Array  # Sample deviation over M micro-batches/√M; NaN with one.
    share: jax.Array  # sharpness/vᵀHv: may leave [0, 1], since contributions may be negative.
    squared_norm: jax.Array  # Σ of vᵢ² over the top coordinates.


class BlockSharpness(NamedTuple):
    """vᵀHv as a sum over pairs of groups of tensors."""

    labels: tuple[Any, ...]  # [G], in the order of the groups' first tensors.
    matrix: jax.Array  # [G, G], vᵢᵀHᵢⱼvⱼ, symmetric; its sum is vᵀHv, the diagonal is within.
    matrix_se: jax.Array  # [G, G], sample deviation over M micro-batches/√M; NaN with one.
    squared_norms: jax.Array  # [G], ‖vᵢ‖²; they sum to 1.


def sharpness_by_rank(
    loss_fn: Callable,
    params: Any,
    direction: Any,
    magnitudes: Any,
    fractions: Sequence[float],
    batches: Any,
    *,
    key: jax.Array | None = None,
) -> SharpnessByRank:
    """The sharpness that sits in the top coordinates of another tree, such as the gradient.

    With c = v ⊙ Hv (`coordinate_sharpness`), v = direction/‖direction‖₂, and n coordinates, the
    value at fraction p is Σ cᵢ over the ⌊n·p⌋ coordinates of largest |magnitudes|. Of coordinates
    that tie at the threshold, each counts with the same weight, so that no order among them is
    chosen. Thresholds are exact (`top_fraction_threshold`) and nothing is sorted.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
        Hashable; the same object again reuses the compiled call.
      params: Pytree of real floating-point arrays.
      direction: Pytree like `params`, of any scale. A zero direction gives NaN.
      magnitudes: Pytree like `params` whose absolute values rank the coordinates.
      fractions: [F] numbers in [0, 1].
      batches: Pytree of leaves [micro_batches, micro_batch, …]; the objective is the mean over the
        first axis.
      key: One dropout key for all micro-batches; None evaluates without.

    Returns:
      A `SharpnessByRank`, in float32 or wider.

    Raises:
      ValueError: no fraction, or one outside [0, 1]; trees unlike `params`; empty `batches`.
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost: 3 gradients and F sums a micro-batch, 18 reads of `magnitudes` a fraction; memory of a
    Hessian product.

    Source: the paper, Section 3 (a small fraction of the coordinates causes SGD's sharpness).
    """
    extra = _check(loss_fn, params, direction, batches, key)
    check_real_leaves("magnitudes", magnitudes)
    check_same_structure("magnitudes", magnitudes, "params", params)
    if not len(fractions):
        raise ValueError(f"fractions must hold at least one number, got {fractions!r}")
    for fraction in fractions:
        check_in_range("fractions", fraction, 0.0, 1.0)
    size = sum(x.size for x in jax.tree.leaves(magnitudes))
    thresholds, ties = [], []
    for fraction in map(float, fractions):
        threshold = top_fraction_threshold(magnitudes, fraction)
        counts = np.sum([np.asarray(c, np.int64) for c in _counts(magnitudes, threshold)], axis=0)
        missing = int(np.floor(size * fraction)) - counts[0]
        thresholds.append(threshold)
        ties.append(max(missing, 0) / max(counts[1], 1))
    return _by_rank(
        loss_fn,
        params,
        direction,
        magnitudes,
        jnp.stack(thresholds),
        jnp.asarray(ties, thresholds[0].dtype),
        batches,
        extra,
    )


def block_sharpness(
    loss_fn: Callable,
    params: Any,
    direction: Any,
    batches: Any,
    *,
    groups: Callable[[str], Any] | None = None,
    key: jax.Array | None = None,
) -> BlockSharpness:
    """The sharpness as a matrix over groups of tensors: within a group, and across two.

    With vᵢ the part of v = direction/‖direction‖₂ in group i and Hᵢⱼ the block of the Hessian,

        vᵀHv = Σᵢⱼ vᵢᵀHᵢⱼvⱼ,

    and row i's sum is what group i's coordinates contribute to `coordinate_sharpness`.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; as in `sharpness_by_rank`.
      params: Pytree of real floating-point arrays.
      direction: Pytree like `params`, of any scale. A zero direction gives NaN.
      batches: Pytree of leaves [micro_batches, micro_batch, …].
      groups: `groups(path)` -> hashable label of a tensor's group, where path is its keys joined by
        "/", as in "encoder/block/0/wi/kernel"; None makes each tensor a group.
      key: One dropout key for all micro-batches; None evaluates without.

    Returns:
      A `BlockSharpness` of G groups, in float32 or wider. The matrix is the mean of the measured
      one and its transpose, which differ by rounding.

    Raises:
      ValueError: a direction unlike `params`; empty `batches`.
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost: G Hessian products, 1 + 2G gradients a micro-batch; memory of one product, whatever G is.
    """
    extra = _check(loss_fn, params, direction, batches, key)
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    of_leaf = [path if groups is None else groups(path) for path in paths]
    labels = tuple(dict.fromkeys(of_leaf))
    index = tuple(labels.index(label) for label in of_leaf)
    return BlockSharpness(labels, *_blocks(loss_fn, params, direction, batches, extra, index))


def standard_error(samples: jax.Array) -> jax.Array:
    """Sample deviation over the first axis/√its length; NaN with one sample."""
    count = samples.shape[0]
    if count == 1:
        return jnp.full(samples.shape[1:], jnp.nan, samples.dtype)
    return jnp.std(samples, axis=0, ddof=1) / count**0.5


@jax.jit
def _counts(tree, threshold):
    """[above, equal] of each leaf; the host sums leaves without overflow."""
    return [
        jnp.stack([jnp.sum(jnp.abs(x) > threshold), jnp.sum(jnp.abs(x) == threshold)])
        for x in jax.tree.leaves(tree)
    ]


@functools.partial(jax.jit, static_argnames="loss_fn")
def _by_rank(loss_fn, params, direction, magnitudes, thresholds, ties, batches, extra):
    params = _widen(params)
    unit, norm = _normalize(_widen(direction))

    def top_sums(contributions):
        def one(at):
            threshold, tie = at

            def part(m, c):
                m = jnp.abs(m)
                return jnp.sum(c * jnp.where(m > threshold, 1, jnp.where(m == threshold, tie, 0)))

            return optax.tree.sum(jax.tree.map(part, magnitudes, contributions))

        return jax.lax.map(one, (thresholds, ties))

    def one_micro_batch(_, batch):
        gradient = jax.grad(lambda p: loss_fn(p, batch, *extra))
        product = jax.jvp(gradient, (params,), (unit,))[1]
        contributions = jax.tree.map(jnp.multiply, unit, product)
        return None, (top_sums(contributions), jnp.asarray(optax.tree.sum(contributions)))

    with jax.default_matmul_precision("highest"):
        _, (tops, totals) = jax.lax.scan(one_micro_batch, None, batches)
        squared_norm = top_sums(jax.tree.map(jnp.square, unit))
    sharpness, total = tops.mean(0), jnp.mean(totals)
    return jax.tree.map(
        lambda x: jnp.where(norm > 0, x, jnp.nan),
        SharpnessByRank(sharpness, standard_error(tops), sharpness / total, squared_norm),
    )


@functools.partial(jax.jit, static_argnames=("loss_fn", "index"))
def _blocks(loss_fn, params, direction, batches, extra, index):
    params = _widen(params)
    unit, norm = _normalize(_widen(direction))
    leaves, structure = jax.tree.flatten(unit)
    count = max(index) + 1

    def by_group(dots):
        return jax.ops.segment_sum(jnp.stack(dots), np.array(index), count)

    def one_micro_batch(_, batch):
        _, tangent = jax.linearize(jax.grad(lambda p: loss_fn(p, batch, *extra)), params)

        def column(group):
            masked = [jnp.where(group == i, x, 0) for i, x in zip(index, leaves, strict=True)]
            product = jax.tree.leaves(tangent(structure.unflatten(masked)))
            return by_group([jnp.vdot(v, h) for v, h in zip(leaves, product, strict=True)])

        matrix = jax.lax.map(column, jnp.arange(count))
        return None, (matrix + matrix.T) / 2

    with jax.default_matmul_precision("highest"):
        _, matrices = jax.lax.scan(one_micro_batch, None, batches)
        squared_norms = by_group([jnp.vdot(v, v) for v in leaves])
    result = matrices.mean(0), standard_error(matrices), squared_norms
    return jax.tree.map(lambda x: jnp.where(norm > 0, x, jnp.nan), result)
