"""How much of an update lies in the Hessian's dominant subspace, and the update without it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sharpjax._checks import check_real_leaves, check_same_structure
from sharpjax._lanczos import coefficients, combine
from sharpjax.objective import divided, magnitude, widen
from sharpjax.spectrum import Spectrum


def dominant_share(updates: Mapping[str, Any], spectrum: Spectrum) -> dict[str, jax.Array]:
    """Squared cosines of each update with the k top eigenvectors: (xₖᵀu)²/‖u‖².

    They sum to the share of ‖u‖² in the dominant subspace, at most 1; a random direction has k/n.
    With a preconditioned spectrum the coordinates are √P·u, those of its eigenvectors. May be
    jitted.

    Args:
        updates: Name -> update, a pytree like the parameters, of any scale.
        spectrum: From `lanczos_spectrum(…, vectors=k)`. Its residuals say how far each vector may
            be from an eigenvector: by an angle of about residual/(gap to the next eigenvalue).

    Returns:
        Name -> [k], the largest eigenvalue's first, in float32 or wider. NaN for a zero update, one
        that is not finite, and where the spectrum has fewer than k vectors.

    Raises:
        ValueError: a spectrum without vectors; no updates; an update unlike the parameters.
        TypeError: complex or integer leaves.

    Cost: k products of trees an update; no gradient.

    Source: Song, Ahn and Yun, "Does SGD really happen in tiny subspaces?", 2024 (arXiv 2405.16002).

    Example:
        >>> import jax, jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(jnp.array([1.0, 9.0]) * x**2)
        >>> batches, key = jnp.ones((1, 1)), jax.random.key(0)
        >>> found = sharpjax.lanczos_spectrum(loss, jnp.ones(2), batches, key, steps=2, vectors=1)
        >>> share = sharpjax.dominant_share({"u": jnp.array([4.0, 3.0])}, found)["u"]
        >>> [round(float(x), 3) for x in share]
        [0.36]
    """
    if not updates:
        raise ValueError(f"updates must name at least one direction, got {updates!r}")
    for name, update in updates.items():
        _check(f"updates[{name!r}]", update, spectrum)
    return {name: _share(update, spectrum) for name, update in updates.items()}


def without_dominant(update: Any, spectrum: Spectrum) -> Any:
    """The update less its part in the dominant subspace: u − Σₖ xₖ(xₖᵀu).

    What is left is orthogonal to the k top eigenvectors; measured beside u by `measure_directions`
    and `search_along`, it says how much of u's sharpness and decrease the dominant part makes. With
    a preconditioned spectrum the projection is in the coordinates √P·u, and the result is mapped
    back. May be jitted.

    Args:
        update: Pytree like the parameters.
        spectrum: From `lanczos_spectrum(…, vectors=k)`. Vectors that it could not find take
            nothing away.

    Returns:
        A pytree like the update, in float32 or wider, with the update's scale.

    Raises:
        ValueError: a spectrum without vectors; an update unlike the parameters.
        TypeError: complex or integer leaves.

    Cost: 2k products of trees; no gradient.

    Source: as `dominant_share`'s.

    Example:
        >>> import jax, jax.numpy as jnp, sharpjax
        >>> loss = lambda x, batch: jnp.mean(batch) * jnp.sum(jnp.array([1.0, 9.0]) * x**2)
        >>> batches, key = jnp.ones((1, 1)), jax.random.key(0)
        >>> found = sharpjax.lanczos_spectrum(loss, jnp.ones(2), batches, key, steps=2, vectors=1)
        >>> rest = sharpjax.without_dominant(jnp.array([4.0, 3.0]), found)
        >>> [abs(round(float(x), 3)) for x in rest]
        [4.0, 0.0]
    """
    _check("update", update, spectrum)
    return _without(update, spectrum)


@jax.jit
def _share(update, spectrum):
    u, _ = _in_its_coordinates(update, spectrum)
    scale, norm, _ = magnitude(u)
    unit = divided(u, scale, norm)
    cosines = coefficients(spectrum.vectors, unit)
    zero = magnitude(unit)[2] == 0
    return jnp.where(zero | jnp.isnan(spectrum.vector_values), jnp.nan, cosines**2)


@jax.jit
def _without(update, spectrum):
    u, root = _in_its_coordinates(update, spectrum)
    # Twice: what rounding leaves of a large part is large beside a small rest.
    for _ in range(2):
        inside = combine(coefficients(spectrum.vectors, u), spectrum.vectors)
        u = jax.tree.map(jnp.subtract, u, inside)
    return u if root is None else jax.tree.map(jnp.divide, u, root)


def _in_its_coordinates(update, spectrum):
    """√P·u and √P; u and None without a preconditioner."""
    update = widen(update)
    if spectrum.preconditioner is None:
        return update, None
    root = jax.tree.map(jnp.sqrt, widen(spectrum.preconditioner))
    return jax.tree.map(jnp.multiply, update, root), root


def _check(name, update, spectrum) -> None:
    if spectrum.vectors is None:
        raise ValueError(
            "spectrum has no vectors; lanczos_spectrum(…, vectors=k) keeps the k top ones"
        )
    check_real_leaves(name, update)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), spectrum.vectors)
    check_same_structure(name, update, "spectrum.vectors", like)
