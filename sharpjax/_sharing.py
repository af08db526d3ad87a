"""Equal leaves of a state, held and computed once in a step that is repeated.

Of many optimizers along one trajectory several keep the same moment. None of them is asked which:
it is read off the programs. Two leaves stay equal for ever if `init` computes both by one
expression and so does every step, given that they were equal before it. An expression is a
primitive, its parameters and its operands; what cannot be compared is equal to itself alone, so
that a program that is not understood costs memory and time, never a number.

Leaves that are known to be equal are one and the same array. A state is therefore what it would be
without any of this: one that was changed, or read from a file, is right, and holds again what it
holds in different arrays.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from sharpjax import _programs as programs
from sharpjax._places import on_mesh_of


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["values"], meta_fields=["which", "structure"]
)
@dataclasses.dataclass(frozen=True)
class _Held:
    """A pytree whose equal leaves are there once."""

    values: list[Any]
    which: tuple[int, ...]  # For each leaf, the place of its value.
    structure: Any

    @classmethod
    def by(cls, keys: Iterable, leaves: Iterable, structure: Any) -> "_Held":
        """Leaves of equal keys are the first of them."""
        places, values, which = {}, [], []
        for key, leaf in zip(keys, leaves, strict=True):
            which.append(places.setdefault(key, len(places)))
            if len(values) < len(places):
                values.append(leaf)
        return cls(values, tuple(which), structure)

    @property
    def leaves(self) -> list:
        return [self.values[i] for i in self.which]

    @property
    def tree(self) -> Any:
        return self.structure.unflatten(self.leaves)


def init_once(init: Callable[[Any], Any], params: Any) -> Any:
    """`init(params)`, where leaves that one expression computes are one array, none of params'."""
    leaves, structure = jax.tree.flatten(init(params))
    of_params = set(map(id, jax.tree.leaves(params)))
    leaves = [jnp.copy(x) if id(x) in of_params else x for x in leaves]
    leaves = on_mesh_of(params, leaves)
    try:
        numbers = programs.numbered(jax.make_jaxpr(init)(params))
    except Exception:  # What cannot be traced shares nothing.
        return structure.unflatten(leaves)
    # Where an array lies is not part of a program.
    places = [getattr(leaf, "sharding", None) for leaf in leaves]
    return _Held.by(zip(numbers, places, strict=True), leaves, structure).tree


def compiled_once(*steps: Callable[..., tuple[Any, Any]], donate: bool = False) -> list[Callable]:
    """Each `step(state, *operands)` -> (results, state), compiled; equal leaves are held once.

    The steps make the same of the state, and differ in their results. With `donate` they take over
    its arrays.
    """
    settled: dict[tuple, tuple] = {}

    def compiled(step):
        run = jax.jit(functools.partial(_run, step), donate_argnums=(0,) if donate else ())

        def call(state, *operands):
            leaves, structure = jax.tree.flatten(state)
            held = _Held.by(map(id, leaves), leaves, structure)
            if held.which not in settled:
                which = settled[held.which] = _settled(run, held, operands)
                settled[which] = which
            held = _Held.by(settled[held.which], leaves, structure)
            if donate:  # What is equal now and not afterwards is one array still.
                first = {id(x): i for i, x in reversed(list(enumerate(held.values)))}
                values = [
                    x if first[id(x)] == i else jnp.copy(x) for i, x in enumerate(held.values)
                ]
                held = dataclasses.replace(held, values=values)
            results, held = run(held, *operands)
            return results.tree, held.tree

        return call

    return [compiled(step) for step in steps]


def _settled(run, held: _Held, operands) -> tuple[int, ...]:
    """The coarsest grouping, of leaves that are equal now, that the step keeps.

    Found without compiling anything, so that one program serves the first step and all others.
    """
    while True:
        _, after = jax.eval_shape(run, held, *operands)
        if after.which == held.which or after.structure != held.structure:
            return held.which
        held = _Held.by(after.which, held.leaves, held.structure)


def _run(step, held: _Held, *operands) -> tuple[_Held, _Held]:
    """One step. Leaves of the state that were not equal before it are not afterwards."""

    def of_values(values, *operands):
        return step(dataclasses.replace(held, values=values).tree, *operands)

    closed, shapes = jax.make_jaxpr(of_values, return_shape=True)(held.values, *operands)
    keys = programs.numbered(closed)
    # XLA, too, computes equal expressions once, and leaves out what nobody asks for.
    leaves = core.jaxpr_as_fun(closed)(*jax.tree.leaves((held.values, operands)))

    results, structure = map(jax.tree.structure, shapes)
    n = results.num_leaves
    before = held.which if structure == held.structure else [None] * structure.num_leaves
    return (
        _Held.by(keys[:n], leaves[:n], results),
        _Held.by(zip(keys[n:], before, strict=True), leaves[n:], structure),
    )
