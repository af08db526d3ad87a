"""The Hessian's spectrum by Lanczos: its largest eigenvalues and its density, with their errors."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from sharpjax._checks import (
    check_count,
    check_in_range,
    check_real_leaves,
    check_same_structure,
)
from sharpjax._lanczos import combine, mean_product, random_signs, ritz, tridiagonalize
from sharpjax.objective import LossFn, Objective, Params, objective, result, static, widen


@result
class Spectrum:
    """Lanczos's view of the Hessian from P random starts, m products each.

    Probe p is a quadrature of the eigenvalue density: Σₖ weights[p, k]·f(eigenvalues[p, k]) is
    zᵀf(H)z/n, whose mean over probes estimates tr f(H)/n, exactly for polynomials of degree < 2m.
    A start whose Krylov space ends before m repeats its last value with weight and residual 0. With
    a preconditioner, H stands for P^(−½)HP^(−½) throughout.
    """

    eigenvalues: jax.Array
    """[P, m], Ritz values, ascending, loss per unit of distance squared."""
    weights: jax.Array
    """[P, m], each row sums to 1."""
    residuals: jax.Array
    """[P, m], ‖Hx − θx‖, up to rounding: an eigenvalue of H lies within it of θ."""
    size: int = static()
    """n, the number of parameters."""
    vectors: Any = None
    """None, or the k top Ritz vectors of the first start, a pytree of leaves [k, …]; orthonormal,
    the largest value's first; zero where `vector_values` is NaN."""
    vector_values: Any = None
    """[k], their Ritz values; NaN where the start's Krylov space had fewer than k dimensions."""
    vector_residuals: Any = None
    """[k], their residuals ‖Hx − θx‖."""
    preconditioner: Any = None
    """With vectors: P, or None; the vectors are in the coordinates √P·x, in which H is."""

    @property
    def largest(self) -> tuple[jax.Array, jax.Array]:
        """λ_max from below and its residual, which bounds the distance to an eigenvalue."""
        at = self.eigenvalues[:, -1].argmax()
        return self.eigenvalues[at, -1], self.residuals[at, -1]

    @property
    def smallest(self) -> tuple[jax.Array, jax.Array]:
        """λ_min from above and its residual."""
        at = self.eigenvalues[:, 0].argmin()
        return self.eigenvalues[at, 0], self.residuals[at, 0]

    def mean(self, function: Callable[[Any], Any]) -> tuple[jax.Array, jax.Array]:
        """Mean tr f(H)/n of an elementwise function and its standard error over probes.

        The error is NaN with one probe.
        """
        each = (self.weights * function(self.eigenvalues)).sum(1)
        count = len(each)
        error = each.std(ddof=1) / count**0.5 if count > 1 else each[0] * np.nan
        return each.mean(), error


