"""The Hessian's diagonal by random probes, and how the ranks of its size follow the gradient's."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from sharpjax._legacy import _widen
from sharpjax.landscape import _check


class HessianDiagonal(NamedTuple):
    """Mean of the probes' estimates of the diagonal, and how far they scatter."""

    diagonal: Any  # Pytree like params.
    standard_error: Any  # Likewise: sample deviation over P probes/√P.
    samples: Any  # None, or a pytree of [P, C_leaf]: single probes at the chosen coordinates.


class RankCorrelation(NamedTuple):
    """Spearman's correlations of |gᵢ| with estimates of the size of Hᵢᵢ; see `rank_correlation`."""

    correlation: float  # With |mean over all probes|, whose noise scales with row i of H.
    low: float  # 95 % confidence interval.
    high: float
    control: float  # With that noise alone: what `correlation` would be were every Hᵢᵢ zero.
    unbiased: float  # With an unbiased estimate of Hᵢᵢ²: zero on average were every Hᵢᵢ zero.
    unbiased_low: float  # 95 % confidence interval.
    unbiased_high: float
    reliability: float  # Of the signed mean: correlation of two such, from independent probes.
    coordinates: int  # How many.


def hessian_diagonal(
    loss_fn: Callable,
    params: Any,
    batches: Any,
    rng: jax.Array,
    *,
    probes: int = 32,
    coordinates: Any = None,
    key: jax.Array | None = None,
) -> HessianDiagonal:
    """The diagonal of the Hessian of the mean loss, estimated with random signs (by matfree).

    For independent zⱼ = ±1, E[z ⊙ Hz] = diag(H). One probe's variance at coordinate i is
    Σ_{j≠i} Hᵢⱼ², so a coordinate is resolved where |Hᵢᵢ| stands above its row's norm/√probes; the
    standard error says where. A diagonal Hessian is exact from the first probe.

    Args:
      loss_fn: `loss_fn(params, batch)` -> real scalar; `loss_fn(params, batch, key)` with `key`.
        Hashable; the same object again reuses the compiled call.
      params: Pytree of real floating-point arrays.
      batches: Pytree of leaves [micro_batches, micro_batch, …]; the objective is the mean over the
        first axis.
      rng: Key of the probes.
      probes: P, how many, at least 2.
      coordinates: None, or a pytree like `params` of integer arrays [C_leaf], positions in the
        flattened leaf at which single probes are kept; `sample_coordinates` draws them.
      key: One dropout key for all micro-batches; None evaluates without.

    Returns:
      A `HessianDiagonal`, in float32 or wider.

    Raises:
      ValueError: probes < 2; empty `batches`.
      TypeError: complex or integer leaves; a loss that is not a scalar.
      ImportError: matfree is not installed (`pip install sharpjax[anatomy]`).

    Cost: 3 gradients a micro-batch and probe; memory of 5 trees like `params` beside the product.

    Source: Bekas, Kokiopoulou and Saad, "An estimator for the diagonal of a matrix", 2007; the
    probes and their products are `matfree.stochtrace.monte_carlo_diagonal`.
    """
    import_matfree()
    if isinstance(probes, bool) or not isinstance(probes, int) or probes < 2:
        raise ValueError(f"probes must be an integer of at least 2, got {probes!r}")
    extra = _check(loss_fn, params, params, batches, key)
    keys = jax.random.split(rng, probes)
    return _diagonal(loss_fn, params, batches, extra, keys, coordinates)


