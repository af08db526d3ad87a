"""Routes to the second-order Taylor expansion of a loss along a direction, and which to take."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.experimental import jet

from sharpjax._programs import has_primitive
from sharpjax.objective import dot, linearize_gradient, result, warn_handover
from sharpjax.second_order import second_order

METHODS = ("auto", "reverse", "forward", "adjoint")


@result
class Expansion:
    """Loss, and slopes and sharpnesses of directions, before they are a user's result."""

    loss: jax.Array
    slopes: jax.Array
    sharpnesses: jax.Array
    norms: jax.Array
    slopes_se: Any = None
    sharpnesses_se: Any = None


def taylor(f, params, method) -> tuple[jax.Array, Callable]:
    """The loss f(params), and v -> (slope, sharpness) along a unit direction, by the first route
    that can differentiate f.
    """
    routes = {
        "adjoint": second_order,
        "reverse": _reverse,
        "forward": forward,
    }
    order: list[str] = list(routes)
    if method != "auto":
        order = [method, *(name for name in order if name != method)]
    first = None
    for name in order:
        try:
            quiet = {"quiet": True} if name == "reverse" and first is not None else {}
            found = routes[name](f, params, **quiet)
        except Exception as error:  # JAX refuses with many types; errors of f were found before.
            first = first or error
            continue
        if first is not None:
            reason = str(first).splitlines()[0] if str(first) else type(first).__name__
            warn_handover(f'method="{order[0]}" cannot differentiate this loss ({reason})', name)
        return found
    assert first is not None
    raise first


def finite(run: Callable[[str], Expansion], method: str) -> Expansion:
    """`run(method)`; by "reverse" where Taylor mode alone finds no finite number.

    Rules of `jet` may divide by zero where the loss is smooth. Under a transformation there is no
    value to look at, and what was found stands.
    """
    found = run(method)
    if method != "forward" or isinstance(found.loss, Tracer) or not _is_broken(found):
        return found
    other = run("reverse")
    if _is_broken(other):
        return found
    warn_handover('method="forward" is not finite where the loss is', '"reverse"')
    return other


def _is_broken(table: Expansion) -> bool:
    measured = jnp.isfinite(table.loss) & jnp.isfinite(table.norms) & (table.norms > 0)
    return bool(jnp.any(measured & ~jnp.isfinite(table.slopes + table.sharpnesses)))


def _reverse(f, params, quiet=False) -> tuple[jax.Array, Callable]:
    loss, gradient, product = linearize_gradient(f, params, quiet=quiet)
    return loss, lambda v: (dot(gradient, v), dot(v, product(v)))


def forward(f, params) -> tuple[jax.Array, Callable]:
    """f(params), and v -> (d/ds, d²/ds²) f(params + s·v) at s = 0, without a backward pass.

    f may return an array: its derivatives then have its shape.
    """
    structure = jax.tree.structure(params)

    def by_jet(params, v):
        series = [(x, jnp.zeros_like(x)) for x in jax.tree.leaves(v)]
        flat = lambda *xs: f(structure.unflatten(xs))  # noqa: E731
        return tuple(jet.jet(flat, jax.tree.leaves(params), series)[1])

    def by_jvp(params, v):
        slope = lambda p: jax.jvp(f, (p,), (v,))[1]  # noqa: E731
        return jax.jvp(slope, (params,), (v,))

    chosen, reason = by_jet, None
    try:
        jax.eval_shape(by_jet, params, params)
        if has_primitive(jax.make_jaxpr(f)(params).jaxpr, ("pow",)):
            reason = "its rule for x**y is not finite where x ≤ 0"
    except Exception as error:  # Taylor mode fails in many ways; an error of f itself shows below.
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    if reason is not None:
        jax.eval_shape(by_jvp, params, params)
        warn_handover(f"Taylor mode cannot expand this loss ({reason})", "jvp of jvp")
        chosen = by_jvp
    # The barrier ties the primal pass to the direction. Else XLA moves it before the loop over
    # directions, and everything that it computes has to be kept: twice the memory, for a seventh
    # of the time.
    return f(params), lambda v: chosen(*jax.lax.optimization_barrier((params, v)))
