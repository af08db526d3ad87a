"""What measurements still use that have not moved to `sharpjax.objective`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from sharpjax._checks import check_real_leaves, check_same_structure


def check_batches(batches: Any) -> int:
    """The number of micro-batches; raises if there is none or the leaves disagree."""
    leaves = jax.tree_util.tree_leaves_with_path(batches)
    if not leaves:
        raise ValueError(f"batches must hold at least one array, got {batches!r}")
    sizes = {jax.tree_util.keystr(path): jnp.shape(leaf)[:1] for path, leaf in leaves}
    if len(set(sizes.values())) > 1 or () in sizes.values() or (0,) in sizes.values():
        raise ValueError(
            "batches must have leaves [micro_batches ≥ 1, …] that agree on the first axis, "
            f"got first axes {sizes}"
        )
    return next(iter(sizes.values()))[0]


def micro_batch_shape(batches: Any) -> Any:
    """Shapes and dtypes of one micro-batch."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)


def _widen(tree):
    return jax.tree.map(
        lambda x: jnp.asarray(x).astype(jnp.promote_types(jnp.result_type(x), jnp.float32)), tree
    )


def _normalize(direction):
    """(direction/‖direction‖, ‖direction‖); a zero direction stays zero."""
    scale, norm, length = _magnitude(direction)
    return _divide(direction, scale, norm), length


def _magnitude(direction):
    """(scale, norm, ‖direction‖): direction/scale/norm has length 1; no divisor is zero.

    The largest magnitude goes first: squares of 1e-30 would vanish in float32.
    """
    leaves = [jnp.max(jnp.abs(x), initial=0) for x in jax.tree.leaves(direction)]
    largest = functools.reduce(jnp.maximum, leaves, jnp.zeros(()))
    scale = jnp.where(largest > 0, largest, 1)
    norm = optax.tree.norm(jax.tree.map(lambda x: x / scale.astype(x.dtype), direction))
    return scale, jnp.where(norm > 0, norm, 1), jnp.where(largest > 0, norm * scale, 0)


def _divide(direction, scale, norm):
    return jax.tree.map(lambda x: x / scale.astype(x.dtype) / norm.astype(x.dtype), direction)


def check_scalar_loss(loss_fn: Callable, params: Any, *args: Any) -> None:
    """Raises unless `loss_fn(params, *args)` is one real floating-point scalar."""
    out = jax.eval_shape(loss_fn, params, *args)
    leaves = jax.tree.leaves(out)
    if len(leaves) != 1 or jax.tree.structure(out) != jax.tree.structure(0.0):
        raise TypeError(f"loss_fn must return a scalar, got {out}")
    if leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise TypeError(
            f"loss_fn must return a real scalar, got shape {leaves[0].shape}, "
            f"dtype {leaves[0].dtype}"
        )


def check(loss_fn, params, direction, batches, key) -> tuple:
    """Checks what a measurement along one direction is given; the loss's extra arguments."""
    check_batches(batches)
    check_real_leaves("params", params)
    check_real_leaves("direction", direction)
    check_same_structure("direction", direction, "params", params)
    extra = () if key is None else (key,)
    check_scalar_loss(loss_fn, params, micro_batch_shape(batches), *extra)
    return extra
