"""What curvature is made of: the Gauss-Newton part of any loss of any outputs, and the residual."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sharpjax._arguments import Static, join, widen
from sharpjax._checks import check_real_leaves
from sharpjax._expansions import magnitudes
from sharpjax._programs import has_primitive
from sharpjax.objective import (
    Objective,
    Params,
    dot,
    linearize_gradient,
    result,
    standard_error,
    updates_objective,
    warn_handover,
)
from sharpjax.subspace import stack_units


@result
class GaussNewton:
    """vᵀHv = vᵀGv + residual for one direction, v = u/‖u‖; scalars.

    Standard errors are sample deviations over M micro-batches/√M, NaN with one.
    """

    sharpness: jax.Array
    """vᵀHv."""
    sharpness_se: jax.Array
    """Its standard error."""
    gauss_newton: jax.Array
    """vᵀGv = (Jv)ᵀ(∇²ℓ)(Jv): not negative where ℓ is convex in the outputs."""
    gauss_newton_se: jax.Array
    """Its standard error."""
    residual: jax.Array
    """Σₖ (∂ℓ/∂zₖ)·vᵀ∇²zₖ·v, as the difference of the two."""
    residual_se: jax.Array
    """Its standard error: that of the paired differences."""


def gauss_newton_sharpness(
    outputs_fn: Callable[..., Any],
    loss_of_outputs: Callable[[Any, Any], jax.Array],
    params: Params,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    args: tuple = (),
) -> dict[str, GaussNewton]:
    """Splits each direction's sharpness into its Gauss-Newton part and the rest.

    With outputs z = outputs_fn(params, batch), their Jacobian J in the parameters, and the loss
    ℓ(z) = loss_of_outputs(z, batch), the Hessian in the parameters is

        H = Jᵀ(∇²ℓ)J + Σₖ (∂ℓ/∂zₖ)·∇²zₖ = G + residual.

    vᵀGv is the curvature that the loss would have if the outputs were linear in the parameters; the
    residual is that of the outputs themselves, weighted with the loss's slope in them. Where the
    model ends and the loss begins decides both: of a softmax cross-entropy the outputs are the
    logits. May be jitted.

    Args:
        outputs_fn: `outputs_fn(params, batch, *args)` -> pytree of real floating-point arrays. It
            and `loss_of_outputs` are compiled and kept as `jax.jit` keeps a function: what they
            capture is frozen at the first call; pass what changes in `args`.
        loss_of_outputs: `loss_of_outputs(outputs, batch)` -> real scalar. Outputs come in float32
            or wider.
        params: Pytree of real floating-point arrays.
        updates: Name -> direction, a pytree like `params`, of any scale (normalised here).
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            objective is the mean over micro-batches.
        args: Extra arguments of `outputs_fn`: arrays and numbers are traced, all else is static.

    Returns:
        Name -> `GaussNewton`, scalars in float32 or wider; NaN for a zero direction.

    Raises:
        ValueError: no updates; an update unlike `params`; empty or ragged `batches`.
        TypeError: complex or integer leaves, of the outputs too; a loss that is not a real scalar.

    Cost: for K directions, 1 + 2K gradients and 1 + K forward passes a micro-batch; memory for a
    stack of the K directions, a gradient's residuals and a few trees like the outputs.

    Source: Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
    2002.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> outputs = lambda x, batch: x**2  # Curved: 2 of 6 is its own.
        >>> squared = lambda z, batch: jnp.sum((z - batch) ** 2) / 2
        >>> x, batches = jnp.ones(1), jnp.zeros((1, 1))
        >>> parts = sharpjax.gauss_newton_sharpness(outputs, squared, x, {"v": x}, batches)["v"]
        >>> float(parts.sharpness), float(parts.gauss_newton), float(parts.residual)
        (6.0, 4.0, 2.0)
    """
    loss_fn = _LossOfOutputs(Static(outputs_fn), Static(loss_of_outputs))
    measured = updates_objective(loss_fn, params, updates, batches, args, has_aux=False)
    us = [*updates.values()]
    parts = measured.run(_split, us, magnitudes(measured, us))
    return {name: GaussNewton(*(value[i] for value in parts)) for i, name in enumerate(updates)}


@dataclasses.dataclass(frozen=True)
class _LossOfOutputs:
    """The composite loss; equal to another of the same two functions, which reuses its program."""

    outputs_fn: Static
    loss_of_outputs: Static

    def __call__(self, params, batch, *args):
        return self.of(self.outputs(params, batch, *args), batch)

    def outputs(self, params, batch, *args):
        outputs = self.outputs_fn.value(params, batch, *args)
        check_real_leaves("outputs", outputs)
        return widen(outputs)

    def of(self, outputs, batch):
        return self.loss_of_outputs.value(outputs, batch)


def _split(objective: Objective, updates, sizes) -> list[jax.Array]:
    """[K] of each field of `GaussNewton`."""
    loss_fn, args = objective.loss_fn, lambda: join(objective.traced, objective.rest)
    assert isinstance(loss_fn, _LossOfOutputs)
    units = stack_units(objective, updates, sizes)
    norms = jnp.stack([norm for *_, norm in sizes])

    def one_micro_batch(batch):
        _, _, product = linearize_gradient(objective.at(batch), objective.params)
        outputs, push = _linearize(lambda p: loss_fn.outputs(p, batch, *args()), objective.params)
        of_outputs = lambda z: widen(loss_fn.of(z, batch))  # noqa: E731
        _, _, inner = linearize_gradient(of_outputs, outputs)

        def along(v):
            change = push(v)
            return dot(v, product(v)), dot(change, inner(change))

        return jax.lax.map(along, units)

    whole, part = jax.lax.map(one_micro_batch, objective.batches)
    values = []
    for samples in (whole, part, whole - part):
        values += [samples.mean(0), standard_error(samples)]
    return [jnp.where(norms == 0, jnp.nan, value) for value in values]


def _linearize(f: Callable, params: Params) -> tuple[Any, Callable]:
    """f(params), and v ↦ Jv; where there is no forward mode, as the transpose of u ↦ Jᵀu."""
    outputs, push = jax.linearize(f, params)
    # Linearized, a custom_vjp function is a placeholder that fails only when it is compiled.
    if not has_primitive(jax.make_jaxpr(push)(params).jaxpr, ("custom_lin",)):
        return outputs, push
    warn_handover("a custom_vjp function has no forward mode", "reverse over reverse")
    outputs, pull = jax.vjp(f, params)
    _, push = jax.vjp(pull, jax.tree.map(jnp.zeros_like, outputs))
    return outputs, lambda v: push((v,))[0]
