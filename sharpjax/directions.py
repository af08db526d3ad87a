"""Slope and sharpness of many updates at one point, with their standard errors."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from sharpjax._checks import check_choice
from sharpjax._expansions import compiled, held, in_one_program, is_traced, one_by_one
from sharpjax.objective import (
    LossFn,
    Objective,
    Params,
    objective,
    result,
    updates_objective,
    widen,
)
from sharpjax.pseudo import PseudoUpdates
from sharpjax.taylor import METHODS, Expansion, finite


@result
class DirectionStats:
    """What `measure_directions` says of one direction u, v = u/‖u‖; scalars."""

    loss: jax.Array
    """Mean over micro-batches."""
    slope: jax.Array
    """gᵀv, loss per unit of distance."""
    slope_se: jax.Array
    """Its standard error: sample deviation over M micro-batches/√M; NaN with one."""
    sharpness: jax.Array
    """vᵀHv, loss per unit of distance squared."""
    sharpness_se: jax.Array
    """Its standard error, as the slope's."""
    update_norm: jax.Array
    """‖u‖₂."""
    newton_step: jax.Array
    """−slope/sharpness, the distance to the quadratic's minimum; NaN if it is not convex."""
    predicted_decrease: jax.Array
    """slope²/(2·sharpness), the quadratic's decrease there; NaN likewise."""

    @property
    def step_ratio(self) -> jax.Array:
        """uᵀHu/(−gᵀu) = ‖u‖/newton_step of the update as it is applied.

        1 is the quadratic's minimum, and beyond 2 the quadratic rises above its start. Negative
        where the loss is concave along u, or where u points uphill; NaN where the slope is 0. To
        first order its relative standard error is at most the sum of the slope's and the
        sharpness's.
        """
        slope = jnp.where(self.slope == 0, jnp.nan, self.slope)
        return -self.update_norm * self.sharpness / slope


def measure_directions(
    loss_fn: LossFn,
    params: Params,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
    method: str = "auto",
    chunk: int | None = None,
) -> dict[str, DirectionStats]:
    """Slope, sharpness and their errors for many updates at one point.

    The objective is the mean of `loss_fn(params, batch, *args)` over the micro-batches, which are
    taken one after the other: the peak memory is one micro-batch's. Per micro-batch, what does not
    depend on the direction is computed once and shared. What is compiled serves any number of
    directions. May be jitted: then all is one program, which takes longer to compile the more
    directions there are.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar. It is compiled and kept as
            `jax.jit` keeps a function: what it captures is frozen at the first call, so pass what
            changes in `args`; passing the same object again compiles nothing.
        params: Pytree of real floating-point arrays.
        updates: Name -> direction, a pytree like `params`, of any scale (not normalised).
        batches: Pytree whose leaves have two leading axes [micro_batches, micro_batch, …], or a
            list of batches of one shape.
        args: Extra arguments of the loss, such as a dropout key, batch statistics or a teacher's
            parameters: one value for all micro-batches and directions, so that the objective is
            one fixed function. Arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.
        method: "auto", "adjoint", "reverse" or "forward", as in `directional_taylor`.
        chunk: How many directions are evaluated together (vmapped); None, one after the other,
            which costs least memory and, on CPU, no time.

    Returns:
        Name -> `DirectionStats`, scalars in float32 or wider. A zero update has slope 0, sharpness
        NaN, norm 0; one that is not finite is NaN in every field but the loss.

    Raises:
        ValueError: no updates; an update unlike `params`; empty or ragged `batches`, or leaves that
            disagree on the number of micro-batches; an unknown method; chunk < 1.
        TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost of each direction in gradients, counting matrix products: 5/3 by "reverse", 5/3 by
    "forward", 1 by "adjoint"; beside them 1 (2/3 by "adjoint") a micro-batch. Memory beside the
    updates: `chunk` directions, and what the method keeps of one micro-batch: by "forward" no more
    than a gradient's, by "adjoint" about twice, by "reverse" about three times as much.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2) / 2
        >>> x, batches = jnp.array([3.0, 4.0]), jnp.array([[1.0], [3.0]])
        >>> stats = sharpjax.measure_directions(loss, x, {"gd": -x}, batches)["gd"]
        >>> [round(float(x), 3) for x in (stats.slope, stats.sharpness, stats.sharpness_se)]
        [-10.0, 2.0, 1.0]
    """
    check_options(method, chunk)
    measured = updates_objective(loss_fn, params, updates, batches, args, has_aux)
    run = lambda m: _measure(measured, [*updates.values()], m, chunk or 1)  # noqa: E731
    return statistics(tuple(updates), finite(run, method))


