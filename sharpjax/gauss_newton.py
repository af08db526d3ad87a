"""What curvature is made of: the Gauss-Newton part of a softmax cross-entropy, and the residual."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from sharpjax._legacy import _widen
from sharpjax.anatomy import standard_error
from sharpjax.subspace import check_updates, stack_units


class GaussNewton(NamedTuple):
    """vᵀHv = vᵀGv + residual for one direction, v = u/‖u‖; scalars.

    Standard errors are sample deviations over M micro-batches/√M, NaN with one; the residual's is
    that of the paired differences.
    """

    sharpness: jax.Array  # vᵀHv.
    sharpness_se: jax.Array
    gauss_newton: jax.Array  # vᵀGv ≥ 0.
    gauss_newton_se: jax.Array
    residual: jax.Array  # Σ w_t Σ_k (∂ℓ_t/∂logit_tk)·vᵀ∇²logit_tk·v.
    residual_se: jax.Array


def example_targets(batch: Any) -> tuple[jax.Array, jax.Array]:
    """Labels [B, T] and weights 1/(B·|C_b|) of the counted positions (label ≠ −100) of example b.

    The weights of the models' default loss: a mean over examples of means over their tokens.
    """
    labels = jnp.asarray(batch["labels"])
    counted = (labels != -100).astype(float)
    weights = counted / jnp.maximum(jnp.sum(counted, axis=1, keepdims=True), 1)
    return labels, weights / labels.shape[0]


def gauss_newton_sharpness(
    loss_fn: Callable,
    logits_fn: Callable,
    params: Any,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    targets: Callable[[Any], tuple[jax.Array, jax.Array]] = example_targets,
    key: jax.Array | None = None,
) -> dict[str, GaussNewton]:
    """Splits each direction's sharpness into its Gauss-Newton part and the rest.

    For loss = Σ_t w_t·(−log softmax(z_t)[label_t]) with logits z = logits_fn(params, batch) and
    their Jacobian J, the Hessian of −log softmax in z_t is diag(p_t) − p_t·p_tᵀ, so that

        vᵀGv = Σ_t w_t·Var_{k ~ p_t}[(Jv)_tk],  p_t = softmax(z_t):

    the weighted variance, under the model's own prediction, of the change of the logits. It is the
    curvature that the loss would have if the logits were linear in the parameters; the residual is
    that of the logits themselves, weighted with the loss's slope in them.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
        Hashable, as `logits_fn` is; the same objects again reuse the compiled call.
      logits_fn: `logits_fn(params, batch)` -> [..., classes], likewise with `key`.
      params: Pytree of real floating-point arrays.
      updates: Name -> direction, a pytree like `params`, of any scale (normalised here).
      batches: Pytree of leaves [micro_batches, micro_batch, …].
      targets: `targets(batch)` -> (labels, weights), each of the logits' shape without classes;
        weight 0 leaves a position out, whatever its label. The default fits `models.make_loss`.
      key: One dropout key for all micro-batches; None evaluates without.

    Returns:
      Name -> `GaussNewton`, scalars in float32 or wider; NaN for a zero direction.

    Raises:
      ValueError: no updates; an update unlike `params`; empty `batches`; a loss that is not the
        weighted cross-entropy of these logits (by more than 0.1 %).
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost: for K directions, 1 + 2K gradients and 1 + K forward passes a micro-batch; memory for a
    stack of the K directions, a gradient's residuals and three arrays like the logits.

    Source: Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent",
    2002.
    """
    extra = check_updates(loss_fn, params, updates, batches, key)
    directions = [*updates.values()]
    parts, loss, entropy = _split(loss_fn, logits_fn, params, directions, batches, extra, targets)
    if not isinstance(loss, Tracer) and not np.isclose(loss, entropy, rtol=1e-3):
        raise ValueError(
            f"loss_fn must be the weighted cross-entropy of the logits, got {float(loss)} "
            f"where the logits and weights give {float(entropy)}"
        )
    return {name: GaussNewton(*(value[i] for value in parts)) for i, name in enumerate(updates)}


@functools.partial(jax.jit, static_argnames=("loss_fn", "logits_fn", "targets"))
def _split(loss_fn, logits_fn, params, updates, batches, extra, targets):
    params = _widen(params)
    units, norms = stack_units(updates)

    def one_micro_batch(_, batch):
        gradient = jax.value_and_grad(lambda p: loss_fn(p, batch, *extra))
        (loss, _), tangent = jax.linearize(gradient, params)
        logits, push = jax.linearize(lambda p: logits_fn(p, batch, *extra), params)
        labels, weights = targets(batch)
        weights = weights.astype(logits.dtype)
        logs = jax.nn.log_softmax(logits)
        # A masked sum, not a gather: a label of −100 meets no class.
        classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
        picked = jnp.sum(jnp.where(classes == labels[..., None], logs, 0), axis=-1)
        chance = jnp.exp(logs)

        def along(v):
            whole = optax.tree.vdot(v, tangent(v)[1])
            change = push(v)
            centred = change - jnp.sum(chance * change, axis=-1, keepdims=True)
            return whole, jnp.sum(weights * jnp.sum(chance * jnp.square(centred), axis=-1))

        return None, (loss, -jnp.sum(weights * picked), *jax.lax.map(along, units))

    with jax.default_matmul_precision("highest"):
        _, (losses, entropies, whole, part) = jax.lax.scan(one_micro_batch, None, batches)
    values = []
    for samples in (whole, part, whole - part):
        values += [samples.mean(0), standard_error(samples)]
    values = [jnp.where(norms > 0, value, jnp.nan) for value in values]
    return values, losses.mean(), entropies.mean()
