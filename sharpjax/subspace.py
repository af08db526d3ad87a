"""The quadratic model of a loss in the span of several directions, and its best step."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax._arguments import widen
from sharpjax._checks import check_real_leaves, check_same_structure
from sharpjax._expansions import is_traced, magnitudes, products
from sharpjax.objective import (
    LossFn,
    Objective,
    Params,
    divided,
    dot,
    linearize_gradient,
    magnitude,
    result,
    standard_error,
    static,
    updates_objective,
)
from sharpjax.taylor import Expansion


@result
class SpanModel:
    """f(x + Vc) ≈ loss + slopesᵀc + cᵀ·curvature·c/2 for the unit directions V = [v₁ … v_K]."""

    names: tuple[str, ...] = static()
    """[K]."""
    loss: jax.Array
    """Mean over micro-batches."""
    slopes: jax.Array
    """[K], Vᵀg."""
    gram: jax.Array
    """[K, K], VᵀV: cosines."""
    curvature: jax.Array
    """[K, K], VᵀHV, symmetric; its diagonal is each one's sharpness."""
    curvature_se: jax.Array
    """[K, K], its standard error: sample deviation over M micro-batches/√M; NaN with one."""
    curvatures: jax.Array
    """[M, K, K], each micro-batch's."""


@result
class SpanStep:
    """The quadratic model's best step Vc in the part of the span where it is convex; NumPy."""

    coefficients: np.ndarray
    """[K], c: of the unit directions."""
    norm: float
    """‖Vc‖₂."""
    predicted_decrease: float
    """What the model promises there."""
    eigenvalues: np.ndarray
    """[rank], of H within the span, descending."""
    eigenvalues_se: np.ndarray
    """[rank], over micro-batches, of wᵀHw for the eigenvectors w."""
    kept: np.ndarray
    """[rank], whether the step goes along that eigenvector."""


def measure_span(
    loss_fn: LossFn,
    params: Params,
    updates: Mapping[str, Any],
    batches: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
) -> SpanModel:
    """VᵀHV, Vᵀg and VᵀV of all directions at one point, in one pass.

    The objective is the mean of `loss_fn(params, batch, *args)` over the micro-batches, which are
    scanned. May be jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays.
        updates: Name -> direction, a pytree like `params`, of any scale; each is normalised. A zero
            direction has zero rows, one that is not finite NaN.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches.
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        A `SpanModel`, in float32 or wider.

    Raises:
        ValueError: no updates; an update unlike `params`; empty or ragged `batches`.
        TypeError: complex or integer leaves; a loss that is not a real scalar.

    Cost: for K directions, 1 + 2K gradients a micro-batch, and K² + 2K reads of two directions;
        memory of one direction and its product, jitted of a stack of the K directions.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(jnp.array([1.0, 3.0]) * x**2) / 2
        >>> updates = {"a": jnp.array([2.0, 0.0]), "b": jnp.array([0.0, -9.0])}
        >>> model = sharpjax.measure_span(loss, jnp.ones(2), updates, jnp.ones((1, 1)))
        >>> model.names, model.slopes.tolist(), model.curvature.tolist()
        (('a', 'b'), [1.0, -3.0], [[1.0, 0.0], [0.0, 3.0]])
    """
    measured = updates_objective(loss_fn, params, updates, batches, args, has_aux)
    us = [*updates.values()]
    if is_traced(measured.params, measured.batches, measured.traced, us):
        return SpanModel(tuple(updates), *measured.run(_span, us, magnitudes(measured, us)))
    return expand_span(measured, updates)[0]


def expand_span(measured: Objective, updates: Mapping[str, Any]) -> tuple[SpanModel, Expansion]:
    """The model outside of transformations, and the slopes and sharpnesses that it has."""
    table, gram, curvatures = products(measured, [*updates.values()])
    mean, error = _moments(curvatures)
    arrays = table.loss, table.slopes, jnp.asarray(gram), mean, error, jnp.asarray(curvatures)
    return SpanModel(tuple(updates), *arrays), table


