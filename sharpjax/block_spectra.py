"""The spectrum of each diagonal block of the Hessian, and how far the blocks' densities differ."""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from sharpjax._checks import check_count, check_in_range
from sharpjax._lanczos import mean_product, random_signs, ritz, tridiagonalize
from sharpjax.objective import LossFn, Objective, Params, objective, result, static
from sharpjax.spectrum import Spectrum

# Points of the grid on which two densities are compared, and how far it reaches beyond them.
_POINTS = 1024
_MARGIN = 4


@result
class BlockSpectra:
    """Lanczos's view of B diagonal blocks of the Hessian from P random starts, m products each."""

    labels: tuple[Hashable, ...] = static()
    """[B], in the order of the blocks' first tensors."""
    sizes: tuple[int, ...] = static()
    """[B], how many parameters each block has."""
    eigenvalues: jax.Array
    """[B, P, m], Ritz values of a block, ascending; as `Spectrum.eigenvalues`."""
    weights: jax.Array
    """[B, P, m]; as `Spectrum.weights`."""
    residuals: jax.Array
    """[B, P, m]; as `Spectrum.residuals`."""
    distances: jax.Array
    """[B, B], Jensen-Shannon distance of two blocks' densities, from 0 to √ln 2 = 0.83."""
    distance: jax.Array
    """Their mean over all pairs of two blocks; NaN with one block."""
    distance_se: jax.Array
    """Its standard error, by the jackknife over starts; NaN with one."""

    def spectrum(self, label: Hashable) -> Spectrum:
        """One block's `Spectrum`. Raises KeyError for a label that there is not."""
        if label not in self.labels:
            raise KeyError(f"no block {label!r}; there are {', '.join(map(repr, self.labels))}")
        at = self.labels.index(label)
        return Spectrum(self.eigenvalues[at], self.weights[at], self.residuals[at], self.sizes[at])


def block_spectra(
    loss_fn: LossFn,
    params: Params,
    batches: Any,
    key: jax.Array,
    *,
    groups: Callable[[str], Hashable] | None = None,
    probes: int = 4,
    steps: int = 40,
    width: float = 0.01,
    args: tuple = (),
    has_aux: bool = False,
) -> BlockSpectra:
    """The spectrum of every diagonal block of the Hessian, and the mean distance between them.

    Block b is ∇²loss in the tensors of one group, all others held. Its eigenvalue density is that
    of Lanczos's iteration, as in `lanczos_spectrum`; the starts of two blocks of the same shapes
    are equal, so that equal blocks are 0 apart. For the distance, every density is blurred to

        p_b(x) = mean over starts of Σₖ wₖ·N(x; θₖ, σ²),   σ = width·(range of all blocks' values),

    on one linear grid of 1024 points over all blocks' range ± 4σ, and normalised to sum to 1. Of
    two blocks, the Jensen-Shannon distance is

        √(KL(p‖r)/2 + KL(q‖r)/2),   r = (p + q)/2,   natural logarithms,

    and `distance` the mean over all B(B − 1)/2 pairs: at initialization, the JS⁰ of the source.
    Curvatures are compared as they are, so that a block that differs in scale alone is far away; a
    narrower blur sees finer differences and, of few starts, more of their noise (`distance_se`),
    which makes the distance larger.

    May be jitted. Leaves keep their sharding.

    Args:
        loss_fn: `loss_fn(params, batch, *args)` -> real scalar, compiled and kept as `jax.jit`
            keeps a function: what it captures is frozen at the first call; pass what changes in
            `args`.
        params: Pytree of real floating-point arrays.
        batches: Pytree of leaves [micro_batches, micro_batch, …], or a list of equal batches; the
            objective is the mean over micro-batches.
        key: Key of the starts.
        groups: `groups(path)` -> hashable label of a tensor's group, where path is its keys joined
            by "/", as in "encoder/block/0/wi/kernel"; None groups by the first key.
        probes: P, starts a block.
        steps: m, products a start. A block of fewer parameters ends early, with its spectrum whole.
        width: σ in units of the range, in (0, 1].
        args: Extra arguments of the loss: arrays and numbers are traced, all else is static.
        has_aux: The loss returns (scalar, anything); only the scalar counts.

    Returns:
        A `BlockSpectra` of B blocks, in float32 or wider. A block that is not finite is NaN, and so
        is the mean distance.

    Raises:
        ValueError: probes < 1; steps outside [1, n]; width outside (0, 1]; empty or ragged
            `batches`.
        TypeError: complex or integer leaves; a loss that is not a real scalar; a label that is not
            hashable.

    Cost: 3·B·P·m gradients a micro-batch; memory of m trees like `params` beside the product's.

    Source: Zhang et al., "Why Transformers need Adam: a Hessian perspective", 2024 (arXiv
    2402.16788).

    Example:
        >>> import jax, jax.numpy as jnp, sharpjax
        >>> loss = lambda p, batch: jnp.mean(batch) * (jnp.sum(p["a"]**2) + 9 * jnp.sum(p["b"]**2))
        >>> params, batches = {"a": jnp.ones(2), "b": jnp.ones(2)}, jnp.ones((1, 1))
        >>> found = sharpjax.block_spectra(loss, params, batches, jax.random.key(0), steps=2)
        >>> found.labels, [round(float(x), 3) for x in found.eigenvalues[:, 0, -1]]
        (('a', 'b'), [2.0, 18.0])
        >>> round(float(found.distance), 3)
        0.833
    """
    measured = objective(loss_fn, params, batches, args=args, has_aux=has_aux)
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(params), strict=True)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path in paths]
    sizes = [int(jnp.size(x)) for x in leaves]
    check_count("probes", probes, 1)
    check_count("steps", steps, 1, sum(sizes))
    check_in_range("width", width, 0.0, 1.0)
    if width == 0:
        raise ValueError(f"width must be in (0, 1], got {width!r}")
    of_leaf = [path.split("/")[0] if groups is None else groups(path) for path in paths]
    labels = tuple(dict.fromkeys(of_leaf))
    index = tuple(labels.index(label) for label in of_leaf)
    found = measured.run(_blocks, key, index=index, probes=probes, steps=steps, width=float(width))
    totals = [
        sum(s for s, i in zip(sizes, index, strict=True) if i == b) for b in range(len(labels))
    ]
    return BlockSpectra(labels, tuple(totals), *found)


