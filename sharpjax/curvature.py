"""Curvature of a loss along directions: vᵀHv for the unit vector v of an update.

Everything is a pure function of `(loss_fn, params, direction, *args)` on pytrees, where
`loss_fn(params, *args)` is a real scalar. Parameters and directions are widened to float32 at
least, and matrix products run at precision "highest", whatever the training used: both were
measured to matter (bfloat16 put t5-small's sharpness 41 % off). What the model computes in inside,
and rounding in float32 itself, remain: compare with float64 before trusting more than two digits.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.experimental import jet

from sharpjax._checks import (
    check_choice,
    check_real_leaves,
    check_same_structure,
    check_scalar_loss,
)
from sharpjax.second_order import second_order

METHODS = ("reverse", "forward", "adjoint")


class DirectionalTaylor(NamedTuple):
    """f(x + s·v) = loss + slope·s + sharpness·s²/2 + O(s³) for the unit vector v; scalars."""

    loss: jax.Array
    slope: jax.Array
    sharpness: jax.Array


class DirectionStats(NamedTuple):
    """What `measure_directions` says of one direction u, v = u/‖u‖; scalars."""

    loss: jax.Array  # Mean over micro-batches.
    slope: jax.Array  # gᵀv, loss per unit of distance.
    sharpness: jax.Array  # vᵀHv, loss per unit of distance squared.
    sharpness_se: jax.Array  # Sample deviation over M micro-batches/√M; NaN with one.
    update_norm: jax.Array  # ‖u‖₂.
    newton_step: jax.Array  # −slope/sharpness, the quadratic's minimum; NaN if it is not convex.
    predicted_decrease: jax.Array  # slope²/(2·sharpness), its decrease there; NaN likewise.


def hvp(loss_fn: Callable, params: Any, direction: Any, *args: Any) -> Any:
    """Hessian-vector product H·direction, by forward-over-reverse differentiation.

    H is the Hessian of `loss_fn(params, *args)` in `params`. The direction is taken as it is, not
    normalised; the product is linear in it, and `jax.vmap` over a stack of directions works.

    Args:
      loss_fn: `loss_fn(params, *args)` -> real scalar, twice differentiable.
      params: Pytree of real floating-point arrays.
      direction: Pytree like `params`.
      *args: Passed on, not differentiated.

    Returns:
      H·direction, a pytree like `params`, in float32 or wider.

    Raises:
      ValueError: direction and params differ in structure or shape (the first path is named).
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost: about 3 gradients (the gradient and its tangent), twice a gradient's memory.

    Source: Pearlmutter, "Fast exact multiplication by the Hessian", 1994.
    """
    params, direction = _prepare(loss_fn, params, direction, *args)
    with jax.default_matmul_precision("highest"):
        return jax.jvp(jax.grad(lambda p: loss_fn(p, *args)), (params,), (direction,))[1]


def directional_taylor(
    loss_fn: Callable, params: Any, direction: Any, *args: Any, method: str = "reverse"
) -> DirectionalTaylor:
    """Loss, slope gᵀv and sharpness vᵀHv along v = direction/‖direction‖₂.

    Args:
      loss_fn: `loss_fn(params, *args)` -> real scalar.
      params: Pytree of real floating-point arrays.
      direction: Pytree like `params`, of any scale. A zero direction has slope 0, sharpness NaN.
      *args: Passed on, not differentiated.
      method: "reverse" is `jvp` of `grad` and a dot product. "forward" carries a second-order
        Taylor expansion through the model (`jax.experimental.jet`) and never runs a backward pass:
        the least memory. Where Taylor mode has no rule, `jvp` of `jvp` takes over, with a warning.
        "adjoint" carries first-order tangents forward and contracts every second-order term with
        its adjoint (`sharpjax.second_order`): the least time for several directions.

    Returns:
      Three scalars, in float32 or wider.

    Raises:
      ValueError: an unknown method; direction and params of different structure or shape.
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost in gradients, counting matrix products: 3 by "reverse", 2 by "forward" and by "adjoint".
    """
    check_choice("method", method, METHODS)
    params, direction = _prepare(loss_fn, params, direction, *args)
    unit, norm = _normalize(direction)
    with jax.default_matmul_precision("highest"):
        loss, along = _taylor(lambda p: loss_fn(p, *args), params, method)
        slope, sharpness = along(unit)
    return DirectionalTaylor(loss, slope, jnp.where(norm > 0, sharpness, jnp.nan))


def directional_sharpness(
    loss_fn: Callable, params: Any, direction: Any, *args: Any, method: str = "reverse"
) -> jax.Array:
    """Sharpness vᵀHv of the loss along v = direction/‖direction‖₂ (Section 3 of the paper).

    The scalar of `directional_taylor`, with its arguments, errors and cost.
    """
    return directional_taylor(loss_fn, params, direction, *args, method=method).sharpness


def coordinate_sharpness(loss_fn: Callable, params: Any, direction: Any, *args: Any) -> Any:
    """What each coordinate contributes to the sharpness: v ⊙ Hv, v = direction/‖direction‖₂.

    The sum over all coordinates is `directional_sharpness`. A contribution may be negative; one of
    them is vᵢ²Hᵢᵢ and half of vᵢ's cross terms with all other coordinates. Arguments, errors and
    cost are those of `hvp`; a zero direction gives NaN.
    """
    params, direction = _prepare(loss_fn, params, direction, *args)
    unit, norm = _normalize(direction)
    product = hvp(loss_fn, params, unit, *args)
    return jax.tree.map(lambda v, h: jnp.where(norm > 0, v * h, jnp.nan), unit, product)


def measure_directions(
    loss_fn: Callable,
    params: Any,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    method: str = "reverse",
    chunk: int | None = None,
    key: jax.Array | None = None,
) -> dict[str, DirectionStats]:
    """Slope, sharpness and their error for many updates at one point, in one compiled call.

    The objective is the mean of `loss_fn(params, batch)` over the micro-batches, which are scanned:
    the peak memory is one micro-batch's. Per micro-batch, what does not depend on the direction is
    computed once and shared.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
        Hashable, as functions are; passing the same object again reuses the compiled call.
      params: Pytree of real floating-point arrays.
      updates: Name -> direction, a pytree like `params`, of any scale (not normalised).
      batches: Pytree whose leaves have two leading axes [micro_batches, micro_batch, …].
      method: "reverse", "forward" or "adjoint", as in `directional_taylor`.
      chunk: How many directions are evaluated together (vmapped); None, one after the other, which
        costs least memory and, on CPU, no time.
      key: One dropout key for all micro-batches and directions, so that the objective is one fixed
        function; None evaluates without.

    Returns:
      Name -> `DirectionStats`, scalars in float32 or wider.

    Raises:
      ValueError: no updates; an update unlike `params`; empty `batches`, or leaves that disagree on
        the number of micro-batches; an unknown method; chunk < 1.
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost of each direction in gradients, counting matrix products: 5/3 by "reverse", 5/3 by
    "forward", 1 by "adjoint"; beside them 1 (2/3 by "adjoint") a micro-batch. Memory beside the
    updates: `chunk` directions, and what the method keeps of one micro-batch: by "forward" no more
    than a gradient's, by "adjoint" about twice, by "reverse" about three times as much.
    """
    check_choice("method", method, METHODS)
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a positive integer or None, got {chunk!r}")
    if not updates:
        raise ValueError(f"updates must name at least one direction, got {updates!r}")
    check_batches(batches)
    check_real_leaves("params", params)
    for name, update in updates.items():
        check_real_leaves(f"updates[{name!r}]", update)
        check_same_structure(f"updates[{name!r}]", update, "params", params)
    extra = () if key is None else (key,)
    check_scalar_loss(loss_fn, params, micro_batch_shape(batches), *extra)
    stats = _measure(loss_fn, params, dict(updates), batches, extra, method, chunk or 1)
    return {name: stats[name] for name in updates}  # The order given; compiled calls sort.


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


@functools.partial(jax.jit, static_argnames=("loss_fn", "method", "chunk"))
def _measure(loss_fn, params, updates, batches, extra, method, chunk):
    params = _widen(params)
    magnitudes = [_magnitude(_widen(update)) for update in updates.values()]
    norms = jnp.stack([norm for _, _, norm in magnitudes])
    # Made where they are used, one chunk at a time: a copy of every update would be the peak.
    units = [
        lambda update=update, magnitude=magnitude: _divide(_widen(update), *magnitude[:2])
        for update, magnitude in zip(updates.values(), magnitudes, strict=True)
    ]

    def one_micro_batch(_, batch):
        loss, along = _taylor(lambda p: loss_fn(p, batch, *extra), params, method)
        return None, (loss, *_map_chunks(along, units, chunk))

    with jax.default_matmul_precision("highest"):
        _, (losses, slopes, sharpnesses) = jax.lax.scan(one_micro_batch, None, batches)
    count = losses.shape[0]
    loss, slope = losses.mean(), slopes.mean(0)
    sharpness = jnp.where(norms > 0, sharpnesses.mean(0), jnp.nan)
    deviation = jnp.std(sharpnesses, axis=0, ddof=1) if count > 1 else jnp.full_like(norms, jnp.nan)
    convex = sharpness > 0
    safe = jnp.where(convex, sharpness, 1)
    table = {
        "slope": slope,
        "sharpness": sharpness,
        "sharpness_se": jnp.where(norms > 0, deviation / count**0.5, jnp.nan),
        "update_norm": norms,
        "newton_step": jnp.where(convex, -slope / safe, jnp.nan),
        "predicted_decrease": jnp.where(convex, slope**2 / (2 * safe), jnp.nan),
    }
    return {
        name: DirectionStats(loss=loss, **{k: v[i] for k, v in table.items()})
        for i, name in enumerate(updates)
    }


def _taylor(f, params, method):
    """The loss f(params), and v -> (slope, sharpness) along a unit direction."""
    if method == "adjoint":
        return second_order(f, params)
    if method == "forward":
        return f(params), _forward(f, params)
    (loss, _), tangent = jax.linearize(jax.value_and_grad(f), params)

    def along(v):
        slope, product = tangent(v)
        return slope, optax.tree.vdot(v, product)

    return loss, along


def _map_chunks(along, units, chunk):
    """Stacks [K] of what `along` says of K units, which are given as functions that make them."""

    def make(group):
        made = [unit() for unit in group]
        return made[0] if chunk == 1 else jax.tree.map(lambda *vs: jnp.stack(vs), *made)

    def measure(made):
        return jax.tree.map(jnp.atleast_1d, along(made) if chunk == 1 else jax.vmap(along)(made))

    count = len(units) // chunk
    groups = [functools.partial(make, units[i * chunk : (i + 1) * chunk]) for i in range(count)]
    parts = []
    if groups:
        whole = jax.lax.map(lambda i: measure(jax.lax.switch(i, groups)), jnp.arange(count))
        parts.append(jax.tree.map(jnp.ravel, whole))
    if len(units) % chunk:
        parts.append(measure(make(units[count * chunk :])))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def _forward(f, params) -> Callable:
    """The function v -> (d/ds, d²/ds²) f(params + s·v) at s = 0, without a backward pass."""
    structure = jax.tree.structure(params)

    def by_jet(params, v):
        series = [(x, jnp.zeros_like(x)) for x in jax.tree.leaves(v)]
        flat = lambda *xs: f(structure.unflatten(xs))  # noqa: E731
        return tuple(jet.jet(flat, jax.tree.leaves(params), series)[1])

    def by_jvp(params, v):
        slope = lambda p: jax.jvp(f, (p,), (v,))[1]  # noqa: E731
        return jax.jvp(slope, (params,), (v,))

    chosen = by_jet
    try:
        jax.eval_shape(by_jet, params, params)
    except Exception as error:  # Taylor mode fails in many ways; an error of f itself shows below.
        jax.eval_shape(by_jvp, params, params)
        warnings.warn(
            f"Taylor mode cannot expand this loss ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}); jvp of jvp takes over",
            stacklevel=2,
        )
        chosen = by_jvp
    # The barrier ties the primal pass to the direction. Else XLA moves it before the loop over
    # directions, and everything that it computes has to be kept: twice the memory, for a seventh
    # of the time.
    return lambda v: chosen(*jax.lax.optimization_barrier((params, v)))


def _prepare(loss_fn, params, direction, *args):
    """Checked and widened params and direction."""
    check_real_leaves("params", params)
    check_real_leaves("direction", direction)
    check_same_structure("direction", direction, "params", params)
    params = _widen(params)
    check_scalar_loss(loss_fn, params, *args)
    dtypes = jax.tree.map(lambda p: p.dtype, params)
    return params, jax.tree.map(lambda d, t: jnp.asarray(d).astype(t), direction, dtypes)


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
