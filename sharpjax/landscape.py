"""The loss itself along a direction: how far down it really goes, and where it turns up again."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax._arguments import join
from sharpjax._expansions import magnitudes, one_by_one
from sharpjax._line_search import LARGEST, SMALLEST, Line, search
from sharpjax.directions import step_of_size
from sharpjax.objective import (
    LossFn,
    Objective,
    Params,
    divided,
    objective,
    result,
    static,
    widen,
)

# Steps that one compiled call can take; it evaluates no more than it is given.
_ROOM = 16


@result
class LineSearch:
    """The loss along a unit direction, as `search_along` saw it."""

    steps: np.ndarray
    """All distances that were evaluated, ascending from 0, in float64."""
    losses: np.ndarray
    """The loss at each of them."""
    best_step: float
    """The step of least loss; 0 if none lowers it, NaN with status "not finite"."""
    best_decrease: float
    """loss(0) − loss(best_step); 0 and NaN likewise."""
    critical_step: float
    """The least step at which the loss, having been lower, is back at its start.

    Twice the Newton step on a convex quadratic. 0 if no step lowers the loss, infinite if the loss
    stays below its start as far as 1e30, NaN where it is not known ("budget", "not finite").
    """
    status: str = static()
    """How the search ended.

    * "minimum": at a step that no other is seen to go below.
    * "no decrease": no step lowers the loss by more than its resolution.
    * "unbounded": the loss falls to −∞, or was still falling at a step of 1e30.
    * "budget": `max_evaluations` were spent; the fields say what was seen by then.
    * "not finite": the direction is not, or no loss is at any step that could be seen.
    """


def loss_along(
    loss_fn: LossFn,
    params: Params,
    direction: Any,
    steps: Any,
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
) -> jax.Array:
    """The loss at params + step·v for each step, v = direction/‖direction‖₂.

    May be jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar. It is compiled and kept as
            `jax.jit` keeps a function: what it captures is frozen at the first call, so pass what
            changes in `args`; passing the same object again compiles nothing.
        params: Pytree of real floating-point arrays.
        direction: Pytree like `params`, of any scale. A zero direction stays where it is; one that
            is not finite has NaN everywhere.
        steps: [S], distances in parameter space.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            loss is the mean over the first axis.
        args: Extra arguments of the loss, such as a dropout key or batch statistics, one value for
            all micro-batches and steps. Arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        [S] losses, in float32 or wider.

    Raises:
        ValueError: steps not one-dimensional; direction unlike `params`; empty or ragged `batches`.
        TypeError: complex or integer leaves; a loss that is not a real scalar.

    Cost: S forward passes a micro-batch; one copy of the parameters beside the unit direction.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2)
        >>> x, batches = jnp.array([4.0, 0.0]), jnp.ones((1, 1))
        >>> sharpjax.loss_along(loss, x, -x, [0.0, 4.0, 5.0], batches).tolist()
        [16.0, 0.0, 1.0]
    """
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    measured.check_directions({"direction": direction})
    steps = widen(jnp.asarray(steps))
    if steps.ndim != 1:
        raise ValueError(f"steps must have one axis, got shape {steps.shape}")
    return measured.run(_losses, direction, steps)


def search_along(
    loss_fn: LossFn,
    params: Params,
    direction: Any,
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
    initial_step: float | None = None,
    points: int = 12,
    max_evaluations: int = 100,
) -> LineSearch:
    """Finds the step of least loss along a direction, and the one where the loss is back at its
    start, from any starting scale.

    From `initial_step`, larger steps are tried while the loss falls or does not change visibly, and
    smaller ones while it is higher; visible is more than 4 units in the last digit of the loss.
    Then `points` equal steps cover [0, the critical step], for plotting (or 4 times the bracket of
    the least loss, if that is shorter), and Brent's method refines the minimum between its
    neighbours. Where the loss has several minima along the line, it is the lowest that was met.
    Losses that are not finite count as above the start.

    It looks at values, so it cannot be jitted; only its losses are compiled.

    Args:
        loss_fn: As in `loss_along`, like all arguments that are not listed here.
        params: Pytree of real floating-point arrays.
        direction: Pytree like `params`, of any scale.
        batches: As in `loss_along`.
        args: As in `loss_along`.
        has_aux: As in `loss_along`.
        initial_step: Where to start, a distance > 0. By default the Newton step, for which slope
            and sharpness are measured (one more compiled call); where there is none, a thousandth
            of ‖params‖, or 1 if that is 0. Pass `DirectionStats.newton_step` if it is known.
        points: Evaluations of the plotted grid, at least 3.
        max_evaluations: Of the loss, all in all, at least 1.

    Returns:
        A `LineSearch`. For a direction that is not finite, it has only the loss at 0 and status
        "not finite".

    Raises:
        ValueError: initial_step not positive and finite; points < 3; max_evaluations < 1; a loss
            that is not finite at params; otherwise as `loss_along`.

    Cost: forward passes over all batches, one for each of `steps`: typically 30 to 40; if
    `initial_step` is None, 2 gradients beside them.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2)
        >>> x = jnp.array([3.0, 4.0])
        >>> found = sharpjax.search_along(loss, x, -x, jnp.ones((1, 1)))
        >>> found.status, round(found.best_step, 2), round(found.critical_step, 2)
        ('minimum', 5.0, 10.0)
    """
    for name, value, least in (("points", points, 3), ("max_evaluations", max_evaluations, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value!r}")
    if initial_step is not None and not 0 < initial_step < math.inf:
        raise ValueError(f"initial_step must be positive and finite, got {initial_step!r}")
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    measured.check_directions({"direction": direction})
    resolution = float(measured.run(_resolution))
    (*_, size), (*divisors, length) = magnitudes(measured, [params, direction])
    # NaN·0 is NaN: the loss at params is seen along a direction that is finite.
    finite = direction
    if not math.isfinite(length):
        finite, divisors = jax.tree.map(jnp.zeros_like, direction), [1.0, 1.0]
    line = Line(_evaluator(measured, finite, divisors), max_evaluations, resolution)
    line.look(0.0)
    if not math.isfinite(line.seen[0.0]):
        raise ValueError(f"the loss at params must be finite, got {line.seen[0.0]}")
    if not math.isfinite(length):
        status, best, critical = "not finite", math.nan, math.nan
    elif length == 0:
        status, best, critical = "no decrease", 0.0, 0.0
    else:
        first = initial_step or newton_step(measured, direction) or step_of_size(float(size))
        status, best, critical = search(line, first, points)
    steps = line.steps()
    losses = np.array([line.seen[step] for step in steps])
    decrease = math.nan if math.isnan(best) else line.seen[0.0] - line.seen[best]
    return LineSearch(np.array(steps), losses, best, decrease, critical, status)


def _evaluator(
    measured: Objective, direction: Any, divisors: Sequence[float]
) -> Callable[[Sequence[float]], list[float]]:
    """The losses at any number of steps, by one compiled call that takes `_ROOM` of them."""
    dtype = np.dtype(jnp.result_type(float))
    scales = np.asarray(divisors, dtype)

    def losses_at(steps):
        found = []
        for first in range(0, len(steps), _ROOM):
            some = np.asarray(steps[first : first + _ROOM], dtype)
            padded = np.pad(some, (0, _ROOM - len(some)))
            losses = measured.run(_first_losses, direction, scales, padded, np.int32(len(some)))
            found += np.asarray(losses, np.float64)[: len(some)].tolist()
        return found

    return losses_at


def newton_step(measured: Objective, direction: Any) -> float | None:
    """−slope/sharpness where that is a minimum; None also for a loss without derivatives.

    It is only a guess of the scale, so nobody is warned of how it was had.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # By the programs of `measure_directions`, which are often compiled by then.
            found = one_by_one(measured, lambda _: direction, 1, "auto", 1)
            slope, sharpness = float(found.slopes[0]), float(found.sharpnesses[0])
        except Exception:  # JAX refuses with many types; errors of the loss were found before.
            return None
    step = -slope / sharpness if slope < 0 < sharpness else math.nan
    return step if SMALLEST < step < LARGEST else None