def span_step(
    model: SpanModel, *, rank_tolerance: float = 1e-5, deviations: float = 2.0
) -> SpanStep:
    """The least value of the quadratic model in the span, where curvature is surely positive.

    With VᵀV = UΣUᵀ the columns of Q = VUΣ^{-1/2} are an orthonormal basis of the span, and with
    QᵀHQ = WΛWᵀ the step is −Σₖ (wₖᵀQᵀg/λₖ)·Qwₖ, of least norm among equals. The sum takes those
    eigenvectors only whose λₖ exceeds `deviations` standard errors (over micro-batches, where there
    are at least two) and float32's resolution, 10⁻⁶ of the largest |λ|: along the others the model
    has no least value, or none that was measured.

    It is computed on the host in float64, and so cannot be jitted.

    Args:
        model: From `measure_span`.
        rank_tolerance: Eigenvalues of VᵀV below this share of the largest do not count as a
            dimension of the span; directions in float32 are parallel to about 10⁻⁶.
        deviations: How many standard errors λₖ must stand above zero.

    Returns:
        A `SpanStep`; a zero step if nothing is kept. `combine_directions` makes it a tree.

    Raises:
        ValueError: slopes or curvatures that are not finite, naming their directions.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(jnp.array([1.0, 3.0]) * x**2) / 2
        >>> x, updates = jnp.ones(2), {"a": jnp.array([1.0, 0.0]), "b": jnp.array([0.0, -9.0])}
        >>> step = sharpjax.span_step(sharpjax.measure_span(loss, x, updates, jnp.ones((1, 1))))
        >>> sharpjax.combine_directions(updates, step.coefficients).tolist()
        [-1.0, -1.0]
    """
    finite = np.isfinite(model.slopes) & np.isfinite(np.diagonal(model.curvature))
    if not finite.all():
        wrong = [name for name, ok in zip(model.names, finite, strict=True) if not ok]
        raise ValueError(f"model must be finite, but slope or curvature along {wrong} is not")
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
    """Σₖ cₖ·uₖ/‖uₖ‖ of the updates in their order, as one tree in float32 or wider.

    A zero update adds nothing. May be jitted.

    Raises:
        ValueError: no updates; updates of different structure or shape; another number of
            coefficients.
        TypeError: complex or integer leaves.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> updates = {"a": jnp.array([2.0, 0.0]), "b": jnp.array([0.0, -9.0])}
        >>> sharpjax.combine_directions(updates, [1.0, 0.5]).tolist()
        [1.0, -0.5]
    """
    if not updates:
        raise ValueError(f"updates must name at least one direction, got {updates!r}")
    if len(updates) != len(coefficients):
        raise ValueError(
            f"coefficients must be one for each of {len(updates)} updates, got {len(coefficients)}"
        )
    first = next(iter(updates))
    for name, update in updates.items():
        check_real_leaves(f"updates[{name!r}]", update)
        check_same_structure(f"updates[{name!r}]", update, f"updates[{first!r}]", updates[first])
    return _combine([*updates.values()], jnp.asarray(coefficients))


def stack_units(objective: Objective, updates: Sequence[Any], sizes: Sequence[tuple]) -> Any:
    """A tree of stacked unit directions [K, …], typed as the parameters, by their `magnitudes`."""
    units = [
        objective.like_params(divided(widen(u), scale, divisor))
        for u, (scale, divisor, _) in zip(updates, sizes, strict=True)
    ]
    return jax.tree.map(lambda *us: jnp.stack(us), *units)


@jax.jit
def _combine(updates, coefficients):
    def scaled(update, coefficient):
        scale, norm, _ = magnitude(update)
        unit = divided(widen(update), scale, norm)
        return jax.tree.map(lambda x: coefficient.astype(x.dtype) * x, unit)

    total = scaled(updates[0], coefficients[0])
    for update, coefficient in zip(updates[1:], coefficients[1:], strict=True):
        total = jax.tree.map(jnp.add, total, scaled(update, coefficient))
    return total


def _span(objective: Objective, updates, sizes) -> tuple[jax.Array, ...]:
    units = stack_units(objective, updates, sizes)

    def dots(tree):
        """[K] products of all unit directions with one tree."""
        return jax.lax.map(lambda v: dot(v, tree), units)

    def one_micro_batch(loss):
        value, gradient, product = linearize_gradient(loss, objective.params)
        curvature = jax.lax.map(lambda v: dots(product(v)), units)
        return value, dots(gradient), (curvature + curvature.T) / 2

    gram = jax.lax.map(dots, units)
    losses, slopes, curvatures = objective.each(one_micro_batch)
    return losses.mean(), slopes.mean(0), gram, *_moments(curvatures), curvatures


@jax.jit
def _moments(samples):
    return samples.mean(0), standard_error(samples)
