"""Everything that is measured of many updates at one point."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from sharpjax._checks import check_in_range
from sharpjax.clipping import top_fraction_threshold
from sharpjax.directions import (
    DirectionStats,
    check_options,
    measure_directions,
    newton_start,
    statistics,
)
from sharpjax.landscape import LineSearch, search_along
from sharpjax.magnitudes import magnitude_histogram, top_overlap, top_share
from sharpjax.objective import LossFn, Params, result, static, updates_objective
from sharpjax.precision import Precision, measure_precision
from sharpjax.subspace import SpanModel, expand_span, measure_span

# Powers of ten between which magnitudes are counted.
EDGES = np.arange(-20.0, 4.25, 0.25)


@result
class Point:
    """What `measure_point` says of many updates at one point.

    Shows itself as a table in a notebook and when printed. `sharpjax.plot` draws it.
    """

    directions: dict[str, DirectionStats]
    """Name -> slope, sharpness, their errors, norm, Newton step, predicted decrease."""
    searches: dict[str, LineSearch] | None
    """Name -> the test loss along the update; None without `landscape`."""
    span: SpanModel | None
    """Cosines and curvature between updates; None without `span`."""
    overlap: Any
    """[K, K]: of the top coordinates of update i, the share that is among update j's."""
    histogram: dict[str, Any]
    """Name -> [len(EDGES) + 1] counts of |update| between the powers of ten EDGES, open at both
    ends; "gradient" is the gradient's, where it was given."""
    top_share: dict[str, Any]
    """Name -> share of ‖u‖² in the top fraction of the coordinates."""
    threshold: Any
    """τ at which that fraction of the gradient's coordinates would be clipped; NaN without it."""
    precision: dict[str, Precision] | None
    """Name -> float32 beside float64; None without `precision`."""
    names: tuple[str, ...] = static()
    """The updates in the order in which they were given: that of `overlap`'s rows and columns.
    (Dicts that pass through JAX come back sorted.)"""
    fraction: float = static()
    """The top fraction that the other fields mean."""
    step: int = static()
    """The training step at which it was measured; 0 on its own."""
    trajectory: str = static()
    """Whose updates led to the point; empty on its own."""

    def to_pandas(self, table: str = "directions") -> Any:
        """One of the tables of `Comparison.to_pandas`, of this point alone."""
        from sharpjax.tables import to_pandas

        return to_pandas([self], table)

    def __repr__(self) -> str:
        return f"<Point of {', '.join(self.names)} at step {self.step}>"

    def __str__(self) -> str:
        from sharpjax.tables import to_text

        return to_text([self])

    def _repr_html_(self) -> str:
        from sharpjax.tables import to_html

        return to_html([self])


def measure_point(
    loss_fn: LossFn,
    params: Params,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    grads: Any = None,
    args: tuple = (),
    has_aux: bool = False,
    landscape: bool = True,
    span: bool = True,
    precision: bool = False,
    fraction: float = 0.05,
    method: str = "auto",
    chunk: int | None = None,
) -> Point:
    """Measures many updates at one point: how steep, how sharp, how far down, how alike.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays.
        updates: Name -> update, a pytree like `params`, of any scale.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches.
        grads: The gradient that the updates came from, a pytree like `params`: for its histogram
            and the clip threshold. None leaves them out.
        args: Extra arguments of the loss.
        has_aux: The loss returns (scalar, anything).
        landscape: Whether the loss is searched along every update (`search_along`).
        span: Whether cosines and curvature between updates are measured (`measure_span`).
        precision: Whether the sharpness is measured in float64 too, on the first micro-batch
            (`measure_precision`).
        fraction: The top fraction of `top_share`, `overlap` and `threshold`.
        method: As in `measure_directions`; with "auto" and `span`, slopes and sharpnesses are those
            of the span's model, which has them anyway.
        chunk: As in `measure_directions`.

    Returns:
        A `Point`.

    Raises:
        ValueError: a fraction outside [0, 1]; otherwise as the measurements named above.
        TypeError: likewise.

    Cost, for K updates and a micro-batch: 1 + 2K gradients with `span`, 1 + K without, and the sum
    of both where `method` names a route; with `landscape` 20 to 40 forward passes for each update.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2) / 2
        >>> x = jnp.array([3.0, 4.0])
        >>> point = sharpjax.measure_point(loss, x, {"gd": -0.1 * x}, jnp.array([[1.0], [1.0]]))
        >>> round(float(point.directions["gd"].step_ratio), 3)
        0.1
        >>> round(point.searches["gd"].best_step, 2)
        5.0
    """
    check_in_range("fraction", fraction, 0.0, 1.0)
    check_options(method, chunk)
    shared = {"args": args, "has_aux": has_aux}
    options = {**shared, "method": method}
    model = None
    if span and method == "auto":
        measured = updates_objective(loss_fn, params, updates, batches, args, has_aux)
        model, table = expand_span(measured, updates)
        directions = statistics(tuple(updates), table)
    else:
        directions = measure_directions(loss_fn, params, updates, batches, **options, chunk=chunk)
        if span:
            model = measure_span(loss_fn, params, updates, batches, **shared)
    searches = None
    if landscape:
        searches = {
            name: search_along(
                loss_fn,
                params,
                update,
                batches,
                initial_step=newton_start(directions[name], params),
                **shared,
            )
            for name, update in updates.items()
        }
    histogram = {name: magnitude_histogram(update, 10.0**EDGES) for name, update in updates.items()}
    threshold = np.nan
    if grads is not None:
        histogram["gradient"] = magnitude_histogram(grads, 10.0**EDGES)
        threshold = np.float64(top_fraction_threshold(grads, fraction))
    return Point(
        directions=directions,
        searches=searches,
        span=model,
        overlap=top_overlap(updates, fraction),
        histogram=histogram,
        top_share={name: top_share(update, fraction) for name, update in updates.items()},
        threshold=threshold,
        precision=measure_precision(loss_fn, params, updates, batches, **options)
        if precision
        else None,
        names=tuple(updates),
        fraction=float(fraction),
        step=0,
        trajectory="",
    )


def at_step(point: Point, step: int, trajectory: str) -> Point:
    """The point with its place on a trajectory, its arrays on the host."""
    return dataclasses.replace(jax.device_get(point), step=step, trajectory=trajectory)
