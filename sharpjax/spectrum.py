"""The Hessian's spectrum by Lanczos: its largest eigenvalues and its density, with their errors."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg

from sharpjax._legacy import _widen
from sharpjax.diagonal import import_matfree, mean_product, random_signs
from sharpjax.landscape import _check


class Spectrum(NamedTuple):
    """Lanczos's view of the Hessian from P random starts, m products each; float64 NumPy.

    Probe p is a quadrature of the eigenvalue density: Σₖ weights[p, k]·f(eigenvalues[p, k]) is
    zᵀf(H)z/n, whose mean over probes estimates tr f(H)/n, exactly for polynomials of degree < 2m.
    A start that exhausts its Krylov space early repeats its last value with weight 0.
    """

    eigenvalues: np.ndarray  # [P, m], Ritz values, ascending.
    weights: np.ndarray  # [P, m], each row sums to 1.
    residuals: np.ndarray  # [P, m], ‖Hx − θx‖: an eigenvalue of H lies within it of θ.
    size: int  # n, the number of parameters.

    @property
    def largest(self) -> tuple[float, float]:
        """λ_max from below and its residual, which bounds the distance to an eigenvalue."""
        at = int(np.argmax(self.eigenvalues[:, -1]))
        return float(self.eigenvalues[at, -1]), float(self.residuals[at, -1])

    @property
    def smallest(self) -> tuple[float, float]:
        """λ_min from above and its residual."""
        at = int(np.argmin(self.eigenvalues[:, 0]))
        return float(self.eigenvalues[at, 0]), float(self.residuals[at, 0])

    def mean(self, function: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
        """Mean tr f(H)/n and its standard error over probes (NaN with one)."""
        each = np.sum(self.weights * function(self.eigenvalues), axis=1)
        count = len(each)
        return float(each.mean()), float(each.std(ddof=1) / count**0.5) if count > 1 else np.nan


def lanczos_spectrum(
    loss_fn: Callable,
    params: Any,
    batches: Any,
    rng: jax.Array,
    *,
    probes: int = 4,
    steps: int = 40,
    key: jax.Array | None = None,
) -> Spectrum:
    """Extreme eigenvalues and density of the Hessian of the mean loss (by matfree's Lanczos).

    From z/√n, z random signs, m steps of Lanczos's iteration with full reorthogonalisation give a
    tridiagonal T = UΘUᵀ; the Ritz values Θ approach the extreme eigenvalues first, and with the
    weights U₁ₖ² they are stochastic Lanczos quadrature.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
        Hashable; the same object again reuses the compiled call.
      params: Pytree of real floating-point arrays, n in all.
      batches: Pytree of leaves [micro_batches, micro_batch, …]; the objective is the mean over the
        first axis.
      rng: Key of the starts.
      probes: P, starts.
      steps: m ≤ n, products a start. The residuals say whether the largest value has converged.
      key: One dropout key for all micro-batches; None evaluates without.

    Returns:
      A `Spectrum`.

    Raises:
      ValueError: probes < 1; steps outside [1, n]; empty `batches`.
      TypeError: complex or integer leaves; a loss that is not a scalar.
      ImportError: matfree is not installed (`pip install sharpjax[anatomy]`).

    Cost: 3·P·m gradients a micro-batch; memory of m copies of the parameters, in one array.

    Source: Golub and Welsch, 1969; Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via
    stochastic Lanczos quadrature", 2017. The iteration is `matfree.decomp.tridiag_sym`.
    """
    import_matfree()
    extra = _check(loss_fn, params, params, batches, key)
    size = sum(jnp.size(x) for x in jax.tree.leaves(params))
    for name, value, top in (("probes", probes, None), ("steps", steps, size)):
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or value < 1 or (top is not None and value > top):
            limit = f" and at most {top}" if top is not None else ""
            raise ValueError(f"{name} must be an integer of at least 1{limit}, got {value!r}")
    rows = []
    for start in jax.random.split(rng, probes):
        found = _tridiagonal(loss_fn, params, batches, extra, start, steps)
        diagonal, beside, last, gram = (np.asarray(x, np.float64) for x in found)
        tolerance = float(jnp.finfo(found[0].dtype).eps) ** 0.5
        rows.append(_ritz(diagonal, beside, float(last), gram, tolerance))
    values, weights, residuals = (np.stack(x) for x in zip(*rows, strict=True))
    return Spectrum(values, weights, residuals, int(size))


def spectral_density(
    spectrum: Spectrum, grid: np.ndarray, width: float | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvalue density on a grid, each value blurred to a normal curve, and its error.

    density(x) = mean over probes of Σₖ wₖ·N(x; θₖ, width²): it integrates to 1, in 1/curvature.

    Args:
      spectrum: From `lanczos_spectrum`.
      grid: [X] curvatures.
      width: Standard deviation of the blur, > 0; a number, or [X], one for each grid point (the
        integral is then 1 only as far as the width changes slowly).

    Returns:
      (density [X], its standard error over probes [X], NaN with one probe).

    Raises:
      ValueError: a width that is not positive.
    """
    grid, width = np.asarray(grid, np.float64), np.asarray(width, np.float64)
    if not np.all(width > 0):
        raise ValueError(f"width must be positive, got {width!r}")
    each = []
    for values, weights in zip(spectrum.eigenvalues, spectrum.weights, strict=True):
        z = (grid[:, None] - values[None, :]) / (width[..., None])
        curves = np.exp(-(z**2) / 2) / (np.sqrt(2 * np.pi) * width[..., None])
        each.append(curves @ weights)
    each = np.stack(each)
    count = len(each)
    error = each.std(0, ddof=1) / count**0.5 if count > 1 else np.full(len(grid), np.nan)
    return each.mean(0), error


@functools.partial(jax.jit, static_argnames=("loss_fn", "steps"))
def _tridiagonal(loss_fn, params, batches, extra, rng, steps):
    """Diagonal [m], off-diagonal [m − 1], the last residual's norm, the basis's products [m, m]."""
    params = _widen(params)
    decompose = import_matfree().decomp.tridiag_sym(steps, materialize=False, custom_vjp=False)
    with jax.default_matmul_precision("highest"):
        product = mean_product(loss_fn, params, batches, extra)
        basis, beside, residual, _ = decompose(product, random_signs(rng, params))
        flat = [x.reshape(steps, -1) for x in jax.tree.leaves(basis)]
        return *beside, optax.tree.norm(residual), sum(x @ x.T for x in flat)


def _ritz(diagonal, beside, last, gram, tolerance):
    """Ritz values, weights and residuals of one start, cut where its Krylov space ends.

    Behind the end, the next basis vector is normalised rounding (or 0/0), no longer orthogonal to
    those before.
    """
    steps = len(diagonal)
    off = np.abs(np.tril(gram, -1)).max(axis=1)
    lost = ~(off < tolerance)  # True of NaN too.
    m = int(np.argmax(lost)) if lost.any() else steps
    values, vectors = scipy.linalg.eigh_tridiagonal(diagonal[:m], beside[: m - 1])
    weights = vectors[0] ** 2
    residuals = np.abs(np.append(beside, last)[m - 1] * vectors[-1])
    residuals = np.maximum(residuals, tolerance**2 * np.abs(values).max())  # Rounding.
    pad = (0, steps - m)
    weights = np.pad(weights / weights.sum(), pad)
    return np.pad(values, pad, mode="edge"), weights, np.pad(residuals, pad, mode="edge")
