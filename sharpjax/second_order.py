"""vᵀHv of many directions from one backward pass: the adjoint scheme.

A loss is a sequence of units yₑ = φₑ(xₑ), whose inputs xₑ are parameters and earlier outputs.
Differentiating twice along a direction v, with ẋₑ the first-order tangents and ȳₑ = ∂loss/∂yₑ,

    vᵀHv = Σₑ ⟨ȳₑ, D²φₑ(xₑ)[ẋₑ, ẋₑ]⟩,

since what a second-order term does further on is first-order, and the adjoint counts it. Linear
units drop out. The adjoints are one backward pass, shared by all directions; a direction carries
first-order tangents forward and one bilinear term a unit. In matrix products of the size of the
forward pass, the shared part is 2 (no product with a parameter's adjoint is formed) and a
direction 3, as many as a gradient.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

# Calls whose equations stand for themselves.
_CALLS = ("jit", "pjit", "closed_call")
_PRODUCTS = ("dot_general", "conv_general_dilated")
_NO_FORWARD_MODE = ("custom_vjp_call", "custom_vjp_call_jaxpr")


def second_order(f: Callable, params: Any) -> tuple[jax.Array, Callable]:
    """The loss f(params), and the function v -> (gᵀv, vᵀHv) of directions that are not normalised.

    Args:
      f: `f(params)` -> real scalar, differentiable twice forward and once in reverse: loops,
        branches, `custom_jvp` and rematerialised blocks are fine.
      params: Pytree of real floating-point arrays.

    Returns:
      `(loss, along)`; `along(v)` takes a pytree like `params`, and may be mapped. It uses what the
      shared pass left: call it where `second_order` was called.

    Raises:
      TypeError: a `custom_vjp` function, which has no forward mode.

    Cost: the shared pass has a forward pass's matrix products twice, each direction three times.
    Memory: inputs and adjoints of matrix products and of what lies between them. A loop or a
    rematerialised block is one unit: its insides are not kept, and count five times.
    """
    leaves, structure = jax.tree.flatten(params)
    closed = jax.make_jaxpr(lambda *xs: f(structure.unflatten(xs)))(*leaves)
    closed = jax.make_jaxpr(functools.partial(_open_calls, closed))(*leaves)
    jaxpr = closed.jaxpr
    if any(_contains(eqn, _NO_FORWARD_MODE) for eqn in jaxpr.eqns):
        raise TypeError(
            "a custom_vjp function in the loss has no forward-mode derivative; "
            'method="reverse" needs none'
        )
    units = _units(jaxpr)
    kept = list(dict.fromkeys(v for unit in units for v in unit.reads))
    moved = [y for unit in units for y in unit.curved]

    def evaluate(offsets):
        """The loss where offsets are added to units' outputs, and what the units read."""
        values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
        values.update(zip(jaxpr.invars, leaves, strict=True))
        _run_with_offsets(jaxpr.eqns, units, values, dict(zip(moved, offsets, strict=True)))
        return _read(values, jaxpr.outvars[0]), [values[v] for v in kept]

    zeros = [jnp.zeros(y.aval.shape, y.aval.dtype) for y in moved]
    loss, pull_back, inputs = jax.vjp(evaluate, zeros, has_aux=True)
    adjoints = dict(zip(moved, pull_back(jnp.ones_like(loss))[0], strict=True))
    values = dict(zip(kept, inputs, strict=True))

    def along(v):
        tangents = dict(zip(jaxpr.invars, jax.tree.leaves(v), strict=True))
        sharpness = jnp.zeros_like(loss)
        for unit in units:
            first, second = _expand(unit, values, [tangents[x] for x in unit.inputs])
            tangents.update(zip(unit.outputs, first, strict=True))
            for y, term in zip(unit.outputs, second, strict=True):
                if y in adjoints:
                    sharpness += jnp.sum(adjoints[y] * term).real
        out = jaxpr.outvars[0]
        return tangents[out] if _in(tangents, out) else jnp.zeros_like(loss), sharpness

    return loss, along


class _Unit(NamedTuple):
    """Equations that are differentiated together."""

    equations: list
    reads: list  # Variables from outside, with a tangent or without.
    inputs: list  # Those with a tangent.
    outputs: list  # Variables with a tangent that are used outside.
    curved: list  # Those of them with a second derivative.


