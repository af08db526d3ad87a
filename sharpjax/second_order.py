"""vᵀHv of many directions from one backward pass: the adjoint scheme.

A loss is a sequence of equations yₑ = φₑ(xₑ), whose inputs xₑ are parameters and earlier outputs.
Differentiating twice along a direction v, with ẋₑ the first-order tangents and ȳₑ = ∂loss/∂yₑ,

    vᵀHv = Σₑ ⟨ȳₑ, D²φₑ(xₑ)[ẋₑ, ẋₑ]⟩,

since every first-order effect of a second-order term is what the adjoint already counts. Linear
equations drop out. The adjoints are one backward pass, shared by all directions; each direction
carries first-order tangents forward and one bilinear term an equation. In matrix products of the
size of the forward pass, the shared part is 2 (no product with a parameter's adjoint is formed)
and a direction is 3, as many as a gradient.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

# Calls whose equations stand for themselves. Any other equation with a program inside (a scan, a
# branch, a rematerialised block, a custom derivative) is one φₑ.
_INLINED = ("jit", "pjit", "closed_call")


def second_order(f: Callable, params: Any) -> tuple[jax.Array, Callable]:
    """The loss f(params) and v -> (gᵀv, vᵀHv), exact for any f with both modes of derivative.

    Args:
      f: `f(params)` -> real scalar, differentiable twice forward and once in reverse.
      params: Pytree of real floating-point arrays.

    Returns:
      `(loss, along)`; `along(v)` takes a pytree like `params`, not normalised, and may be mapped.
      It refers to the shared pass: call it under the same transformations.

    Cost: of the shared pass 2 forward passes' matrix products, of each direction 3. Memory: inputs
    and adjoints of the equations that are not linear. `jax.checkpoint` trades it for time: a
    rematerialised block keeps its inputs and its output's adjoint only, and a direction costs 5.
    """
    leaves, structure = jax.tree.flatten(params)
    closed = jax.make_jaxpr(lambda *xs: f(structure.unflatten(xs)))(*leaves)
    closed = jax.make_jaxpr(functools.partial(_evaluate, closed))(*leaves)  # Without calls.
    jaxpr = closed.jaxpr
    equations = _dependent_equations(jaxpr)
    curved = [i for i, (_, _, order) in equations.items() if order == 2]

    def expand(offsets):
        """The loss where the curved equations' outputs move by offsets, and equations' inputs."""
        inputs = {}

        def visit(i, eqn, values):
            outputs = _bind(eqn, values)
            if i in equations:
                inputs[i] = values
            if i in offsets:
                moves = iter(offsets[i])
                outputs = [y + next(moves) if _is_float(y) else y for y in outputs]
            return outputs

        (loss,) = _evaluate(closed, *leaves, visit=visit)
        return loss, inputs

    float_outputs = {
        i: [v.aval for v in jaxpr.eqns[i].outvars if _is_float(v.aval)] for i in curved
    }
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), float_outputs)
    loss, pull_back, inputs = jax.vjp(expand, zeros, has_aux=True)
    (adjoints,) = pull_back(jnp.ones_like(loss))

    def along(v):
        tangents = dict(zip(jaxpr.invars, jax.tree.leaves(v), strict=True))
        sharpness = jnp.zeros_like(loss)
        for i, (eqn, active, order) in equations.items():
            given = [tangents[eqn.invars[j]] for j in active]
            first, second = _expand_equation(eqn, active, inputs[i], given)
            tangents.update(zip(_float_outputs(eqn), first, strict=True))
            if order == 2:
                terms = zip(adjoints[i], second, strict=True)
                sharpness += sum(jnp.sum(adjoint * term).real for adjoint, term in terms)
        (out,) = jaxpr.outvars
        slope = tangents[out] if _is_in(out, tangents) else jnp.zeros_like(loss)
        return slope, sharpness

    return loss, along


def _evaluate(closed, *args, visit=None) -> list:
    """The outputs of a program. Without `visit`, which takes equations over, calls are opened."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for i, eqn in enumerate(jaxpr.eqns):
        inputs = [read(atom) for atom in eqn.invars]
        if visit is not None:
            outputs = visit(i, eqn, inputs)
        elif eqn.primitive.name in _INLINED:
            inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))
            outputs = _evaluate(inner, *inputs)
        else:
            outputs = _bind(eqn, inputs)
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _bind(eqn, inputs) -> list:
    outputs = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return outputs if eqn.primitive.multiple_results else [outputs]


def _expand_equation(eqn, active, inputs, tangents) -> tuple[list, list]:
    """Dφ[ẋ] and D²φ[ẋ, ẋ] of the float outputs, ẋ the tangents of the active inputs."""

    def outputs(xs):
        values = list(inputs)
        for j, x in zip(active, xs, strict=True):
            values[j] = x
        return [y for y in _bind(eqn, values) if _is_float(y)]

    first = lambda xs: jax.jvp(outputs, (xs,), (tangents,))[1]  # noqa: E731
    return jax.jvp(first, ([inputs[j] for j in active],), (tangents,))


def _dependent_equations(jaxpr) -> dict[int, tuple[Any, list[int], int]]:
    """Index of each equation that depends on the parameters -> it, its active inputs, its order.

    Active inputs have a tangent. The order is 1 for an equation that is linear in them, else 2.
    """
    dependent, equations = set(jaxpr.invars), {}
    for i, eqn in enumerate(jaxpr.eqns):
        active = [j for j, atom in enumerate(eqn.invars) if _is_in(atom, dependent)]
        if not active:
            continue
        avals = [atom.aval for atom in eqn.invars]
        expand = functools.partial(_expand_equation, eqn, active)
        expansion = jax.make_jaxpr(expand)(avals, [avals[j] for j in active]).jaxpr
        # JAX carries zeros symbolically: a derivative that is zero does not refer to a tangent.
        reached = set(expansion.invars[len(avals) :])
        for inner in expansion.eqns:
            if any(_is_in(atom, reached) for atom in inner.invars):
                reached.update(inner.outvars)
        outputs = _float_outputs(eqn)
        firsts, seconds = expansion.outvars[: len(outputs)], expansion.outvars[len(outputs) :]
        if any(_is_in(first, reached) for first in firsts):
            dependent.update(outputs)
            curved = any(_is_in(second, reached) for second in seconds)
            equations[i] = eqn, active, 2 if curved else 1
    return equations


def _float_outputs(eqn) -> list:
    return [variable for variable in eqn.outvars if _is_float(variable.aval)]


def _is_in(atom, variables) -> bool:
    return not isinstance(atom, core.Literal) and atom in variables


def _is_float(x) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)