def measure_updates(
    loss_fn: LossFn,
    params: Params,
    pseudo: PseudoUpdates,
    grads: Any,
    state: Any,
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
    method: str = "auto",
    chunk: int | None = None,
) -> dict[str, DirectionStats]:
    """`measure_directions` of the updates that `pseudo` would make, which are never held.

    The same numbers as `measure_directions(loss_fn, params, pseudo.update(grads, state,
    params)[0], batches)`. Each update is made from its optimizer's state where it is measured, for
    each micro-batch again, so that memory holds `chunk` of them: seven updates of 60 million
    parameters are 1.7 GB. May be jitted, as `measure_directions` may.

    Args:
        loss_fn: As in `measure_directions`, like all arguments that are not listed here.
        params: Pytree of real floating-point arrays.
        pseudo: From `pseudo_updates`.
        grads: The gradient that it is fed with, a pytree like `params`.
        state: Its state before the update.
        batches: As in `measure_directions`.
        args: As in `measure_directions`.
        has_aux: As in `measure_directions`.
        method: As in `measure_directions`.
        chunk: As in `measure_directions`.

    Returns:
        Name -> `DirectionStats`.

    Raises:
        ValueError: as `measure_directions`.
        TypeError: as `measure_directions`; a `pseudo` that is none.

    Cost: that of `measure_directions`, and M + 1 of each optimizer's updates.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2) / 2
        >>> x, pseudo = jnp.array([3.0, 4.0]), sharpjax.pseudo_updates({"sgd": sharpjax.sgd(1.0)})
        >>> stats = sharpjax.measure_updates(loss, x, pseudo, x, pseudo.init(x), jnp.ones((1, 1)))
        >>> round(float(stats["sgd"].sharpness), 3)
        1.0
    """
    check_options(method, chunk)
    if not isinstance(pseudo, PseudoUpdates):
        raise TypeError(f"pseudo must come from pseudo_updates, got {pseudo!r}")
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    measured.check_directions({"grads": grads})

    run = lambda m: _measure_made(measured, pseudo, (grads, state, params), m, chunk or 1)  # noqa: E731
    return statistics(pseudo.names, finite(run, method))


class Compiled(NamedTuple):
    """The programs of a measurement of one micro-batch, as `compile_directions` finds them."""

    shared: jax.stages.Compiled
    """What all directions share."""
    along: jax.stages.Compiled
    """Slope and sharpness of `chunk` directions."""

    @property
    def temporary_bytes(self) -> int:
        """The most that a device holds at once beside parameters, batches and directions.

        NotImplementedError on a backend that does not say.
        """
        shared, along = map(_memory, self)
        temporaries = max(shared.temp_size_in_bytes, along.temp_size_in_bytes)
        return shared.output_size_in_bytes + temporaries

    def total(self, of: Callable[[jax.stages.Compiled], float], groups: int) -> float:
        """A quantity of the programs, summed over a micro-batch with `groups` chunks."""
        return of(self.shared) + groups * of(self.along)


def _memory(program: jax.stages.Compiled) -> Any:
    found = program.memory_analysis()
    if found is None:
        raise NotImplementedError("this backend does not say what its programs hold")
    return found


def compile_directions(
    loss_fn: LossFn,
    params: Params,
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
    method: str = "auto",
    chunk: int | None = None,
) -> Compiled:
    """Compiles what `measure_directions` runs outside of `jit`, and runs nothing.

    Says beforehand what a measurement takes: memory, arithmetic (`cost_analysis`), traffic. All
    arrays may be `jax.ShapeDtypeStruct`, with the shardings of a mesh that is not there.

    Args:
        loss_fn: As in `measure_directions`, like all arguments.
        params: Pytree of real floating-point arrays.
        batches: As in `measure_directions`.
        args: As in `measure_directions`.
        has_aux: As in `measure_directions`.
        method: As in `measure_directions`.
        chunk: As in `measure_directions`.

    Returns:
        `Compiled`.

    Raises:
        ValueError: as `measure_directions`.
        TypeError: as `measure_directions`.

    Cost: the compilation of `measure_directions`.

    Example:
        >>> import jax, jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**3)
        >>> x, batches = (jax.ShapeDtypeStruct(n, jnp.float32) for n in ((1_000,), (1, 1)))
        >>> sharpjax.directions.compile_directions(loss, x, batches).temporary_bytes < 16_000
        True
    """
    check_options(method, chunk)
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    return Compiled(*compiled(measured, method, chunk or 1))


