"""How far float32 stands from float64: the error bar that no standard error shows."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax.directions import measure_directions
from sharpjax.objective import LossFn, Params, objective, result


@result
class Precision:
    """One direction's sharpness on the same examples in two precisions; NumPy scalars."""

    sharpness: Any
    """vᵀHv as the parameters' own dtype has it, float32 at least."""
    sharpness_float64: Any
    """vᵀHv in float64."""
    relative_error: Any
    """|sharpness/sharpness_float64 − 1|."""


def measure_precision(
    loss_fn: LossFn,
    params: Params,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
    method: str = "auto",
    micro_batches: int | None = 1,
) -> dict[str, Precision]:
    """Every update's sharpness in float32 and in float64, one update at a time.

    Parameters, updates and the floats among batches and arguments are widened on the host. A model
    that casts to a narrower type inside still computes in it: what is seen is then the rounding
    outside of it.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, as in `measure_directions`.
        params: Pytree of real floating-point arrays.
        updates: Name -> direction, a pytree like `params`.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of batches.
        args: Extra arguments of the loss.
        has_aux: The loss returns (scalar, anything).
        method: As in `measure_directions`.
        micro_batches: How many of the first micro-batches are used; None takes all.

    Returns:
        Name -> `Precision`.

    Raises:
        ValueError: micro_batches < 1; otherwise as `measure_directions`.

    Cost: two measurements of one direction for each update, one of them in float64: on CPU about
    twice a float32 one's time, and beside it 5 float64 trees like `params`.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**3)
        >>> x = jnp.array([0.1, 0.2])
        >>> found = sharpjax.measure_precision(loss, x, {"u": x}, jnp.ones((1, 1)))["u"]
        >>> bool(found.relative_error < 1e-6)
        True
    """
    if micro_batches is not None and (not isinstance(micro_batches, int) or micro_batches < 1):
        raise ValueError(f"micro_batches must be at least 1 or None, got {micro_batches!r}")
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    some = jax.tree.map(lambda x: x[:micro_batches], measured.batches)
    options = {"has_aux": has_aux, "method": method}
    host = jax.device_get((params, some, args))
    with jax.enable_x64(True):
        params64, some64, args64 = jax.tree.map(_as_float64, host)
    found = {}
    for name in updates:
        update = {name: updates[name]}  # One is held at a time: a mapping may make them.
        narrow = measure_directions(loss_fn, params, update, some, args=args, **options)
        with jax.enable_x64(True):
            update = jax.tree.map(_as_float64, jax.device_get(update))
            wide = measure_directions(loss_fn, params64, update, some64, args=args64, **options)
        close, exact = (np.float64(stats[name].sharpness) for stats in (narrow, wide))
        with np.errstate(divide="ignore", invalid="ignore"):
            found[name] = Precision(close, exact, np.abs(close / exact - 1))
    return found


def _as_float64(x):
    is_float = hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating)
    return jnp.asarray(x, jnp.float64) if is_float else x
