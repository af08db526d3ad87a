"""Coordinate-wise clipping at an exact order statistic of the gradient's magnitudes."""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from sharpjax._checks import check_choice, check_in_range
from sharpjax._order_statistic import UINT, common_dtype, keys_of, threshold_keys

Scope = Literal["global", "tensor"]
AxisName = str | tuple[str, ...] | None


def coord_clip(
    fraction: Any, *, scope: Scope = "global", axis_name: AxisName = None
) -> optax.GradientTransformation:
    r"""Clip the largest coordinates to the magnitude that a fraction of them exceeds.

    With $n$ coordinates, $r = \lfloor n \cdot \text{fraction} \rfloor$ and $\tau$ the magnitude of
    rank $\min(r, n-1)$, counted from 0 in descending order,

    $$ ĝ_i = \operatorname{sgn}(g_i) \min(|g_i|, \tau), $$

    so that at most $r$ coordinates change. Fraction 0 is the identity; at fraction 1, $\tau$ is the
    smallest magnitude. See `top_fraction_threshold` for exactness, special values and cost.

    A fixed $\tau$ is already `optax.clip`. Chained before an adaptive optimizer this clips what the
    optimizer's statistics see, and the scaling partly cancels it; the paper's clipped adaptive
    methods clip the numerator only, which is `sharpjax.adam(..., clip=fraction)`.

    Chained after an optimizer it clips the update, weight decay and rate included:
    `optax.chain(optax.lion(1e-3), coord_clip(0.05))`.

    Args:
        fraction: A number in [0, 1], or a traced scalar, as from `optax.inject_hyperparams`, which
            is taken into [0, 1], NaN as 0.
        scope: "global" takes one $\tau$ over all tensors jointly, "tensor" one for each.
        axis_name: Inside `jax.shard_map` or a named `vmap`, the axis or axes over which the
            coordinates are split, so that $\tau$ is that of all shards together. Without it, a
            manual axis is not looked across: $\tau$ is a shard's own. Under `jax.jit` sharded
            arrays are whole, with Auto and Explicit mesh axes alike, and it is not needed.

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
    clip = partial(clip_top_fraction, fraction=fraction, scope=scope, axis_name=axis_name)
    return optax.stateless(lambda updates, _: clip(updates))


def clip_top_fraction(
    updates: Any, fraction: Any, *, scope: Scope = "global", axis_name: AxisName = None
) -> Any:
    """Clip a pytree as `coord_clip` does: the function that the transformation applies.

    Costs the passes of `top_fraction_threshold` in either scope, and one that writes the result.
    A leaf narrower than τ is clipped to the largest value of its dtype not above τ.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> sharpjax.clip_top_fraction(jnp.array([1.0, -8.0, 2.0, 3.0]), 0.25).tolist()
        [1.0, -3.0, 2.0, 3.0]
    """
    _check_fraction(fraction)
    check_choice("scope", scope, ("global", "tensor"))
    leaves, treedef = _float_leaves(updates)
    if isinstance(fraction, int | float | np.integer) and fraction == 0:
        return updates
    groups = [leaves] if scope == "global" else [[leaf] for leaf in leaves]
    keys = threshold_keys(groups, fraction, axis_name)
    dtypes = map(common_dtype, groups)
    clipped = [
        _saturate(leaf, key, dtype=dtype)
        for group, key, dtype in zip(groups, keys, dtypes, strict=True)
        for leaf in group
    ]
    return treedef.unflatten(clipped)


def top_fraction_threshold(tree: Any, fraction: Any, *, axis_name: AxisName = None) -> jax.Array:
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

    Cost: about four reads of the tree where magnitudes are distributed smoothly, and on any input
    at most 18 in float32 (10 if all leaves are of one 16-bit dtype, 34 with float64); a sort of a
    sample of 65,536 at most; no copy, no temporary that grows with $n$. Sharded leaves stay where
    they are. Counts are exact below 2^63 coordinates, without 64-bit types.

    Args:
        tree: Any pytree of 16-, 32- or 64-bit floats.
        fraction: A number in [0, 1], or a traced scalar, taken into it.
        axis_name: Inside `jax.shard_map` or a named `vmap`, the axes over which the tree is split:
            $n$ and the rank are then those of all shards together. A leaf whose type says that it
            is the same on all of them counts once; with `check_vma=False`, and in `vmap`, types do
            not say it, and each shard's copy counts.

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
    (key,) = threshold_keys([leaves], fraction, axis_name)
    return lax.bitcast_convert_type(key, common_dtype(leaves))


@partial(jax.jit, static_argnames="dtype")  # Traced once for each shape.
def _saturate(x: jax.Array, threshold: jax.Array, dtype: Any) -> jax.Array:
    """sgn(x)·min(|x|, τ) by bits, so that no backend flushes a denormal; NaN stays."""
    uint = UINT[x.dtype.itemsize]
    limit = threshold
    if x.dtype != dtype:
        tau = lax.bitcast_convert_type(threshold, dtype).astype(x.dtype)
        rounded_up = keys_of(tau, dtype) > threshold
        limit = lax.bitcast_convert_type(tau, uint) - rounded_up.astype(uint)
    sign = lax.bitcast_convert_type(x, uint) & uint(jnp.iinfo(uint).max // 2 + 1)
    over = (keys_of(x, dtype) > threshold) & ~jnp.isnan(x)
    return jnp.where(over, lax.bitcast_convert_type(sign | limit, x.dtype), x)


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
        if not jnp.issubdtype(dtype, jnp.floating) or dtype.itemsize not in UINT:
            name = jax.tree_util.keystr(path) or "the only leaf"
            raise TypeError(f"leaves must be 16-, 32- or 64-bit floats, got {dtype} at {name}")
    return [jnp.asarray(leaf) for _, leaf in paths], treedef