def _blocks(objective: Objective, key, *, index, probes, steps, width):
    # Within its block, a leaf's place: so that blocks of the same shapes start alike.
    places = [index[:i].count(b) for i, b in enumerate(index)]
    structure = jax.tree.structure(objective.params)
    of_leaf = structure.unflatten(index)

    def one(at):
        block, key = at

        def inside(tree):
            return jax.tree.map(lambda i, x: jnp.where(i == block, x, 0), of_leaf, tree)

        product = lambda v: inside(mean_product(objective, v))  # noqa: E731
        start = inside(random_signs(objective, key, places))
        return ritz(tridiagonalize(objective, product, start, steps))[:3]

    count = max(index) + 1
    keys = jax.random.split(key, probes)
    found = jax.lax.map(
        lambda block: jax.lax.map(lambda k: one((block, k)), keys), jnp.arange(count)
    )
    values, weights, _ = found
    return *found, *_distances(values, weights, width)


def _distances(values, weights, width):
    """Distances [B, B], their mean over pairs, and its jackknife error over starts."""
    blocks, probes, _ = values.shape
    low, high = jnp.min(values), jnp.max(values)
    extent = high - low
    # All values the same: every density is the same, whatever the width.
    sigma = width * jnp.where(extent > 0, extent, 1)
    grid = jnp.linspace(-_MARGIN, _MARGIN, _POINTS, dtype=values.dtype)
    grid = low + (extent + 2 * _MARGIN * sigma) * (grid + _MARGIN) / (2 * _MARGIN) - _MARGIN * sigma

    def density(at):
        theta, w = at
        z = (grid[:, None] - theta[None]) / sigma
        curve = jnp.sum(jnp.exp(-(z**2) / 2) * w[None], axis=1)
        return curve / jnp.sum(curve)

    flat = [x.reshape(blocks * probes, -1) for x in (values, weights)]
    densities = jax.lax.map(density, flat).reshape(blocks, probes, _POINTS)

    def compare(densities):
        rows = jax.lax.map(lambda p: jensen_shannon(p[None], densities), densities)
        # Rounding makes the distance of a density from itself no plain 0.
        return jnp.where(jnp.eye(blocks, dtype=bool) & ~jnp.isnan(rows), 0, rows)

    def mean(distances):
        pairs = blocks * (blocks - 1)
        return jnp.sum(distances) / pairs if pairs else jnp.nan * jnp.sum(distances)

    distances = compare(densities.mean(1))
    if probes == 1:
        return distances, mean(distances), jnp.full((), jnp.nan, values.dtype)
    total = densities.sum(1)
    without = lambda i: mean(compare((total - densities[:, i]) / (probes - 1)))  # noqa: E731
    left = jax.lax.map(without, jnp.arange(probes))
    return distances, mean(distances), jnp.std(left) * (probes - 1) ** 0.5


def jensen_shannon(p: jax.Array, q: jax.Array) -> jax.Array:
    """√(KL(p‖r)/2 + KL(q‖r)/2) over the last axis, r = (p + q)/2, for [… , X] that sum to 1."""
    p, q = jnp.broadcast_arrays(p, q)
    middle = (p + q) / 2

    def divergence(p):
        there = (p > 0) & (middle > 0)  # Half of the smallest number is 0.
        ratio = jnp.where(there, p, 1) / jnp.where(there, middle, 1)
        return jnp.sum(p * jnp.log(ratio), axis=-1)

    # Not below 0 by rounding.
    return jnp.sqrt(jnp.maximum(divergence(p) + divergence(q), 0) / 2)
