"""Slopes, sharpnesses and Hessian products of many directions, by micro-batch.

Under a transformation one program loops over micro-batches and directions; a branch for each hands
it over, so that the program grows with their number. Elsewhere Python loops, over two programs: one
of what directions share, one of a direction, which compile once for any number of them and read
each where it lies.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jax.tree_util import Partial

from sharpjax import _programs as programs
from sharpjax.objective import (
    Objective,
    divided,
    dot,
    linearize_gradient,
    magnitude,
    standard_error,
    widen,
)
from sharpjax.taylor import Expansion, taylor

# Slope and sharpness of a direction of such a length, divided by it and by its square, are as good
# as those of the unit direction: nothing on the way to them leaves float32's range.
_SAFE = 2.0**-20, 2.0**20

# All directions together, up to which one call goes through them in a loop on a CPU. XLA takes its
# temporaries from the system anew for each call there, a third of the time of a small model.
_LOOPED_BYTES = 2**28


def is_traced(*trees: Any) -> bool:
    """Whether a transformation is at work, on some of these or, as `jit` is, on all there is."""
    anything = jnp.zeros(())
    return any(isinstance(x, Tracer) for x in [anything, *jax.tree.leaves(trees)])


def magnitudes(objective: Objective, updates: Sequence[Any]) -> list[tuple]:
    """`magnitude` of each, measured before a program makes units of them all."""
    if is_traced(objective.params, objective.batches, objective.traced, updates):
        return [objective.run(_magnitude, u) for u in updates]
    return [_size(objective, u) for u in updates]


# One program -------------------------------------------------------------------------------------


def in_one_program(objective: Objective, makers: list[Callable], method, chunk) -> Expansion:
    """The statistics of directions that are given as functions that make them, all alike."""
    makers = [lambda make=make: objective.like_sharding(make()) for make in makers]

    def make(i):
        return makers[0]() if len(makers) == 1 else jax.lax.switch(i, makers)

    indices = jnp.arange(len(makers))
    scales, divisors, norms = jax.lax.map(lambda i: magnitude(make(i)), indices)

    def unit(i):
        return objective.like_params(divided(make(i), scales[i], divisors[i]))

    def one_micro_batch(loss):
        loss, along = taylor(loss, objective.params, method)
        return loss, *_map_chunks(along, unit, len(makers), chunk)

    losses, slopes, sharpnesses = objective.each(one_micro_batch)
    return _summary(losses, slopes, sharpnesses, norms)


def _map_chunks(along, unit, count, chunk):
    """Stacks [K] of what `along` says of K unit directions; `chunk` of them at a time."""
    if chunk == 1:
        return jax.lax.map(lambda i: along(unit(i)), jnp.arange(count))

    def measure(first, size):
        return _along_all(along, [unit(first + j) for j in range(size)])

    parts = []
    if count >= chunk:
        whole = jax.lax.map(lambda i: measure(i * chunk, chunk), jnp.arange(count // chunk))
        parts.append(jax.tree.map(jnp.ravel, whole))
    if count % chunk:
        parts.append(measure(count // chunk * chunk, count % chunk))
    return jax.tree.map(lambda *xs: jnp.concatenate(xs), *parts)


def _along_all(along, directions):
    return jax.vmap(along)(jax.tree.map(lambda *vs: jnp.stack(vs), *directions))


@jax.jit
def _summary(losses, slopes, sharpnesses, norms) -> Expansion:
    """Means and errors of [M], [M, K] and [M, K] samples along directions of K norms."""
    zero = norms == 0
    return Expansion(
        losses.mean(),
        slopes.mean(0),
        jnp.where(zero, jnp.nan, sharpnesses.mean(0)),
        norms,
        standard_error(slopes),
        jnp.where(zero, jnp.nan, standard_error(sharpnesses)),
    )


# A program for all directions ---------------------------------------------------------------------


def held(objective: Objective, updates: list, method: str, chunk: int) -> Expansion:
    """The same of directions that are there, outside of transformations."""
    updates = [jax.tree.map(jnp.asarray, u) for u in updates]
    looped = chunk == 1 and _may_be_looped(objective, updates)
    chunk = len(updates) if looped else chunk
    return one_by_one(objective, updates.__getitem__, len(updates), method, chunk, looped)


def _may_be_looped(objective: Objective, updates: list) -> bool:
    """Whether directions are several, small, and on a single CPU, as all else is."""
    leaves = jax.tree.leaves((objective.params, objective.batches, objective.traced, updates))
    devices = {d for x in leaves if isinstance(x, jax.Array) for d in x.sharding.device_set}
    alone = len(devices) == 1 and next(iter(devices)).platform == "cpu"
    size = sum(x.nbytes for x in jax.tree.leaves(updates))
    return alone and len(updates) > 1 and size <= _LOOPED_BYTES


def one_by_one(
    objective: Objective, make: Callable, count: int, method: str, chunk: int, looped: bool = False
) -> Expansion:
    """The same of directions `make(k)`, outside of transformations.

    A direction is measured as it is, and its numbers are divided by its length: only one of extreme
    length is made a unit direction first. What is found is waited for, so that the temporaries of
    no two chunks, or micro-batches, are held at once. A chunk is measured together, or `looped`.
    """
    objective = _on_device(objective)
    sizes = [_size(objective, make(k)) for k in range(count)]

    def measure(along, some):
        made = [_measurable(objective, make(k), sizes[k], along.func.narrow) for k in some]
        directions, lengths = zip(*made, strict=True)
        if looped:  # Stacked by the host: that compiles nothing.
            stacked = jax.tree.map(lambda *us: np.stack(us), *directions)
            found = objective.run(_along_in_turn, along, stacked)
        else:
            found = objective.run(_along, along, [*directions])
        slopes, sharpnesses = jax.device_get(found)
        lengths = np.asarray(lengths, slopes.dtype)
        return slopes / lengths, sharpnesses / lengths**2

    def micro_batch(m):
        loss, along = objective.run(_shared, np.int32(m), expand=taylor, method=method)
        groups = [range(i, min(i + chunk, count)) for i in range(0, count, chunk)]
        found = [measure(along, some) for some in groups]
        return jax.device_get(loss), *map(np.concatenate, zip(*found, strict=True))

    rows = zip(*map(micro_batch, range(objective.count)), strict=True)
    losses, slopes, sharpnesses = map(np.stack, rows)
    return _summary(losses, slopes, sharpnesses, np.stack([norm for *_, norm in sizes]))


def products(objective: Objective, updates: Sequence[Any]) -> tuple[Expansion, Any, Any]:
    """Likewise the products of K directions with the Hessian and each other.

    Returns:
        Slopes and sharpnesses; the cosines VᵀV, [K, K]; and VᵀHV of every micro-batch, [M, K, K].
    """
    objective = _on_device(objective)
    updates = [jax.tree.map(jnp.asarray, u) for u in updates]  # Copied to the device once.
    sizes = [_size(objective, u) for u in updates]

    def products_with(directions, lengths, tree):
        found = jax.device_get([objective.run(_dot, u, tree) for u in directions])
        return np.stack(found) / np.asarray(lengths, found[0].dtype)

    def micro_batch(m):
        (loss, gradient), along = objective.run(_shared, np.int32(m), expand=_hessian)
        made = [
            _measurable(objective, u, size, along.func.narrow)
            for u, size in zip(updates, sizes, strict=True)
        ]
        with_all = functools.partial(products_with, *zip(*made, strict=True))
        slopes = with_all(gradient)
        curvature = np.stack(
            [with_all(objective.run(_product, along, u)) / length for u, length in made]
        )
        # They do not depend on the micro-batch, but on which of them are unit directions.
        gram = np.stack([with_all(u) / length for u, length in made]) if m == 0 else None
        return jax.device_get(loss), slopes, gram, (curvature + curvature.T) / 2

    losses, slopes, grams, curvatures = zip(*map(micro_batch, range(objective.count)), strict=True)
    curvatures = np.stack(curvatures)
    sharpnesses = np.diagonal(curvatures, axis1=1, axis2=2)
    norms = np.stack([norm for *_, norm in sizes])
    return (
        _summary(np.stack(losses), np.stack(slopes), sharpnesses, norms),
        grams[0],
        curvatures,
    )


def compiled(objective: Objective, method: str, chunk: int) -> tuple[Any, Any]:
    """The programs of `_shared` and of `chunk` directions in `_along`; the arrays may be abstract.

    They are compiled and not run.
    """
    lowered = objective.lower(_shared, np.int32(0), expand=taylor, method=method)
    shared = lowered.compile()
    # The outputs of the one, as XLA lays them out on the devices, are the other's inputs. On one
    # device nothing is said of that: the program is then the one that a measurement runs.
    _, along = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=sharding if sharding.num_devices > 1 else None
        ),
        lowered.out_info,
        shared.output_shardings,
    )
    return shared, objective.lower(_along, along, [objective.params] * chunk).compile()


def _size(objective, u) -> tuple:
    """The numbers of `magnitude`, on the host; where squares are safe, of one pass."""
    norm = np.sqrt(jax.device_get(objective.run(_square, u)))
    if _SAFE[0] < norm < _SAFE[1]:
        return np.ones_like(norm), norm, norm
    return jax.device_get(objective.run(_magnitude, u))


def _measurable(objective, u, size, narrow) -> tuple:
    """A direction that can be measured, and its length."""
    *divisors, norm = size
    if not narrow and _SAFE[0] < norm < _SAFE[1]:
        return u, norm
    return objective.run(_unit, u, *divisors), 1


def _on_device(objective: Objective) -> Objective:
    # With many processes, arrays of the host are everybody's.
    return objective.on_device() if jax.process_count() == 1 else objective


def _square(objective, u):
    u = widen(objective.like_sharding(u))
    return dot(u, u)


def _dot(objective, a, b):
    return dot(*(widen(objective.like_sharding(x)) for x in (a, b)))


def _magnitude(objective, u):
    return magnitude(objective.like_sharding(u))


def _unit(objective, u, scale, divisor):
    return objective.like_params(divided(widen(u), scale, divisor))


def _shared(objective, m, *, expand, **options) -> tuple[Any, Partial]:
    """What `expand` says of a micro-batch's loss: first, a value; then, as `_Along` and what is
    kept for it, the function that it has for each direction.
    """
    at = lambda x: jax.lax.dynamic_index_in_dim(x, m, keepdims=False)  # noqa: E731
    batch = jax.tree.map(at, objective.batches)
    value, along = expand(objective.at(batch), objective.params, **options)
    closed = jax.make_jaxpr(along)(objective.params)
    # What is an input of `_along` too is not kept: it would be copied.
    inputs = {id(x): i for i, x in enumerate(_inputs(objective))}
    sources = tuple(inputs.get(id(x)) for x in closed.consts)
    kept = [x for x, source in zip(closed.consts, sources, strict=True) if source is None]
    return value, Partial(_Along(programs.without_constants(closed), sources), kept)


def _hessian(f, params) -> tuple[tuple, Callable]:
    """(loss, gradient), and v -> Hv."""
    loss, gradient, product = linearize_gradient(f, params)
    return (loss, gradient), product


def _product(objective, along, v):
    leaves = along(_inputs(objective), objective.like_params(v))
    return jax.tree.unflatten(jax.tree.structure(objective.params), leaves)


def _along(objective, along, directions):
    """[K] slopes and sharpnesses of K directions together, not divided by their lengths."""
    inputs = _inputs(objective)
    directions = [objective.like_params(u) for u in directions]
    one = lambda v: along(inputs, v)  # noqa: E731
    if len(directions) == 1:
        return [x[None] for x in one(directions[0])]
    return _along_all(one, directions)


def _along_in_turn(objective, along, directions):
    """The same of stacked directions, one after the other, in the memory of one."""
    inputs = _inputs(objective)
    return jax.lax.map(lambda v: along(inputs, objective.like_params(v)), directions)


def _inputs(objective) -> list:
    return jax.tree.leaves((objective.params, objective.traced))


class _Along:
    """What is computed for a direction, as a program that another one can run."""

    def __init__(self, jaxpr, sources):
        self._jaxpr, self._sources = jaxpr, sources
        self.narrow = programs.is_narrow(jaxpr)

    def __call__(self, kept, inputs, v) -> list:
        kept = iter(kept)
        consts = [next(kept) if i is None else inputs[i] for i in self._sources]
        return core.jaxpr_as_fun(core.ClosedJaxpr(self._jaxpr, consts))(*jax.tree.leaves(v))
