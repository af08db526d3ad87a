"""The Hessian's diagonal at chosen coordinates, without probes and without their noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpjax.coordinates import check_coordinates, indices
from sharpjax.objective import (
    LossFn,
    Objective,
    Params,
    objective,
    result,
    standard_error,
)
from sharpjax.taylor import taylor


@result
class ExactDiagonal:
    """Hᵢᵢ of the mean loss at chosen coordinates; pytrees like `coordinates`."""

    value: Any
    """[C_leaf], loss per unit of the parameter squared."""
    standard_error: Any
    """[C_leaf], sample deviation over M micro-batches/√M; NaN with one."""


def exact_diagonal(
    loss_fn: LossFn,
    params: Params,
    batches: Any,
    coordinates: Any,
    *,
    args: tuple = (),
    has_aux: bool = False,
    chunk: int = 8,
) -> ExactDiagonal:
    """Elements of the Hessian's diagonal: Hᵢᵢ = eᵢᵀHeᵢ, the sharpness along each basis vector.

    By the fastest route that can differentiate the loss, as `measure_directions` with
    `method="auto"`: what does not depend on the direction is computed once a micro-batch and shared
    by all coordinates. Basis vectors are made where they are used. May be jitted.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays; sharded leaves stay sharded.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            objective is the mean over micro-batches.
        coordinates: Pytree like `params` of integer arrays [C_leaf], positions in the flattened
            leaf; `coordinates.stratified_coordinates` draws them so that the gradient's tail is
            seen.
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.
        chunk: How many coordinates are evaluated together (vmapped).

    Returns:
        An `ExactDiagonal`, in float32 or wider.

    Raises:
        ValueError: no coordinates, or some outside of their leaf; coordinates unlike `params`;
            empty or ragged `batches`; chunk < 1.
        TypeError: complex or integer leaves; coordinates that are not integers; a loss that is not
            a real scalar.

    Cost: a gradient a micro-batch and coordinate, counting matrix products; memory of `chunk` trees
    like `params` and about twice what a gradient keeps.

    Example:
        >>> import jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**3)
        >>> x, batches = jnp.array([1.0, 2.0, 3.0]), jnp.array([[1.0], [3.0]])
        >>> found = sharpjax.exact_diagonal(loss, x, batches, jnp.array([0, 2]))
        >>> found.value.tolist()
        [12.0, 36.0]
    """
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk must be a positive integer, got {chunk!r}")
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    check_coordinates(coordinates, params)
    counts = [np.size(x) for x in jax.tree.leaves(coordinates)]
    if not sum(counts):
        raise ValueError(f"coordinates must hold at least one position, got {coordinates!r}")
    table = _table(coordinates, params)
    value, error = measured.run(_basis_sharpness, *table, chunk=min(chunk, sum(counts)))

    def split(x):
        parts = jnp.split(x, np.cumsum(counts)[:-1])
        return jax.tree.structure(coordinates).unflatten(parts)

    return ExactDiagonal(split(value), split(error))


def _table(coordinates, params) -> tuple[np.ndarray, jax.Array]:
    """Each coordinate's leaf [C], and its index along every axis there [C, most axes]."""
    pairs = zip(jax.tree.leaves(coordinates), jax.tree.leaves(params), strict=True)
    found = [jnp.stack(indices(at, jnp.shape(x)), axis=1) for at, x in pairs]
    axes = max(x.shape[1] for x in found)
    padded = [jnp.pad(x, ((0, 0), (0, axes - x.shape[1]))) for x in found]
    return np.repeat(np.arange(len(found)), [len(x) for x in found]), jnp.concatenate(padded)


def _basis_sharpness(objective: Objective, leaf, index, *, chunk) -> tuple[jax.Array, jax.Array]:
    def basis(leaf, index):
        """eᵢ, by comparing and not by scattering: it shards like the parameters, and fuses."""
        leaves, structure = jax.tree.flatten(objective.params)
        made = []
        for i, x in enumerate(leaves):
            here = jnp.broadcast_to(leaf == i, x.shape)
            for axis in range(x.ndim):
                here &= jax.lax.broadcasted_iota(index.dtype, x.shape, axis) == index[axis]
            made.append(here.astype(x.dtype))
        return objective.like_sharding(structure.unflatten(made))

    def one_micro_batch(loss):
        _, along = taylor(loss, objective.params, "auto")
        sharpness = lambda at: along(basis(*at))[1]  # noqa: E731
        return jax.lax.map(sharpness, (leaf, index), batch_size=chunk)

    samples = objective.each(one_micro_batch)
    return samples.mean(0), standard_error(samples)