def lanczos_spectrum(
    loss_fn: LossFn,
    params: Params,
    batches: Any,
    key: jax.Array,
    *,
    preconditioner: Any = None,
    vectors: int = 0,
    probes: int = 4,
    steps: int = 40,
    args: tuple = (),
    has_aux: bool = False,
) -> Spectrum:
    """Extreme eigenvalues and density of the Hessian of the mean loss, by Lanczos's iteration.

    From z/√n, z random signs, m steps with full reorthogonalisation give a tridiagonal T = UΘUᵀ;
    the Ritz values Θ approach the extreme eigenvalues first, and with the weights U₁ₖ² they are
    stochastic Lanczos quadrature. An eigenvalue that occurs several times is found once a start
    (and again, with next to no weight, once rounding has brought in another of its vectors).

    With a preconditioner P, the matrix is P^(−½)HP^(−½), which has the eigenvalues of P⁻¹H. For P
    of an adaptive optimizer (Adam's √v̂ + ε) its largest eigenvalue is what must stay below
    `adaptive_edge` for training to be stable.

    May be jitted. Leaves keep their sharding.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays, n coordinates in all.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            objective is the mean over micro-batches.
        key: Key of the starts.
        preconditioner: None, or P: a pytree like `params`, finite and positive.
        vectors: k ≤ m, how many top Ritz vectors are kept, all of the first start.
        probes: P, starts.
        steps: m ≤ n, products a start. The residuals say whether the largest value has converged.
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        A `Spectrum`, in float32 or wider. A Hessian that is not finite gives NaN.

    Raises:
        ValueError: probes < 1; steps outside [1, n]; vectors outside [0, steps]; a preconditioner
            unlike `params` or, where its values can be looked at, not finite and positive; empty or
            ragged `batches`.
        TypeError: complex or integer leaves; a loss that is not a real scalar.

    Cost: 3·P·m gradients a micro-batch, and 4·m²·n multiplications a start; memory of m + k trees
    like `params` beside the product's.

    Source: Golub and Welsch, 1969; Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via
    stochastic Lanczos quadrature", 2017; Cohen et al., "Adaptive gradient methods at the edge of
    stability", 2022 (arXiv 2207.14484), for the preconditioned matrix.

    Example:
        >>> import jax, jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(jnp.array([1.0, 2.0, 5.0]) * x**2) / 2
        >>> batches, key = jnp.ones((1, 1)), jax.random.key(0)
        >>> found = sharpjax.lanczos_spectrum(loss, jnp.ones(3), batches, key, steps=3)
        >>> [round(float(x), 3) for x in found.eigenvalues[0]]
        [1.0, 2.0, 5.0]
    """
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    size = sum(jnp.size(x) for x in jax.tree.leaves(params))
    check_count("probes", probes, 1)
    check_count("steps", steps, 1, size)
    check_count("vectors", vectors, 0, steps)
    if preconditioner is not None:
        _check_preconditioner(preconditioner, params)
    counts = {"probes": probes, "steps": steps, "vectors": vectors}
    values, weights, residuals, kept = measured.run(_spectrum, key, preconditioner, **counts)
    if not vectors:
        return Spectrum(values, weights, residuals, int(size))
    top, top_values, top_residuals = kept
    return Spectrum(
        values, weights, residuals, int(size), top, top_values, top_residuals, preconditioner
    )


