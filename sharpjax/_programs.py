"""JAX's intermediate programs (jaxprs): running, opening, trimming, and what they hold."""

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Calls whose equations stand for themselves.
_CALLS = ("jit", "pjit", "closed_call")


def run(equations, values: dict) -> None:
    """Evaluates equations; their outputs join the values."""
    for eqn in equations:
        parameters = eqn.primitive.get_bind_params(eqn.params)
        outputs = eqn.primitive.bind(*(read(values, x) for x in eqn.invars), **parameters)
        outputs = outputs if eqn.primitive.multiple_results else [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))


def without_constants(closed) -> Any:
    """The open program of a closed one; JAX 0.12 has one type for both, which holds the values."""
    jaxpr = closed.jaxpr
    return jaxpr.with_consts(()) if hasattr(jaxpr, "with_consts") else jaxpr


def open_calls(closed) -> Any:
    """The same closed program without calls, at its top level."""
    return jax.make_jaxpr(functools.partial(_run_open, closed))(*closed.in_avals)


def _run_open(closed, *args) -> list:
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _CALLS:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            outputs = _run_open(inner, *(read(values, x) for x in eqn.invars))
            values.update(zip(eqn.outvars, outputs, strict=True))
        else:
            run([eqn], values)
    return [read(values, y) for y in jaxpr.outvars]


def trimmed(jaxpr, outputs) -> tuple[list, list]:
    """The equations that some atoms need, each once, and these atoms in terms of them.

    XLA would find both, later: after the equations were lowered, and more slowly.
    """
    same, first, equations = {}, {}, []
    for eqn in jaxpr.eqns:
        eqn = eqn.replace(invars=[_replaced(same, x) for x in eqn.invars])
        try:
            key = eqn.primitive, *map(_identity, eqn.invars), *sorted(eqn.params.items())
            earlier = first.setdefault(key, eqn.outvars)
        except TypeError:  # Parameters that are not hashable, or not comparable.
            earlier = eqn.outvars
        if earlier is eqn.outvars or eqn.effects:
            equations.append(eqn)
        else:
            same.update(zip(eqn.outvars, earlier, strict=True))
    outputs = [_replaced(same, y) for y in outputs]
    needed, kept = set(variables(outputs)), []
    for eqn in reversed(equations):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(variables(eqn.invars))
            kept.append(eqn)
    return kept[::-1], outputs


def _replaced(same, atom):
    return atom if isinstance(atom, core.Literal) else same.get(atom, atom)


def _identity(atom):
    if not isinstance(atom, core.Literal):
        return atom
    return (
        (atom.aval, atom.val.item())
        if jnp.ndim(atom.val) == 0 and hasattr(atom.val, "item")
        else (atom.aval, atom.val)
    )


def numbered(closed) -> list[int]:
    """A number for each output; outputs of equal numbers are equal, whatever the inputs are.

    An expression is a primitive, its parameters, the types of its results, and its operands. One
    that cannot be compared, or does something besides, has a number of its own.
    """
    numbers: dict = {}
    fresh = lambda: numbers.setdefault(object(), len(numbers))  # noqa: E731
    of = lambda key: numbers.setdefault(key, len(numbers))  # noqa: E731

    def walk(closed, inputs) -> list[int]:
        jaxpr = closed.jaxpr
        known = {
            x: of(_constant(x, c)) for x, c in zip(jaxpr.constvars, closed.consts, strict=True)
        }
        known.update(zip(jaxpr.invars, inputs, strict=True))
        number = lambda x: of(_literal(x)) if isinstance(x, core.Literal) else known[x]  # noqa: E731
        for eqn in jaxpr.eqns:
            operands = tuple(map(number, eqn.invars))
            if eqn.primitive.name in _CALLS:
                inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
                results = walk(inner, operands)
            elif eqn.effects:
                results = [fresh() for _ in eqn.outvars]
            else:
                types = tuple(y.aval for y in eqn.outvars)
                try:
                    key = eqn.primitive, operands, types, _form(sorted(eqn.params.items()))
                    results = [of((*key, i)) for i in range(len(types))]
                except TypeError:  # Parameters that are not hashable, or not comparable.
                    results = [fresh() for _ in eqn.outvars]
            known.update(zip(eqn.outvars, results, strict=True))
        return [number(y) for y in jaxpr.outvars]

    return walk(closed, [fresh() for _ in closed.jaxpr.invars])