def sample_coordinates(params: Any, count: int, seed: int) -> Any:
    """A uniform sample of min(count, n) coordinates: a tree of ascending positions in each leaf."""
    leaves, structure = jax.tree.flatten(params)
    ends = np.cumsum([np.size(x) for x in leaves])
    size, draw = int(ends[-1]), np.random.default_rng(seed)
    if count >= size:
        drawn = np.arange(size)
    else:  # Without a permutation of all n: distinct after one draw with a few to spare.
        drawn = np.unique(draw.integers(size, size=count + count // 2 + 16))
        while len(drawn) < count:
            drawn = np.unique(np.concatenate([drawn, draw.integers(size, size=count)]))
        drawn = np.sort(draw.choice(drawn, count, replace=False))
    starts = ends - [np.size(x) for x in leaves]
    parts = np.split(drawn, np.searchsorted(drawn, ends[:-1]))
    return structure.unflatten([part - start for part, start in zip(parts, starts, strict=True)])


def take_coordinates(tree: Any, coordinates: Any) -> np.ndarray:
    """The values of a tree at `coordinates`, leaf after leaf, as one float64 NumPy vector."""
    picked = jax.tree.map(lambda x, at: np.asarray(jnp.ravel(x)[at]), tree, coordinates)
    return np.concatenate([x.astype(np.float64) for x in jax.tree.leaves(picked)])


def rank_correlation(
    gradient: np.ndarray, samples: np.ndarray, groups: np.ndarray | None = None
) -> RankCorrelation:
    """Spearman's correlation of |gradient| with the diagonal's size, and what noise does to it.

    The probes' noise at coordinate i has the size of row i of the Hessian. Where the diagonal is
    not resolved, |mean over probes| ranks coordinates by their rows, and its correlation with
    |gradient| says nothing of Hᵢᵢ. Two statistics tell the cases apart. With A and B the means of
    the even and of the odd probes,

        control:   with |A − B|/2, which has the noise of (A + B)/2 and no diagonal in it;
        unbiased:  with A·B, whose mean is Hᵢᵢ², and which is as often negative as positive where
                   Hᵢᵢ = 0, whatever the noise's size. Noise still pulls it towards zero.

    Intervals are Fisher's, in z = artanh ρ: the variance is the delete-a-group jackknife's over 16
    groups of probes plus 1.06/(C − 3) for the choice of coordinates (Fieller, Hartley and Pearson,
    1957), which takes coordinates as independent. They are for what so many probes show, and no
    correction for noise is made. `reliability` is the correlation of A with B stepped up to all
    probes (Spearman and Brown's 2r/(1 + r)), 0 if negative. NaN where nothing varies.

    Args:
      gradient: [C] values.
      samples: [P, C] single probes at the same coordinates, P ≥ 4.
      groups: [C] labels; with them ranks are taken within each group, and the correlation is the
        mean over groups weighted by their coordinates. None takes all as one group.

    Returns:
      A `RankCorrelation`.

    Raises:
      ValueError: shapes that do not fit; fewer than 4 probes.

    Cost: about 40 sorts of C numbers.
    """
    gradient, samples = np.abs(np.asarray(gradient)), np.asarray(samples, np.float64)
    if samples.ndim != 2 or samples.shape[1:] != gradient.shape or len(samples) < 4:
        raise ValueError(
            "samples must be [probes ≥ 4, coordinates] like gradient [coordinates], "
            f"got {samples.shape} and {gradient.shape}"
        )
    probes, count = samples.shape
    where = _group_positions(groups, count)
    ranks = _ranks(gradient, where)
    against = lambda values: _mean_product(ranks, _ranks(values, where))  # noqa: E731
    even = np.arange(probes) % 2 == 0

    def statistics(kept):
        a, b = samples[kept & even].mean(0), samples[kept & ~even].mean(0)
        return against(np.abs(samples[kept].mean(0))), against(a * b)

    every = np.ones(probes, bool)
    whole = np.array(statistics(every))
    # Groups of neighbours take as many even probes as odd ones, to within one.
    parts = np.array_split(np.arange(probes), min(probes // 2, 16))
    left_out = np.array([statistics(~np.isin(np.arange(probes), part)) for part in parts])
    fisher = lambda r: np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))  # noqa: E731
    z = fisher(left_out)
    variance = (len(parts) - 1) / len(parts) * np.sum((z - z.mean(0)) ** 2, axis=0)
    spread = 1.96 * np.sqrt(variance + 1.06 / max(count - 3, 1))
    low, high = np.tanh(fisher(whole) - spread), np.tanh(fisher(whole) + spread)
    a, b = samples[even].mean(0), samples[~even].mean(0)
    half = _mean_product(_ranks(a, where), _ranks(b, where))
    reliability = 2 * half / (1 + half) if half > 0 else 0.0 * half
    control = against(np.abs(a - b))
    values = (whole[0], low[0], high[0], control, whole[1], low[1], high[1], reliability)
    return RankCorrelation(*map(float, values), coordinates=count)  # pyright: ignore[reportCallIssue]


def import_matfree() -> Any:
    """The package matfree, or an ImportError that says how to get it."""
    try:
        import matfree
        import matfree.decomp
        import matfree.stochtrace
    except ImportError as error:
        raise ImportError(
            "this estimator needs matfree: pip install 'sharpjax[anatomy]'"
        ) from error
    return matfree


def mean_product(loss_fn: Callable, params: Any, batches: Any, extra: tuple) -> Callable:
    """The product v -> Hv of the mean loss over micro-batches, to be traced; in one's memory."""
    count = jax.tree.leaves(batches)[0].shape[0]

    def product(v):
        def add(total, batch):
            gradient = jax.grad(lambda p: loss_fn(p, batch, *extra))
            return jax.tree.map(jnp.add, total, jax.jvp(gradient, (params,), (v,))[1]), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, v), batches)
        return jax.tree.map(lambda x: x / count, total)

    return product