def _measure(objective: Objective, updates: list, method: str, chunk: int) -> Expansion:
    if not is_traced(objective.params, objective.batches, objective.traced, updates):
        return held(objective, updates, method, chunk)
    return objective.run(_measure_in_one, updates, method=method, chunk=chunk)


def _measure_in_one(objective, updates, *, method, chunk):
    dtypes = jax.tree.map(lambda *us: jnp.result_type(*us, jnp.float32), *updates)
    makers = [
        lambda u=u: jax.tree.map(lambda x, dtype: jnp.asarray(x).astype(dtype), u, dtypes)
        for u in updates
    ]
    return in_one_program(objective, makers, method, chunk)


def _measure_made(objective: Objective, pseudo, operands, method, chunk) -> Expansion:
    names = pseudo.names
    if not is_traced(objective.params, objective.batches, objective.traced, operands):
        one = _compiled(pseudo.update_one)
        return one_by_one(objective, lambda k: one(names[k], *operands), len(names), method, chunk)
    options = {"make": pseudo.update_one, "names": names, "method": method, "chunk": chunk}
    return objective.run(_measure_made_in_one, *operands, **options)


@functools.lru_cache(maxsize=16)
def _compiled(update_one: Callable) -> Callable:
    """It compiled: as it is where it is a compiled function, whose programs others may use too."""
    compiled = isinstance(update_one, jax.stages.Wrapped)
    return update_one if compiled else jax.jit(update_one, static_argnums=0)


def _measure_made_in_one(objective, grads, state, params, *, make, names, method, chunk):
    makers = [lambda name=name: widen(make(name, grads, state, params)) for name in names]
    return in_one_program(objective, makers, method, chunk)


def statistics(names, table: Expansion) -> dict[str, DirectionStats]:
    """A user's result, by the names of the directions."""
    fields = _fields(table)
    traced = is_traced(fields)
    # Taken apart on the host, where that compiles nothing.
    fields = fields if traced else jax.device_get(fields)
    loss = fields.pop("loss")
    stats = [
        DirectionStats(loss=loss, **{k: v[i] for k, v in fields.items()}) for i in range(len(names))
    ]
    return dict(zip(names, stats if traced else jax.device_put(stats), strict=True))


@jax.jit
def _fields(table: Expansion) -> dict[str, jax.Array]:
    """The fields of `DirectionStats`: the loss, and the others for all directions [K]."""
    slope, sharpness = table.slopes, table.sharpnesses
    # NaN where there is no sharpness: the comparison is false then.
    convex = sharpness > 0
    safe = jnp.where(convex, sharpness, 1)
    return {
        "loss": table.loss,
        "slope": slope,
        "slope_se": table.slopes_se,
        "sharpness": sharpness,
        "sharpness_se": table.sharpnesses_se,
        "update_norm": table.norms,
        "newton_step": jnp.where(convex, -slope / safe, jnp.nan),
        "predicted_decrease": jnp.where(convex, slope**2 / (2 * safe), jnp.nan),
    }


def newton_start(stats: DirectionStats, params: Params) -> float:
    """Where a search along a direction starts: its Newton step, if it has one downhill.

    Otherwise where `search_along` starts then, without looking for that step again.
    """
    newton = float(stats.newton_step)
    return newton if 0 < newton < math.inf else step_of_size(float(optax.tree.norm(params)))


def step_of_size(size: float) -> float:
    """Where a search starts that knows no more than ‖params‖."""
    return 1e-3 * size if 0 < size < math.inf else 1.0


def check_options(method: str, chunk: int | None) -> None:
    """Raises for an unknown method, and for a chunk that is no positive integer."""
    check_choice("method", method, METHODS)
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk must be a positive integer or None, got {chunk!r}")
