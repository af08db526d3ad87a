"""Checks of arguments: each raises one error that names the argument and the value."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def check_in_range(name: str, value: Any, low: float, high: float, *, open_high: bool = False):
    """Raises unless `value` is a number of [low, high] ([low, high) with `open_high`).

    Booleans and arrays with axes are no numbers, NumPy's and JAX's included. Values that are traced
    cannot be looked at and schedules have no single value: both pass.
    """
    if isinstance(value, Tracer) or callable(value):
        return
    shape = "[{}, {}{}".format(low, high, ")" if open_high else "]")
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array)
    is_boolean = isinstance(value, bool) or getattr(value, "dtype", None) == np.bool_
    if is_boolean or not is_number or np.ndim(value) != 0:
        raise TypeError(f"{name} must be a number in {shape}, got {value!r}")
    value = float(value)
    if not (low <= value < high if open_high else low <= value <= high):
        raise ValueError(f"{name} must be in {shape}, got {value!r}")


def check_rate(learning_rate: Any, momentum: Any = 0.0) -> None:
    """Raises unless the rate is a number of [0, ∞) or a schedule, and the momentum of [0, 1)."""
    check_in_range("learning_rate", learning_rate, 0.0, float("inf"), open_high=True)
    check_in_range("momentum", momentum, 0.0, 1.0, open_high=True)


def check_count(name: str, value: Any, low: int, high: int | None = None) -> None:
    """Raises unless `value` is an integer of [low, high]."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        limit = f" and at most {high}" if high is not None else ""
        raise ValueError(f"{name} must be an integer of at least {low}{limit}, got {value!r}")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_real_leaves(name: str, tree: Any) -> None:
    """Raises for the first leaf that is not a real floating-point array, naming its path."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        dtype = jnp.result_type(leaf)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{name}{jax.tree_util.keystr(path)} has dtype {dtype}; "
                "every leaf must be real floating point"
            )


def check_same_structure(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Raises where `tree` first differs from `reference` in structure or in a leaf's shape."""
    ours = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(tree)}
    theirs = {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(reference)}
    for path, leaf in theirs.items():
        if path not in ours:
            raise ValueError(f"{name} has no leaf {path or '(root)'}, which {reference_name} has")
        if jnp.shape(ours[path]) != jnp.shape(leaf):
            raise ValueError(
                f"{name}{path} has shape {jnp.shape(ours[path])}, "
                f"but {reference_name}{path} has shape {jnp.shape(leaf)}"
            )
    for path in ours:
        if path not in theirs:
            raise ValueError(f"{name} has a leaf {path or '(root)'}, which {reference_name} lacks")
    ours_def, theirs_def = jax.tree.structure(tree), jax.tree.structure(reference)
    if ours_def != theirs_def:
        raise ValueError(f"{name} is a {ours_def}, but {reference_name} is a {theirs_def}")


def check_scalar(found: Any, has_aux: bool) -> None:
    """Raises unless a loss's output is one real floating-point scalar.

    With `has_aux`, unless it is a pair whose first element is.
    """
    out: Any = found
    if has_aux:
        if not isinstance(out, tuple) or len(out) != 2:
            raise TypeError(f"with has_aux, loss_fn must return (scalar, auxiliary), got {out}")
        out = out[0]
    elif isinstance(out, tuple) and len(out) == 2:
        raise TypeError(
            f"loss_fn must return a scalar, got {out}; has_aux=True is for (scalar, auxiliary)"
        )
    if not jax.tree_util.all_leaves([out]) or not _is_number(out):
        raise TypeError(f"loss_fn must return a scalar, got {out}")
    shape, dtype = np.shape(out), jnp.result_type(out)
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"loss_fn must return a real scalar, got shape {shape}, dtype {dtype}")


def _is_number(x: Any) -> bool:
    return hasattr(x, "dtype") or isinstance(x, int | float | complex)