def spectral_density(
    spectrum: Spectrum, grid: np.ndarray, width: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalue density on a grid, each value blurred to a normal curve, and its error.

    density(x) = mean over probes of Σₖ wₖ·N(x; θₖ, width²): it integrates to 1, in 1/curvature.
    Computed in float64 by NumPy; not for use under `jax.jit`.

    Args:
        spectrum: From `lanczos_spectrum`.
        grid: [X] curvatures.
        width: Standard deviation of the blur, > 0; a number, or [X], one for each grid point (the
            integral is then 1 only as far as the width changes slowly).

    Returns:
        (density [X], its standard error over probes [X], NaN with one probe).

    Raises:
        ValueError: a width that is not positive.

    Example:
        >>> import numpy as np, sharpjax
        >>> one = sharpjax.Spectrum(np.array([[0.0]]), np.array([[1.0]]), np.array([[0.0]]), 1)
        >>> density, _ = sharpjax.spectral_density(one, np.array([0.0, 1.0]), 1.0)
        >>> density.round(4).tolist()
        [0.3989, 0.242]
    """
    grid, width = np.asarray(grid, np.float64), np.asarray(width, np.float64)
    if not np.all(width > 0):
        raise ValueError(f"width must be positive, got {width!r}")
    each = []
    table = np.asarray(spectrum.eigenvalues, np.float64), np.asarray(spectrum.weights, np.float64)
    for values, weights in zip(*table, strict=True):
        z = (grid[:, None] - values[None, :]) / (width[..., None])
        curves = np.exp(-(z**2) / 2) / (np.sqrt(2 * np.pi) * width[..., None])
        each.append(curves @ weights)
    each = np.stack(each)
    count = len(each)
    error = each.std(0, ddof=1) / count**0.5 if count > 1 else np.full(len(grid), np.nan)
    return each.mean(0), error


def adaptive_edge(learning_rate: Any, b1: Any = 0.9) -> Any:
    """The preconditioned sharpness beyond which adaptive momentum diverges: (2 + 2β₁)/((1 − β₁)η).

    For x ← x − η·m/P, m ← β₁m + (1 − β₁)g on a quadratic with P held fixed: along an eigenvector of
    P⁻¹H with eigenvalue λ the iteration is stable exactly for λ < edge. Adam adapts P, and hovers
    there. Without momentum (β₁ = 0) it is the 2/η of gradient descent.

    Args:
        learning_rate: η > 0.
        b1: β₁ in [0, 1).

    Returns:
        The edge, in units of the largest eigenvalue of `lanczos_spectrum(…, preconditioner=P)`.

    Raises:
        ValueError: a number outside its range. TypeError: no number. Traced values pass.

    Source: Cohen et al., "Adaptive gradient methods at the edge of stability", 2022 (arXiv
    2207.14484).

    Example:
        >>> import sharpjax
        >>> round(sharpjax.adaptive_edge(1e-3), 6)
        38000.0
    """
    check_in_range("learning_rate", learning_rate, 0.0, float("inf"))
    check_in_range("b1", b1, 0.0, 1.0, open_high=True)
    if not isinstance(learning_rate, Tracer) and learning_rate == 0:
        raise ValueError(f"learning_rate must be positive, got {learning_rate!r}")
    return (2 + 2 * b1) / ((1 - b1) * learning_rate)


def _spectrum(objective: Objective, key, preconditioner, *, probes, steps, vectors):
    if preconditioner is None:
        product = lambda v: mean_product(objective, v)  # noqa: E731
    else:
        # 1/√P in the precision of P or the parameters, whichever is wider; then the parameters'.
        scale = objective.like_params(jax.tree.map(jax.lax.rsqrt, widen(preconditioner)))

        def product(v):
            inner = mean_product(objective, jax.tree.map(jnp.multiply, scale, v))
            return jax.tree.map(jnp.multiply, scale, inner)

    def one_probe(kept, at):
        i, key = at
        found = tridiagonalize(objective, product, random_signs(objective, key), steps)
        values, weights, residuals, inside = ritz(found)
        if vectors:
            keep = lambda: _top(found, values, residuals, inside, vectors)  # noqa: E731
            kept = jax.lax.cond(i == 0, keep, lambda: kept)
        return kept, (values, weights, residuals)

    kept = None
    if vectors:
        number = jnp.zeros((vectors,), jnp.result_type(*jax.tree.leaves(objective.params)))
        trees = jax.tree.map(
            lambda x: jnp.zeros((vectors, *([1] * x.ndim)), x.dtype) * x[None], objective.params
        )
        kept = trees, number, number
    starts = jnp.arange(probes), jax.random.split(key, probes)
    kept, (values, weights, residuals) = jax.lax.scan(one_probe, kept, starts)
    return values, weights, residuals, kept


def _top(found, values, residuals, inside, count):
    """The vectors, values and residuals of the `count` largest Ritz values."""
    order = found.steps - 1 - jnp.arange(count)
    there = order >= 0
    chosen = jnp.where(there[:, None], inside.T[order], 0)
    trees = jax.lax.map(lambda c: combine(c, found.basis), chosen)
    pick = lambda x: jnp.where(there, x[order], jnp.nan)  # noqa: E731
    return trees, pick(values), pick(residuals)


def _check_preconditioner(preconditioner, params) -> None:
    check_real_leaves("preconditioner", preconditioner)
    check_same_structure("preconditioner", preconditioner, "params", params)
    for path, x in jax.tree_util.tree_leaves_with_path(preconditioner):
        if isinstance(x, Tracer):
            continue
        x = jnp.asarray(x)
        bad = ~(jnp.isfinite(x) & (x > 0))
        if bool(jnp.any(bad)):
            where = np.unravel_index(int(jnp.argmax(bad)), x.shape)
            at = tuple(int(i) for i in where)
            raise ValueError(
                f"preconditioner{jax.tree_util.keystr(path)} must be finite and positive, "
                f"got {float(x[at])} at {at}"
            )