def _losses(objective: Objective, direction: Any, steps: jax.Array) -> jax.Array:
    unit, _ = objective.unit(direction)
    return jax.lax.map(lambda step: _loss_at(objective, unit, step), steps)


def _first_losses(
    objective: Objective, direction: Any, divisors: jax.Array, steps: jax.Array, count: Any
) -> jax.Array:
    """Those of the first `count` steps, so that one program serves any number of them."""
    unit = objective.like_params(divided(widen(direction), *divisors))
    kind = jax.eval_shape(lambda: _loss_at(objective, unit, steps[0]))
    return jax.lax.fori_loop(
        0,
        count,
        lambda i, losses: losses.at[i].set(_loss_at(objective, unit, steps[i])),
        jnp.zeros(len(steps), kind.dtype),
    )


def _loss_at(objective: Objective, unit: Any, step: jax.Array) -> jax.Array:
    there = jax.tree.map(lambda p, v: p + step.astype(p.dtype) * v, objective.params, unit)
    return jnp.mean(objective.each(lambda loss: loss(there)))


def _resolution(objective: Objective) -> jax.Array:
    """One unit in the last digit of the loss, relative to it.

    A loss in 16 bits is coarser than its mean, in which the rounding of M micro-batches averages.
    """
    first = jax.tree.map(lambda x: x[0], objective.batches)
    args = lambda: join(objective.traced, objective.rest)  # noqa: E731
    out = jax.eval_shape(lambda: objective.loss_fn(objective.params, first, *args()))
    own = (out[0] if objective.has_aux else out).dtype
    mean = jnp.promote_types(own, jnp.float32)
    epsilon = max(jnp.finfo(own).eps / objective.count**0.5, jnp.finfo(mean).eps)
    return jnp.asarray(float(epsilon))
