"""The loss over the plane of two updates."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax.landscape import newton_step
from sharpjax.objective import LossFn, Objective, Params, dot, objective, result

# The sine of the angle below which the second axis would be rounding.
_PARALLEL = 1e-4


@result
class LossPlane:
    """loss(params + x·â + y·ĉ): â = a/‖a‖, and ĉ the unit vector of what of b is orthogonal to a.

    Distances are in parameter space, and the start is at (0, 0).
    """

    x: jax.Array
    """[P] distances along a, ascending."""
    y: jax.Array
    """[P] distances along b's remainder, ascending."""
    losses: jax.Array
    """[P, P] losses; row i has y[i], column j has x[j]."""
    of_a: jax.Array
    """[2] where the update a leads to: (‖a‖, 0)."""
    of_b: jax.Array
    """[2] where the update b leads to: (b·â, b·ĉ), of length ‖b‖; the latter is positive."""


def loss_plane(
    loss_fn: LossFn,
    params: Params,
    a: Any,
    b: Any,
    batches: Any,
    *,
    points: int = 25,
    extent: float | Sequence[float] | None = None,
    args: tuple = (),
    has_aux: bool = False,
) -> LossPlane:
    """The loss on a grid over the plane that two updates span.

    The grid depends on the directions of the updates only, so that their rates do not matter,
    unless the loss is convex along neither. It looks at values, so it cannot be jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays.
        a: An update, a pytree like `params`: the first axis is along it.
        b: Another one, not parallel to it.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            loss is the mean over the first axis.
        points: P, on each axis, at least 2.
        extent: How far the grid goes: a distance > 0 to each side of the start, or the four ends
            (x₀, x₁, y₀, y₁). By default it holds the start and, along each update, twice the Newton
            step, where a quadratic is back at its start; the updates' own ends where the loss is
            convex along neither; and a quarter more on all sides.
        args: Extra arguments of the loss. Arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        A `LossPlane` in float32 or wider. Losses that are not finite stay what they are.

    Raises:
        ValueError: a or b unlike `params`, zero, or not finite; a and b parallel, within an angle
            of 1e-4; points < 2; an extent that is neither a positive distance nor ascending ends;
            empty or ragged `batches`.
        TypeError: complex or integer leaves; a loss that is not a real scalar.

    Cost: P² forward passes a micro-batch, one after the other; one copy of the parameters beside
    the two axes. Without `extent`, 4 gradients.

    Example:
        >>> import jax.numpy as jnp
        >>> from sharpjax.plane import loss_plane
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2)
        >>> a, b = jnp.array([2.0, 0.0]), jnp.array([1.0, 3.0])
        >>> plane = loss_plane(loss, jnp.zeros(2), a, b, jnp.ones((1, 1)), points=3, extent=1.0)
        >>> plane.losses.tolist()
        [[2.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 2.0]]
        >>> [round(float(x), 3) for x in plane.of_b]
        [1.0, 3.0]
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, got {points!r}")
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    updates = {"a": a, "b": b}
    measured.check_directions(updates)
    *lengths, cosine, sine = map(float, measured.run(_geometry, a, b))
    for name, length in zip(updates, lengths, strict=True):
        if not 0 < length < math.inf:
            raise ValueError(f"{name} must be finite and not zero, got an update of norm {length}")
    if not sine > _PARALLEL:
        raise ValueError(f"a and b must span a plane, got parallel updates of cosine {cosine}")
    ways = np.array([[1.0, 0.0], [cosine, sine]])
    of_a, of_b = ways * np.array(lengths)[:, None]
    if extent is None:
        steps = [newton_step(measured, update) for update in updates.values()]
        ends = [2 * step * way for step, way in zip(steps, ways, strict=True) if step is not None]
        box = _around(ends or [of_a, of_b])
    else:
        box = _given(extent)
    x, y = (np.linspace(low, high, points) for low, high in box)
    losses = measured.run(_losses, a, b, x, y)
    kind = losses.dtype
    return LossPlane(*(jnp.asarray(field, kind) for field in (x, y, losses, of_a, of_b)))


def _around(ends: list[np.ndarray]) -> np.ndarray:
    """[[x₀, x₁], [y₀, y₁]] around the start and these points, no side much shorter than the other.

    A quarter of the longer side is added all around.
    """
    corners = np.stack([np.zeros(2), *ends])
    low, high = corners.min(0), corners.max(0)
    margin = np.max(high - low) / 4
    return np.stack([low - margin, high + margin], axis=1)


def _given(extent) -> np.ndarray:
    ends = np.asarray(extent, np.float64)
    if ends.shape == ():
        ends = ends * np.array([-1.0, 1.0, -1.0, 1.0])
    box = ends.reshape(2, 2) if ends.shape == (4,) else np.full((2, 2), np.nan)
    if not (np.all(np.isfinite(box)) and np.all(box[:, 0] < box[:, 1])):
        raise ValueError(
            f"extent must be a distance > 0 or ascending ends (x0, x1, y0, y1), got {extent!r}"
        )
    return box


def _axes(objective: Objective, a: Any, b: Any) -> tuple:
    """(â, ĉ, ‖a‖, ‖b‖, cosine, sine) of the angle between a and b."""
    unit_a, length_a = objective.unit(a)
    unit_b, length_b = objective.unit(b)
    along = lambda c: jax.tree.map(lambda x, y: x - c.astype(x.dtype) * y, rest, unit_a)  # noqa: E731
    cosine, rest = dot(unit_a, unit_b), unit_b
    rest = along(cosine)
    # Once more for what rounding has left of a.
    rest = along(dot(unit_a, rest))
    unit_c, sine = objective.unit(rest)
    return unit_a, unit_c, length_a, length_b, cosine, sine


def _geometry(objective: Objective, a: Any, b: Any) -> tuple:
    return _axes(objective, a, b)[2:]


def _losses(objective: Objective, a: Any, b: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    unit_a, unit_c, *_ = _axes(objective, a, b)

    def at(point):
        move = lambda p, u, v: p + point[0].astype(p.dtype) * u + point[1].astype(p.dtype) * v  # noqa: E731
        there = jax.tree.map(move, objective.params, unit_a, unit_c)
        return jnp.mean(objective.each(lambda loss: loss(there)))

    grid = jnp.meshgrid(x, y)
    return jax.lax.map(at, tuple(jnp.ravel(axis) for axis in grid)).reshape(len(y), len(x))
