"""The loss itself along a direction: how far down it really goes, and where it turns up again."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

from sharpjax._checks import check_real_leaves, check_same_structure
from sharpjax._legacy import _normalize, _widen, check_batches, check_scalar_loss, micro_batch_shape


class LineSearch(NamedTuple):
    """The loss along a unit direction, as `search_along` saw it.

    `steps` (float64 NumPy, ascending, from 0) and `losses` are all points that were evaluated;
    `best_step` is the one of least loss and `best_decrease` = loss(0) − its loss, both 0 if no step
    lowers the loss.
    """

    steps: np.ndarray
    losses: np.ndarray
    best_step: float
    best_decrease: float


def loss_along(
    loss_fn: Callable,
    params: Any,
    direction: Any,
    steps: Any,
    batches: Any,
    *,
    key: jax.Array | None = None,
) -> jax.Array:
    """The loss at params + step·v for each step, v = direction/‖direction‖₂.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
        Hashable; the same object again reuses the compiled call.
      params: Pytree of real floating-point arrays.
      direction: Pytree like `params`, of any scale; a zero direction stays where it is.
      steps: [S], distances in parameter space.
      batches: Pytree of leaves [micro_batches, micro_batch, …]; the loss is the mean over the
        first axis.
      key: One dropout key for all micro-batches and steps; None evaluates without.

    Returns:
      [S] losses, in float32 or wider.

    Raises:
      ValueError: steps not one-dimensional; direction unlike `params`; empty `batches`.
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost: S forward passes a micro-batch, one parameter copy.
    """
    extra = _check(loss_fn, params, direction, batches, key)
    steps = jnp.asarray(steps)
    if steps.ndim != 1:
        raise ValueError(f"steps must have one axis, got shape {steps.shape}")
    return _losses(loss_fn, params, direction, steps, batches, extra)


def search_along(
    loss_fn: Callable,
    params: Any,
    direction: Any,
    batches: Any,
    *,
    initial_step: float | None = None,
    points: int = 12,
    max_evaluations: int = 100,
    key: jax.Array | None = None,
) -> LineSearch:
    """Finds the step of least loss along a direction, from any starting scale.

    From `initial_step` the step is doubled while the loss falls or halved until it falls (four-fold
    steps after the third, so that a scale 10¹² away costs 20 evaluations), which brackets a
    minimum; `points` equal steps then cover [0, the first step that ends above the start], for
    plotting; and Brent's method refines the minimum between its neighbours. Where the loss has
    several minima along the line, it is the first that the grid resolves.

    Args:
      loss_fn: As in `loss_along`.
      params: As in `loss_along`.
      direction: As in `loss_along`.
      batches: As in `loss_along`.
      initial_step: Where to start, a distance > 0; by default a thousandth of ‖params‖ (1 if that
        is 0). The Newton step of `measure_directions` saves evaluations.
      points: Evaluations of the plotted grid, at least 3.
      max_evaluations: Of the bracketing, at most; float32 sees no decrease below about 1e-7·loss.
      key: As in `loss_along`.

    Returns:
      A `LineSearch`. If no step lowers the loss, best_step and best_decrease are 0.

    Raises:
      ValueError: initial_step not positive and finite; points < 3; a loss that is not finite at
        params; otherwise as `loss_along`.

    Cost: forward passes over all batches, one for each of `steps`: typically 20 to 30.
    """
    if points < 3:
        raise ValueError(f"points must be at least 3, got {points!r}")
    if initial_step is not None and not (0 < initial_step < float("inf")):
        raise ValueError(f"initial_step must be positive and finite, got {initial_step!r}")
    extra = _check(loss_fn, params, direction, batches, key)
    seen: dict[float, float] = {}

    def loss_at(step: float) -> float:
        if step not in seen:
            at = jnp.asarray([step])
            seen[step] = float(_losses(loss_fn, params, direction, at, batches, extra)[0])
        return seen[step] if np.isfinite(seen[step]) else float("inf")

    start = loss_at(0.0)
    if not np.isfinite(start):
        raise ValueError(f"the loss at params must be finite, got {seen[0.0]}")
    first = initial_step or 1e-3 * float(_normalize(_widen(params))[1]) or 1.0
    best = _bracket(loss_at, start, first, max_evaluations)
    if best > 0:
        # The grid ends at the first known step back above the start: a parabola's is 2·best.
        above = [s for s, loss in seen.items() if s > best and not loss < start]
        end = min([*above, 4 * best])
        for step in np.linspace(0, end, points + 1)[1:]:
            loss_at(float(step))
        _refine(loss_at, seen)
    steps = np.array(sorted(seen))
    losses = np.array([seen[s] for s in steps])
    index = int(np.nanargmin(losses))
    return LineSearch(steps, losses, float(steps[index]), float(losses[0] - losses[index]))


def _bracket(loss_at, start, step, max_evaluations) -> float:
    """A step of lower loss than its half and its double, within a factor; 0 if none lowers it."""
    growing = loss_at(step) < start
    for evaluation in range(max_evaluations):
        factor = 2.0 if evaluation < 3 else 4.0
        following = step * factor if growing else step / factor
        if not 1e-30 < following < 1e30:
            break
        if growing and loss_at(following) >= loss_at(step):
            return step
        if not growing and loss_at(following) < start:
            # The first step that lowers the loss on the way down: the minimum may lie below it.
            step = following
            while loss_at(step / 2) < loss_at(step):
                step /= 2
            return step
        step = following
    return step if growing else 0.0


def _refine(loss_at, seen) -> None:
    """Brent's method between the neighbours of the least point so far, to a thousandth of it."""
    steps = sorted(seen)
    i = min(range(len(steps)), key=lambda i: loss_at(steps[i]))
    if 0 < i < len(steps) - 1:
        scipy.optimize.minimize_scalar(
            lambda step: loss_at(float(step)),
            bounds=(steps[i - 1], steps[i + 1]),
            method="bounded",
            options={"maxiter": 8, "xatol": 1e-3 * steps[i]},
        )


def _check(loss_fn, params, direction, batches, key) -> tuple:
    check_batches(batches)
    check_real_leaves("params", params)
    check_real_leaves("direction", direction)
    check_same_structure("direction", direction, "params", params)
    extra = () if key is None else (key,)
    check_scalar_loss(loss_fn, params, micro_batch_shape(batches), *extra)
    return extra


@functools.partial(jax.jit, static_argnames="loss_fn")
def _losses(loss_fn, params, direction, steps, batches, extra):
    params = _widen(params)
    unit, _ = _normalize(_widen(direction))

    def at(step):
        there = jax.tree.map(
            lambda p, v: p + step.astype(p.dtype) * v.astype(p.dtype), params, unit
        )
        add = lambda total, batch: (total + loss_fn(there, batch, *extra), None)  # noqa: E731
        loss_type = jax.eval_shape(loss_fn, there, micro_batch_shape(batches), *extra)
        total, _ = jax.lax.scan(add, jnp.zeros((), loss_type.dtype), batches)
        return total / jax.tree.leaves(batches)[0].shape[0]

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(at, steps)