def random_signs(rng: jax.Array, like: Any) -> Any:
    """A tree of independent ±1, leaf by leaf (matfree's sampler draws one flat vector)."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(rng, len(leaves))
    signs = [jax.random.rademacher(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    return structure.unflatten(signs)


@functools.partial(jax.jit, static_argnames="loss_fn")
def _diagonal(loss_fn, params, batches, extra, keys, coordinates):
    stochtrace = import_matfree().stochtrace
    params = _widen(params)
    product = mean_product(loss_fn, params, batches, extra)
    # One probe at a time, so that memory does not grow with their number.
    sampler = lambda rng: jax.tree.map(lambda x: x[None], random_signs(rng, params))  # noqa: E731
    one = stochtrace.estimator_monte_carlo(stochtrace.monte_carlo_diagonal(), sampler)

    def probe(carry, rng):  # Welford's update of mean and squared deviations.
        count, mean, squares = carry
        found = one(product, rng)
        change = jax.tree.map(jnp.subtract, found, mean)
        mean = jax.tree.map(lambda m, c: m + c / (count + 1).astype(c.dtype), mean, change)
        squares = jax.tree.map(lambda s, c, x, m: s + c * (x - m), squares, change, found, mean)
        kept = None
        if coordinates is not None:
            kept = jax.tree.map(lambda x, at: jnp.ravel(x)[at], found, coordinates)
        return (count + 1, mean, squares), kept

    zero = jax.tree.map(jnp.zeros_like, params)
    with jax.default_matmul_precision("highest"):
        (_, mean, squares), samples = jax.lax.scan(probe, (jnp.zeros(()), zero, zero), keys)
    scale = len(keys) * (len(keys) - 1)
    return HessianDiagonal(mean, jax.tree.map(lambda s: jnp.sqrt(s / scale), squares), samples)


def _group_positions(groups, count) -> list[np.ndarray]:
    if groups is None:
        return [np.arange(count)]
    order = np.argsort(groups, kind="stable")
    changes = np.flatnonzero(np.diff(np.asarray(groups)[order])) + 1
    return np.split(order, changes)


def _ranks(values, where) -> np.ndarray:
    """Ranks within each group, of mean 0 and mean square 1 there; NaN where nothing varies."""
    out = np.empty(len(values))
    for at in where:
        ranks = scipy.stats.rankdata(values[at])
        ranks -= ranks.mean()
        scale = np.sqrt(np.mean(ranks**2))
        out[at] = ranks / scale if scale > 0 else np.nan
    return out


def _mean_product(a, b) -> float:
    """The correlation of standardised ranks; groups in which nothing varies do not count."""
    product = a * b
    varies = np.isfinite(product)
    return float(np.mean(product[varies])) if varies.any() else float("nan")
