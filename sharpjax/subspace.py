"""The quadratic model of a loss in the span of several directions, and its best step."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax._checks import check_real_leaves, check_same_structure
from sharpjax._legacy import _normalize, _widen, check_batches, check_scalar_loss, micro_batch_shape
from sharpjax.anatomy import standard_error


class SpanModel(NamedTuple):
    """f(x + Vc) ≈ loss + slopesᵀc + cᵀ·curvature·c/2 for the unit directions V = [v₁ … v_K]."""

    names: tuple[str, ...]  # [K].
    loss: jax.Array  # Mean over micro-batches.
    slopes: jax.Array  # [K], Vᵀg.
    gram: jax.Array  # [K, K], VᵀV: cosines.
    curvature: jax.Array  # [K, K], VᵀHV, symmetric; its diagonal is each one's sharpness.
    curvature_se: jax.Array  # [K, K], sample deviation over M micro-batches/√M; NaN with one.
    curvatures: jax.Array  # [M, K, K], each micro-batch's.


class SpanStep(NamedTuple):
    """The quadratic model's best step Vc in the part of the span where it is convex; NumPy."""

    coefficients: np.ndarray  # [K], c: of the unit directions.
    norm: float  # ‖Vc‖₂.
    predicted_decrease: float  # What the model promises there.
    eigenvalues: np.ndarray  # [rank], of H within the span, descending.
    eigenvalues_se: np.ndarray  # [rank], over micro-batches, of wᵀHw for the eigenvectors w.
    kept: np.ndarray  # [rank], whether the step goes along that eigenvector.


def measure_span(
    loss_fn: Callable,
    params: Any,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    key: jax.Array | None = None,
) -> SpanModel:
    """VᵀHV, Vᵀg and VᵀV of all directions at one point, in one pass.

    The objective is the mean of `loss_fn(params, batch)` over the micro-batches, which are scanned.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
        Hashable; the same object again reuses the compiled call.
      params: Pytree of real floating-point arrays.
      updates: Name -> direction, a pytree like `params`, of any scale; each is normalised. A zero
        direction has zero rows.
      batches: Pytree of leaves [micro_batches, micro_batch, …].
      key: One dropout key for all micro-batches; None evaluates without.

    Returns:
      A `SpanModel`, in float32 or wider.

    Raises:
      ValueError: no updates; an update unlike `params`; empty `batches`.
      TypeError: complex or integer leaves; a loss that is not a scalar.

    Cost: for K directions, 1 + 2K gradients a micro-batch; memory of a stack of the K directions.
    """
    extra = check_updates(loss_fn, params, updates, batches, key)
    return SpanModel(
        tuple(updates), *_measure(loss_fn, params, [*updates.values()], batches, extra)
    )


def span_step(
    model: SpanModel, *, rank_tolerance: float = 1e-5, deviations: float = 2.0
) -> SpanStep:
    """The least value of the quadratic model in the span, where curvature is surely positive.

    With VᵀV = UΣUᵀ the columns of Q = VUΣ^{-1/2} are an orthonormal basis of the span, and with
    QᵀHQ = WΛWᵀ the step is −Σₖ (wₖᵀQᵀg/λₖ)·Qwₖ, of least norm among equals. The sum takes those
    eigenvectors only whose λₖ exceeds `deviations` standard errors (over micro-batches, where there
    are at least two) and float32's resolution, 10⁻⁶ of the largest |λ|: along the others the model
    has no least value, or none that was measured.

    Args:
      model: From `measure_span`.
      rank_tolerance: Eigenvalues of VᵀV below this share of the largest are no dimension of the
        span; directions in float32 are parallel to about 10⁻⁶.
      deviations: How many standard errors λₖ must stand above zero.

    Returns:
      A `SpanStep`; a zero step if nothing is kept. `combine_directions` makes it a tree.
    """
    gram = np.asarray(model.gram, np.float64)
    sigma, u = np.linalg.eigh((gram + gram.T) / 2)
    real = sigma > rank_tolerance * max(sigma[-1], 0)
    basis = u[:, real] / np.sqrt(sigma[real])  # Coefficients of Q in V: [K, rank].
    curvature = basis.T @ np.asarray(model.curvature, np.float64) @ basis
    values, w = np.linalg.eigh((curvature + curvature.T) / 2)
    values, w = values[::-1], w[:, ::-1]
    coefficients = basis @ w  # Of the eigenvectors in V: [K, rank].
    samples = np.asarray(model.curvatures, np.float64)
    each = np.einsum("kr,mkl,lr->mr", coefficients, samples, coefficients)
    count = len(samples)
    error = each.std(0, ddof=1) / count**0.5 if count > 1 else np.full(len(values), np.nan)
    resolution = 1e-6 * np.max(np.abs(values), initial=0)
    kept = values > np.maximum(resolution, np.nan_to_num(deviations * error))
    slopes = coefficients.T @ np.asarray(model.slopes, np.float64)
    along = np.where(kept, -slopes / np.where(kept, values, 1), 0)
    return SpanStep(
        coefficients=coefficients @ along,
        norm=float(np.linalg.norm(along)),
        predicted_decrease=float(np.sum(np.where(kept, slopes**2 / np.where(kept, values, 1), 0)))
        / 2,
        eigenvalues=values,
        eigenvalues_se=error,
        kept=kept,
    )


