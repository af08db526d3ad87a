"""Curvature of a loss at one point: Hv, and vᵀHv for the unit vector v of a direction.

Everything is a pure function on pytrees. What numbers are computed in is `sharpjax.objective`'s;
what the model computes in inside, and rounding in float32 itself, remain: compare with float64
before trusting more than two digits.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sharpjax._checks import check_choice
from sharpjax.objective import (
    LossFn,
    Objective,
    Params,
    linearize_gradient,
    objective_at_point,
    result,
    widen,
)
from sharpjax.taylor import METHODS, Expansion, finite, taylor


@result
class DirectionalTaylor:
    """f(x + s·v) = loss + slope·s + sharpness·s²/2 + O(s³) for the unit vector v; scalars."""

    loss: jax.Array
    """f(x)."""
    slope: jax.Array
    """gᵀv, loss per unit of distance."""
    sharpness: jax.Array
    """vᵀHv, loss per unit of distance squared."""


def hvp(loss_fn: LossFn, params: Params, direction: Any, *args: Any) -> Any:
    """Hessian-vector product H·direction.

    H is the Hessian of `loss_fn(params, *args)` in `params`. The direction is taken as it is, not
    normalised; the product is linear in it. May be jitted, and mapped over directions.

    Args:
        loss_fn: `loss_fn(params, *args)` -> real scalar, twice differentiable. It is compiled and
            kept as `jax.jit` keeps a function: what it captures is frozen at the first call; pass
            what changes in `args`.
        params: Pytree of real floating-point arrays.
        direction: Pytree like `params`.
        *args: Passed on, not differentiated. Arrays are traced, and so are numbers, unless the loss
            needs their values; all else is static.

    Returns:
        H·direction, a pytree like `params`, in float32 or wider.

    Raises:
        ValueError: direction and params differ in structure or shape (the first path is named).
        TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost: about 3 gradients (the gradient and its tangent), twice a gradient's memory.

    Source: Pearlmutter, "Fast exact multiplication by the Hessian", 1994.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> sharpjax.hvp(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), jnp.ones(2)).tolist()
        [6.0, 12.0]
    """
    measured = objective_at_point(loss_fn, params, args)
    measured.check_directions({"direction": direction})
    return measured.run(_hvp, direction)


def directional_taylor(
    loss_fn: LossFn, params: Params, direction: Any, *args: Any, method: str = "auto"
) -> DirectionalTaylor:
    """Loss, slope gᵀv and sharpness vᵀHv along v = direction/‖direction‖₂.

    May be jitted, and mapped over directions.

    Args:
        loss_fn: `loss_fn(params, *args)` -> real scalar, compiled and kept as `hvp` keeps it.
        params: Pytree of real floating-point arrays.
        direction: Pytree like `params`, of any scale. A zero direction has slope 0, sharpness NaN;
            one that is not finite has NaN in both.
        *args: Passed on, not differentiated, as in `hvp`.
        method: "adjoint" carries first-order tangents forward and contracts every second-order
            term with its adjoint (`sharpjax.second_order`): the least time for several directions.
            "reverse" differentiates the gradient along the direction. "forward" carries a
            second-order Taylor expansion through the model (`jax.experimental.jet`, else `jvp` of
            `jvp`) and never runs a backward pass: the least memory. "auto" is the fastest that the
            loss allows, in this order. A route that cannot differentiate the loss, or whose result
            is not finite where the loss is, hands over to the next one, with a warning.

    Returns:
        A `DirectionalTaylor` of three scalars, in float32 or wider.

    Raises:
        ValueError: an unknown method; direction and params of different structure or shape.
        TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost in gradients, counting matrix products: 3 by "reverse", 2 by "forward" and by "adjoint".

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x: jnp.sum(jnp.array([1.0, 3.0]) * x**2)
        >>> taylor = sharpjax.directional_taylor(loss, jnp.ones(2), jnp.array([0.0, -5.0]))
        >>> [float(x) for x in (taylor.loss, taylor.slope, taylor.sharpness)]
        [4.0, -6.0, 6.0]
    """
    check_choice("method", method, METHODS)
    measured = objective_at_point(loss_fn, params, args)
    measured.check_directions({"direction": direction})
    found = finite(lambda m: measured.run(_along, direction, method=m), method)
    return DirectionalTaylor(found.loss, found.slopes, found.sharpnesses)


def directional_sharpness(
    loss_fn: LossFn, params: Params, direction: Any, *args: Any, method: str = "auto"
) -> jax.Array:
    """Sharpness vᵀHv of the loss along v = direction/‖direction‖₂ (Section 3 of the paper).

    The scalar of `directional_taylor`, with its arguments, errors and cost.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x: jnp.sum(jnp.array([1.0, 3.0]) * x**2)
        >>> float(sharpjax.directional_sharpness(loss, jnp.ones(2), jnp.array([1e-9, 0.0])))
        2.0
    """
    return directional_taylor(loss_fn, params, direction, *args, method=method).sharpness


def coordinate_sharpness(loss_fn: LossFn, params: Params, direction: Any, *args: Any) -> Any:
    """What each coordinate contributes to the sharpness: v ⊙ Hv, v = direction/‖direction‖₂.

    The sum over all coordinates is `directional_sharpness`. A contribution may be negative; one of
    them is vᵢ²Hᵢᵢ and half of vᵢ's cross terms with all other coordinates. Arguments, errors and
    cost are those of `hvp`; a zero direction gives NaN.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x: jnp.sum(jnp.array([1.0, 3.0]) * x**2)
        >>> parts = sharpjax.coordinate_sharpness(loss, jnp.ones(2), jnp.array([3.0, 4.0]))
        >>> [round(float(x), 2) for x in parts]
        [0.72, 3.84]
    """
    measured = objective_at_point(loss_fn, params, args)
    measured.check_directions({"direction": direction})
    return measured.run(_contributions, direction)


def _hvp(objective: Objective, direction):
    direction = objective.like_params(widen(direction))
    return linearize_gradient(objective.at(), objective.params)[2](direction)


def _contributions(objective: Objective, direction):
    unit, norm = objective.unit(direction)
    product = linearize_gradient(objective.at(), objective.params)[2](unit)
    return jax.tree.map(lambda v, h: jnp.where(norm == 0, jnp.nan, v * h), unit, product)


def _along(objective: Objective, direction, *, method) -> Expansion:
    unit, norm = objective.unit(direction)
    loss, along = taylor(objective.at(), objective.params, method)
    slope, sharpness = along(unit)
    return Expansion(loss, slope, jnp.where(norm == 0, jnp.nan, sharpness), norm)