def _literal(atom):
    """A literal's type and bits: 0 is not −0."""
    return "literal", atom.aval, np.asarray(atom.val).tobytes()


def _constant(variable, value):
    """The same of a constant, if it is small and the host has it."""
    if isinstance(value, jax.Array) or variable.aval.size > 2**12:
        return "constant", variable.aval, id(value)
    return "constant", variable.aval, np.asarray(value).tobytes()


def _form(parameter):
    """A parameter, with numbers for the variables of the programs in it, which make none equal."""
    if isinstance(parameter, tuple | list):
        return tuple(map(_form, parameter))
    if not isinstance(parameter, core.ClosedJaxpr | core.Jaxpr):  # One type from JAX 0.11 on.
        return parameter
    constants = getattr(parameter, "consts", ())
    parameter = getattr(parameter, "jaxpr", parameter)
    constants = [_constant(x, c) for x, c in zip(parameter.constvars, constants, strict=False)]
    inputs = [*parameter.constvars, *parameter.invars]
    numbers: dict = {x: i for i, x in enumerate(inputs)}
    number = lambda x: _literal(x) if isinstance(x, core.Literal) else numbers[x]  # noqa: E731
    lines = []
    for eqn in parameter.eqns:
        operands = *map(number, eqn.invars), *(y.aval for y in eqn.outvars)
        lines.append((eqn.primitive, operands, _form(sorted(eqn.params.items()))))
        for y in eqn.outvars:
            numbers[y] = len(numbers)
    return (*constants, *(x.aval for x in inputs), *lines, *map(number, parameter.outvars))


def contains(eqn, names: tuple[str, ...]) -> bool:
    """Whether an equation is one of these primitives, or has one inside."""
    programs = (getattr(p, "jaxpr", p) for p in jax.tree.leaves(list(eqn.params.values())))
    return eqn.primitive.name in names or any(
        contains(inner, names) for program in programs for inner in getattr(program, "eqns", ())
    )


def has_primitive(jaxpr, names: tuple[str, ...]) -> bool:
    """Whether a program has one of these primitives, its loops, branches and calls included."""
    return any(contains(eqn, names) for eqn in jaxpr.eqns)


def is_narrow(jaxpr) -> bool:
    """Whether a program has floating-point numbers of a smaller range than float32's."""
    programs = (
        getattr(p, "jaxpr", p) for e in jaxpr.eqns for p in jax.tree.leaves([*e.params.values()])
    )
    avals = (y.aval for eqn in jaxpr.eqns for y in eqn.outvars if is_float(y.aval))
    return any(jnp.finfo(aval.dtype).maxexp < 128 for aval in avals) or any(
        is_narrow(inner) for inner in programs if hasattr(inner, "eqns")
    )


def depends(jaxpr, inputs) -> set:
    """The floating-point variables that depend on some of the inputs, these included."""
    reached = set(inputs)
    for eqn in jaxpr.eqns:
        if not reached.isdisjoint(variables(eqn.invars)):
            reached.update(y for y in eqn.outvars if is_float(y.aval))
    return reached


def scanned(eqn) -> tuple[int, int]:
    """How many operands of a scan are the same in every step, and how many it carries.

    Read off the shapes, since JAX has changed the parameters that say it (in 0.12, or before): what
    a scan slices or stacks has one axis more than in a step.
    """
    body = eqn.params["jaxpr"]
    same = lambda atoms, avals: sum(  # noqa: E731
        x.aval.ndim == aval.ndim for x, aval in zip(atoms, avals, strict=True)
    )
    carried = same(eqn.outvars, body.out_avals)
    return same(eqn.invars, body.in_avals) - carried, carried


def variables(atoms: Iterable) -> list:
    """The atoms that are no literals."""
    return [x for x in atoms if not isinstance(x, core.Literal)]


def read(values: dict, atom) -> Any:
    """An atom's value."""
    return atom.val if isinstance(atom, core.Literal) else values[atom]


def is_in(names, atom) -> bool:
    """Whether an atom is one of these variables."""
    return not isinstance(atom, core.Literal) and atom in names


def is_float(aval) -> bool:
    """Whether an abstract value is real or complex floating point."""
    return jnp.issubdtype(aval.dtype, jnp.inexact)
