"""Lanczos's iteration on trees, leaf by leaf, and the Ritz values of what it finds."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from sharpjax.objective import Objective, dot, linearize_gradient, magnitude

# A Krylov space has ended where the next vector is this many roundings of the operator's size.
_ENDED = 32


class Tridiagonal(NamedTuple):
    """A·Qᵀ = Qᵀ·T + r·eₘᵀ with orthonormal rows of Q and T symmetric, tridiagonal."""

    diagonal: jax.Array
    """[m], 0 from where the Krylov space has ended."""
    beside: jax.Array
    """[m]: m − 1 entries beside the diagonal, and the norm of r; 0 from the end on."""
    steps: jax.Array
    """How many rows there are before the end, at least 1."""
    basis: Any
    """Q, a tree with leaves [m, …]; zeros from the end on."""


def mean_product(objective: Objective, v: Any) -> Any:
    """Hv of the mean loss."""
    return objective.mean(lambda f: linearize_gradient(f, objective.params)[2](v), v)


def random_signs(objective: Objective, key: jax.Array, positions=None) -> Any:
    """A tree of ±1 like the parameters; leaves with one shape and one position are equal."""
    leaves, structure = jax.tree.flatten(objective.params)
    keys = [jax.random.fold_in(key, i) for i in positions or range(len(leaves))]
    drawn = [signs(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return objective.like_params(structure.unflatten(drawn))


def signs(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
    """±1 from random bits: the same in float32 and in float64, unlike `jax.random.rademacher`."""
    return jnp.where(jax.random.bits(key, tuple(shape), jnp.uint8) % 2 == 0, -1, 1).astype(dtype)


def tridiagonalize(
    objective: Objective, product: Callable[[Any], Any], start: Any, steps: int
) -> Tridiagonal:
    """`steps` of Lanczos's iteration for a symmetric `product` on trees like the parameters.

    Each new vector is orthogonalised against all before it, twice. Nothing is ravelled: leaves keep
    dtype and sharding. Where the new vector is rounding, the Krylov space has ended and what
    follows is zero; NaN stays NaN.
    """
    unit, _ = objective.unit(start)
    zeros = jax.tree.map(lambda x: jnp.zeros((steps, *([1] * x.ndim)), x.dtype) * x[None], unit)
    basis = jax.tree.map(lambda b, x: _put(b, x, 0), zeros, unit)
    rounding = max(float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(unit))

    def step(carry, i):
        basis, q, size, going = carry
        w = objective.like_params(product(q))
        size = jnp.maximum(size, magnitude(w)[2])  # ‖Aq‖ ≤ ‖A‖.
        diagonal = dot(q, w)
        for _ in range(2):
            inside = combine(coefficients(basis, w), basis)
            w = jax.tree.map(jnp.subtract, w, inside)
        new, beside = objective.unit(w)
        going &= ~(beside <= _ENDED * rounding * size)
        new = jax.tree.map(lambda x: jnp.where(going, x, 0), new)
        beside = jnp.where(going, beside, 0)
        # Put where it hangs on all that reads the basis, or XLA copies that in every step. There is
        # no row for what the last step finds: its row stays as it is.
        row = jax.tree.map(lambda x, y: jnp.where(i + 1 < steps, x, y), new, q)
        basis = jax.tree.map(lambda b, x: _put(b, x, jnp.minimum(i + 1, steps - 1)), basis, row)
        return (basis, new, size, going), (diagonal, beside, going)

    zero = jnp.zeros_like(dot(unit, unit))
    carry = (basis, unit, zero, jnp.array(True))
    (basis, *_), (diagonal, beside, going) = jax.lax.scan(step, carry, jnp.arange(steps))
    return Tridiagonal(diagonal, beside, 1 + jnp.sum(going[:-1]), basis)


def ritz(found: Tridiagonal) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Ritz values [m] ascending, weights, residuals; Ritz vectors in the basis, [m, m] columns.

    Behind the end of the Krylov space the last value is repeated, with weight, residual and vector
    zero.
    """
    diagonal, beside, steps, _ = found
    live = jnp.arange(diagonal.size) < steps
    # No eigenvalue is above the bound: what is behind the end sorts last, apart from all others.
    bound = jnp.max(jnp.abs(diagonal)) + 2 * jnp.max(beside)
    padded = jnp.where(live, diagonal, jnp.where(bound > 0, 2 * bound, 1))
    off = beside[:-1]
    values, vectors = jnp.linalg.eigh(jnp.diag(padded) + jnp.diag(off, 1) + jnp.diag(off, -1))
    vectors = jnp.where(live, vectors, 0)
    weights = vectors[0] ** 2
    residuals = beside[-1] * jnp.abs(vectors[-1])
    values = jnp.where(live, values, values[steps - 1])
    return values, weights / jnp.sum(weights), residuals, vectors


def combine(coefficients: jax.Array, basis: Any) -> Any:
    """Σⱼ coefficients[j]·basis[j].

    A product over the axis that is never sharded; XLA:CPU takes sixty times as long for the sum of
    elementwise products over it.
    """
    return jax.tree.map(
        lambda b: jnp.tensordot(coefficients.astype(b.dtype), b, 1, precision="highest"), basis
    )


def coefficients(basis: Any, w: Any) -> jax.Array:
    """[m], the products of `w` with each row; products and sums, which any sharding allows."""
    products = [
        jnp.sum(b * x[None], axis=tuple(range(1, b.ndim)))
        for b, x in zip(*map(jax.tree.leaves, (basis, w)), strict=True)
    ]
    return functools.reduce(jnp.add, products)


def _put(b, x, i):
    return jax.lax.dynamic_update_index_in_dim(b, x, i, 0)