def _units(jaxpr) -> list[_Unit]:
    """The equations that depend on parameters, in units and in an order of evaluation.

    A matrix product, or an equation with one inside, is a unit of its own. What depends on the same
    number of them in a row is one unit: it costs little, and only its ends are kept.
    """
    depth, groups = dict.fromkeys(jaxpr.invars, 0), {}
    for i, eqn in enumerate(jaxpr.eqns):
        above = [depth[x] for x in eqn.invars if _in(depth, x)]
        outputs = [y for y in eqn.outvars if _is_float(y.aval)]
        if above and outputs:
            product = _contains(eqn, _PRODUCTS)
            place = (max(above) + 1, 0, i) if product else (max(above), 1, 0)
            groups.setdefault(place, []).append(eqn)
            depth.update(dict.fromkeys(outputs, place[0]))

    ordered = [group for _, group in sorted(groups.items(), key=lambda item: item[0])]
    made = [{y for eqn in group for y in eqn.outvars if _in(depth, y)} for group in ordered]
    reads = [
        list(dict.fromkeys(x for x in _inputs(group) if x not in inside))
        for group, inside in zip(ordered, made, strict=True)
    ]
    used = {*_variables(jaxpr.outvars), *(x for names in reads for x in names)}
    units = []
    for group, inside, names in zip(ordered, made, reads, strict=True):
        outputs = [y for eqn in group for y in eqn.outvars if y in inside and y in used]
        unit = _Unit(group, names, [x for x in names if x in depth], outputs, [])
        units.append(unit._replace(curved=_curved_outputs(unit)))
    return units


def _curved_outputs(unit) -> list:
    """The outputs that have a second derivative.

    JAX carries zeros symbolically: a derivative that is zero does not refer to a tangent.
    """

    def expand(reads, tangents):
        return _expand(unit, dict(zip(unit.reads, reads, strict=True)), tangents)

    avals = [x.aval for x in unit.reads], [x.aval for x in unit.inputs]
    expansion = jax.make_jaxpr(expand)(*avals).jaxpr
    reached = set(expansion.invars[len(unit.reads) :])
    for eqn in expansion.eqns:
        if not reached.isdisjoint(_variables(eqn.invars)):
            reached.update(eqn.outvars)
    seconds = expansion.outvars[len(unit.outputs) :]
    return [y for y, term in zip(unit.outputs, seconds, strict=True) if _in(reached, term)]


def _expand(unit, values, tangents) -> tuple[list, list]:
    """Dφ[ẋ] and D²φ[ẋ, ẋ] of a unit's outputs, ẋ the tangents of its inputs."""

    def outputs(xs):
        inner = {x: values[x] for x in unit.reads} | dict(zip(unit.inputs, xs, strict=True))
        _run(unit.equations, inner)
        return [inner[y] for y in unit.outputs]

    first = lambda xs: jax.jvp(outputs, (xs,), (tangents,))[1]  # noqa: E731
    return jax.jvp(first, ([values[x] for x in unit.inputs],), (tangents,))


def _run(equations, values) -> None:
    """Evaluates equations; their outputs join the values."""
    for eqn in equations:
        parameters = eqn.primitive.get_bind_params(eqn.params)
        outputs = eqn.primitive.bind(*(_read(values, x) for x in eqn.invars), **parameters)
        values.update(zip(eqn.outvars, outputs if eqn.primitive.multiple_results else [outputs]))


def _run_with_offsets(equations, units, values, offsets) -> None:
    """`_run`, where all units but a variable's own see it with its offset.

    What the own unit makes of a second-order term is in the term of its outputs already.
    """
    home = {id(eqn): i for i, unit in enumerate(units) for eqn in unit.equations}
    bare = [{} for _ in units]
    for eqn in equations:
        inside = bare[home[id(eqn)]] if id(eqn) in home else {}
        seen = {x: inside.get(x, values[x]) for x in _variables(eqn.invars)}
        _run([eqn], seen)
        for y in eqn.outvars:
            inside[y] = seen[y]
            values[y] = seen[y] + offsets[y] if y in offsets else seen[y]


def _open_calls(closed, *args) -> list:
    """The outputs of a program, computed without calls."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in _CALLS:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            outputs = _open_calls(inner, *(_read(values, x) for x in eqn.invars))
            values.update(zip(eqn.outvars, outputs, strict=True))
        else:
            _run([eqn], values)
    return [_read(values, y) for y in jaxpr.outvars]


def _contains(eqn, names: tuple[str, ...]) -> bool:
    """Whether an equation is one of these primitives, or has one inside."""
    programs = (getattr(p, "jaxpr", p) for p in jax.tree.leaves(list(eqn.params.values())))
    return eqn.primitive.name in names or any(
        _contains(inner, names) for program in programs for inner in getattr(program, "eqns", ())
    )


def _inputs(equations) -> Iterable:
    return (x for eqn in equations for x in _variables(eqn.invars))


def _variables(atoms) -> list:
    return [x for x in atoms if not isinstance(x, core.Literal)]


def _read(values, atom):
    return atom.val if isinstance(atom, core.Literal) else values[atom]


def _in(variables, atom) -> bool:
    return not isinstance(atom, core.Literal) and atom in variables


def _is_float(aval) -> bool:
    return jnp.issubdtype(aval.dtype, jnp.inexact)
