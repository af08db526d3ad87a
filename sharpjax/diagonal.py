"""The Hessian's diagonal, everywhere, by random probes."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from sharpjax._checks import check_count
from sharpjax._lanczos import signs
from sharpjax.coordinates import check_coordinates, indices, take
from sharpjax.objective import (
    LossFn,
    Objective,
    Params,
    linearize_gradient,
    objective,
    result,
)


@result
class HessianDiagonal:
    """Mean of the probes' estimates of the diagonal, and how far they scatter."""

    diagonal: Any
    """Pytree like `params`."""
    standard_error: Any
    """Likewise: sample deviation over P probes/√P."""
    samples: Any
    """None, or a pytree of [P, C_leaf]: single probes at the chosen coordinates."""


def hessian_diagonal(
    loss_fn: LossFn,
    params: Params,
    batches: Any,
    key: jax.Array,
    *,
    probes: int = 32,
    coordinates: Any = None,
    args: tuple = (),
    has_aux: bool = False,
) -> HessianDiagonal:
    """The diagonal of the Hessian of the mean loss, estimated with random signs.

    For independent zⱼ = ±1, E[z ⊙ Hz] = diag(H). One probe's variance at coordinate i is
    Σ_{j≠i} Hᵢⱼ², so that a coordinate is resolved where |Hᵢᵢ| stands above its row's norm/√probes;
    the standard error says where. A diagonal Hessian is exact from the first probe.
    `exact_diagonal` has no noise, and costs a gradient a coordinate. May be jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays; sharded leaves stay sharded.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            objective is the mean over micro-batches.
        key: Of the probes.
        probes: P, how many, at least 2.
        coordinates: None, or a pytree like `params` of integer arrays [C_leaf], positions in the
            flattened leaf at which single probes are kept; `coordinates.sample_coordinates` draws
            them.
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        A `HessianDiagonal`, in float32 or wider.

    Raises:
        ValueError: probes < 2; empty or ragged `batches`; coordinates outside of their leaf.
        TypeError: complex or integer leaves; a loss that is not a real scalar.

    Cost: 3 gradients a micro-batch and probe; memory of 5 trees like `params` beside the product.

    Source: Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix", 2007.

    Example:
        >>> import jax, jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.sum(batch * x**2)
        >>> batches = jnp.array([[1.0, 3.0]])
        >>> found = sharpjax.hessian_diagonal(loss, jnp.ones(2), batches, jax.random.key(0))
        >>> found.diagonal.tolist(), found.standard_error.tolist()
        ([2.0, 6.0], [0.0, 0.0])
    """
    check_count("probes", probes, 2)
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    at = None
    if coordinates is not None:
        check_coordinates(coordinates, params)
        at = jax.tree.map(lambda x, c: indices(c, jnp.shape(x)), params, coordinates)
    return measured.run(_diagonal, key, at, probes=probes)


def _diagonal(objective: Objective, key, at, *, probes) -> HessianDiagonal:
    params = objective.params

    def probe(carry, key):  # Welford's update of mean and squared deviations.
        count, mean, squares = carry
        z = objective.like_params(optax.tree.random_like(key, params, signs))
        product = objective.mean(lambda loss: linearize_gradient(loss, params)[2](z), params)
        found = jax.tree.map(jnp.multiply, z, product)
        change = jax.tree.map(jnp.subtract, found, mean)
        mean = jax.tree.map(lambda m, c: m + c / (count + 1).astype(c.dtype), mean, change)
        squares = jax.tree.map(lambda s, c, x, m: s + c * (x - m), squares, change, found, mean)
        kept = None if at is None else jax.tree.map(take, found, at)
        return (count + 1, mean, squares), kept

    zero = jax.tree.map(jnp.zeros_like, params)
    start = (jnp.zeros(()), zero, zero)
    (_, mean, squares), samples = jax.lax.scan(probe, start, jax.random.split(key, probes))
    scale = probes * (probes - 1)
    return HessianDiagonal(mean, jax.tree.map(lambda s: jnp.sqrt(s / scale), squares), samples)