def combine_directions(updates: Mapping[str, Any], coefficients: Sequence[float]) -> Any:
    """Σₖ cₖ·uₖ/‖uₖ‖ of the updates in their order, as one tree in float32 or wider."""
    if len(updates) != len(coefficients):
        raise ValueError(
            f"coefficients must be one for each of {len(updates)} updates, got {len(coefficients)}"
        )
    return _combine([*updates.values()], jnp.asarray(coefficients))


def check_updates(loss_fn, params, updates, batches, key) -> tuple:
    """Checks the arguments that many-direction functions share; what `loss_fn` takes besides."""
    if not updates:
        raise ValueError(f"updates must name at least one direction, got {updates!r}")
    check_batches(batches)
    check_real_leaves("params", params)
    for name, update in updates.items():
        check_real_leaves(f"updates[{name!r}]", update)
        check_same_structure(f"updates[{name!r}]", update, "params", params)
    extra = () if key is None else (key,)
    check_scalar_loss(loss_fn, params, micro_batch_shape(batches), *extra)
    return extra


def stack_units(updates: Sequence[Any]) -> tuple[Any, jax.Array]:
    """A tree of stacked unit directions [K, …] and their norms [K]."""
    normalized = [_normalize(_widen(update)) for update in updates]
    units = jax.tree.map(lambda *us: jnp.stack(us), *(unit for unit, _ in normalized))
    return units, jnp.stack([norm for _, norm in normalized])


@jax.jit
def _combine(updates, coefficients):
    def add(total, scaled):
        return jax.tree.map(jnp.add, total, scaled)

    units = [_normalize(_widen(update))[0] for update in updates]
    scaled = [
        jax.tree.map(lambda x, c=c: c.astype(x.dtype) * x, unit)
        for unit, c in zip(units, coefficients, strict=True)
    ]
    return functools.reduce(add, scaled)


@functools.partial(jax.jit, static_argnames="loss_fn")
def _measure(loss_fn, params, updates, batches, extra):
    params = _widen(params)
    units, _ = stack_units(updates)

    def dots(tree):
        """[K] dot products of all unit directions with one tree."""
        each = jax.tree.map(lambda us, x: jnp.tensordot(us, x, axes=x.ndim), units, tree)
        return functools.reduce(jnp.add, jax.tree.leaves(each))

    def one_micro_batch(_, batch):
        value_and_grad = jax.value_and_grad(lambda p: loss_fn(p, batch, *extra))
        (loss, _), tangent = jax.linearize(value_and_grad, params)

        def along(v):
            slope, product = tangent(v)
            return slope, dots(product)

        slopes, curvature = jax.lax.map(along, units)
        return None, (loss, slopes, (curvature + curvature.T) / 2)

    with jax.default_matmul_precision("highest"):
        gram = jax.lax.map(dots, units)
        _, (losses, slopes, curvatures) = jax.lax.scan(one_micro_batch, None, batches)
    errors = standard_error(curvatures)
    return losses.mean(), slopes.mean(0), gram, curvatures.mean(0), errors, curvatures
