"""Slopes and sharpnesses of many directions, averaged over micro-batches.

Under a transformation one program loops over micro-batches and directions; a branch for each hands
it over, so that the program grows with their number. Elsewhere Python loops, over two programs: one
of what directions share, one of a direction, which compile once for any number of them and read
each where it lies.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core
from jax.tree_util import Partial

from sharpjax import _programs as programs
from sharpjax.objective import Objective, divided, dot, magnitude, standard_error, widen
from sharpjax.taylor import Expansion, taylor

# Slope and sharpness of a direction of such a length, divided by it and by its square, are as good
# as those of the unit direction: nothing on the way to them leaves float32's range.
_SAFE = 2.0**-20, 2.0**20


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


def one_by_one(objective: Objective, make: Callable, count: int, method, chunk) -> Expansion:
    """The same of directions `make(k)`, outside of transformations.

    A direction is measured as it is, and its numbers are divided by its length: only one of extreme
    length is made a unit direction first. What is found is waited for, so that the temporaries of
    no two directions, or micro-batches, are held at once.
    """
    if jax.process_count() == 1:  # Else arrays of the host are everybody's.
        objective = objective.on_device()
    sizes = [_size(objective, make(k)) for k in range(count)]

    def measure(along, some):
        made = [_measurable(objective, make(k), sizes[k], along.func.narrow) for k in some]
        directions, lengths = zip(*made, strict=True)
        slopes, sharpnesses = jax.device_get(objective.run(_along, along, [*directions]))
        lengths = np.asarray(lengths, slopes.dtype)
        return slopes / lengths, sharpnesses / lengths**2

    def micro_batch(m):
        loss, along = objective.run(_shared, np.int32(m), method=method)
        groups = [range(i, min(i + chunk, count)) for i in range(0, count, chunk)]
        found = [measure(along, some) for some in groups]
        return jax.device_get(loss), *map(np.concatenate, zip(*found, strict=True))

    rows = zip(*map(micro_batch, range(objective.count)), strict=True)
    losses, slopes, sharpnesses = map(np.stack, rows)
    return _summary(losses, slopes, sharpnesses, np.stack([norm for *_, norm in sizes]))


def compiled(objective: Objective, method: str, chunk: int) -> tuple[Any, Any]:
    """The programs of `_shared` and of `chunk` directions in `_along`; the arrays may be abstract.

    They are compiled and not run.
    """
    lowered = objective.lower(_shared, np.int32(0), method=method)
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


def _square(objective, u):
    u = widen(objective.like_sharding(u))
    return dot(u, u)


def _magnitude(objective, u):
    return magnitude(objective.like_sharding(u))


def _unit(objective, u, scale, divisor):
    return objective.like_params(divided(widen(u), scale, divisor))


def _shared(objective, m, *, method) -> tuple[jax.Array, Partial]:
    """A micro-batch's loss, and what is to be run for each direction with what is kept for it."""
    at = lambda x: jax.lax.dynamic_index_in_dim(x, m, keepdims=False)  # noqa: E731
    batch = jax.tree.map(at, objective.batches)
    loss, along = taylor(objective.at(batch), objective.params, method)
    closed = jax.make_jaxpr(along)(objective.params)
    # What is an input of `_along` too is not kept: it would be copied.
    inputs = {id(x): i for i, x in enumerate(_inputs(objective))}
    sources = tuple(inputs.get(id(x)) for x in closed.consts)
    kept = [x for x, source in zip(closed.consts, sources, strict=True) if source is None]
    return loss, Partial(_Along(programs.without_constants(closed), sources), kept)


def _along(objective, along, directions):
    """[K] slopes and sharpnesses of K directions together, not divided by their lengths."""
    inputs = _inputs(objective)
    directions = [objective.like_params(u) for u in directions]
    one = lambda v: along(inputs, v)  # noqa: E731
    if len(directions) == 1:
        return [x[None] for x in one(directions[0])]
    return _along_all(one, directions)


def _inputs(objective) -> list:
    return jax.tree.leaves((objective.params, objective.traced))


class _Along:
    """What `taylor` says of a direction, as a program that another one can run."""

    def __init__(self, jaxpr, sources):
        self._jaxpr, self._sources = jaxpr, sources
        self.narrow = programs.is_narrow(jaxpr)

    def __call__(self, kept, inputs, v) -> list:
        kept = iter(kept)
        consts = [next(kept) if i is None else inputs[i] for i in self._sources]
        return core.jaxpr_as_fun(core.ClosedJaxpr(self._jaxpr, consts))(*jax.tree.leaves(v))
