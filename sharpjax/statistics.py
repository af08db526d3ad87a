"""How the ranks of a gradient's magnitudes follow those of the Hessian's diagonal."""

from typing import Any

import numpy as np
import scipy.stats

from sharpjax._checks import check_count
from sharpjax.objective import result, static


@result
class RankCorrelation:
    """Spearman's correlations of |gᵢ| with estimates of the size of Hᵢᵢ; see `rank_correlation`."""

    correlation: float
    """With |mean over all probes|, whose noise scales with row i of H."""
    low: float
    """Of its 95 % confidence interval."""
    high: float
    """Of its 95 % confidence interval."""
    control: float
    """With that noise alone: what `correlation` would be were every Hᵢᵢ zero."""
    unbiased: float
    """With an unbiased estimate of Hᵢᵢ²: zero on average were every Hᵢᵢ zero."""
    unbiased_low: float
    """Of its 95 % confidence interval."""
    unbiased_high: float
    """Of its 95 % confidence interval."""
    reliability: float
    """Of the signed mean: correlation of two such, from independent probes."""
    coordinates: int = static()
    """How many."""


@result
class ExactRankCorrelation:
    """Spearman's correlation of |gᵢ| with |Hᵢᵢ| of all coordinates, as a sample shows it."""

    correlation: float
    """Of the population that the weights describe."""
    low: float
    """Of its 95 % confidence interval."""
    high: float
    """Of its 95 % confidence interval."""
    coordinates: int = static()
    """How many were drawn."""


def rank_correlation(
    gradient: np.ndarray, samples: np.ndarray, groups: np.ndarray | None = None
) -> RankCorrelation:
    """Spearman's correlation of |gradient| with the diagonal's size, and what noise does to it.

    The probes' noise at coordinate i has the size of row i of the Hessian. Where the diagonal is
    not resolved, |mean over probes| ranks coordinates by their rows, and its correlation with
    |gradient| says nothing of Hᵢᵢ. Two statistics tell the cases apart. With A and B the means of
    the even and of the odd probes,

    - `control` is with |A − B|/2, which has the noise of (A + B)/2 and no diagonal in it;
    - `unbiased` is with A·B, whose mean is Hᵢᵢ², and which is as often negative as positive where
      Hᵢᵢ = 0, whatever the noise's size. Noise still pulls it towards zero.

    Intervals are Fisher's, in z = artanh ρ: the variance is the delete-a-group jackknife's over 16
    groups of probes plus 1.06/(C − 3) for the choice of coordinates (Fieller, Hartley and Pearson,
    1957), which takes coordinates as independent. They cover this many probes, without any
    correction for noise. `reliability` is the correlation of A with B stepped up to all
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
    against = lambda values: _correlation(ranks, _ranks(values, where))  # noqa: E731
    even = np.arange(probes) % 2 == 0

    def statistics(kept):
        a, b = samples[kept & even].mean(0), samples[kept & ~even].mean(0)
        return against(np.abs(samples[kept].mean(0))), against(a * b)

    every = np.ones(probes, bool)
    whole = np.array(statistics(every))
    # Groups of neighbours take as many even probes as odd ones, to within one.
    parts = np.array_split(np.arange(probes), min(probes // 2, 16))
    left_out = np.array([statistics(~np.isin(np.arange(probes), part)) for part in parts])
    z = _fisher(left_out)
    variance = (len(parts) - 1) / len(parts) * np.sum((z - z.mean(0)) ** 2, axis=0)
    spread = 1.96 * np.sqrt(variance + 1.06 / max(count - 3, 1))
    low, high = np.tanh(_fisher(whole) - spread), np.tanh(_fisher(whole) + spread)
    a, b = samples[even].mean(0), samples[~even].mean(0)
    half = _correlation(_ranks(a, where), _ranks(b, where))
    reliability = 2 * half / (1 + half) if half > 0 else 0.0 * half
    control = against(np.abs(a - b))
    values = (whole[0], low[0], high[0], control, whole[1], low[1], high[1], reliability)
    return RankCorrelation(*map(float, values), coordinates=count)


def exact_rank_correlation(
    gradient: Any,
    diagonal: Any,
    weights: Any = None,
    strata: Any = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> ExactRankCorrelation:
    """Spearman's correlation of |gradient| with |diagonal| over all coordinates, from a sample.

    Of values that are exact (`exact_diagonal`), so that no noise has to be told from the diagonal.
    A coordinate of weight w stands for w coordinates: its rank is the sum of the weights below it
    and half of those that tie with it, itself included, and the correlation is that of the ranks
    under the weights. A uniform sample, all weights equal, gives Spearman's correlation.

    The interval is Fisher's, tanh(artanh ρ ± 1.96·σ), with σ the deviation of artanh ρ over
    bootstrap resamples, which are drawn within each stratum as the sample was. It is for the choice
    of coordinates; how exact values vary with the data is their standard errors' to say.

    Args:
        gradient: [C] values.
        diagonal: [C] values at the same coordinates.
        weights: [C] positive numbers, such as `StratifiedSample.weights`; None, all equal.
        strata: [C] labels of the strata that were drawn from; None, all are one.
        resamples: Of the bootstrap, at least 2.
        seed: Of the bootstrap.

    Returns:
        An `ExactRankCorrelation` of NumPy floats. NaN where nothing varies or a value is NaN.

    Raises:
        ValueError: shapes that do not fit; no coordinate; a weight that is not positive;
            resamples < 2.

    Cost: two sorts and `resamples` passes over C numbers.

    Example:
        >>> import numpy as np
        >>> from sharpjax.statistics import exact_rank_correlation
        >>> x = np.arange(1.0, 101.0)
        >>> round(exact_rank_correlation(x, x**3).correlation, 6)
        1.0
    """
    x, y = np.abs(np.asarray(gradient, np.float64)), np.abs(np.asarray(diagonal, np.float64))
    weights = np.ones(x.shape) if weights is None else np.asarray(weights, np.float64)
    strata = np.zeros(x.shape, int) if strata is None else np.asarray(strata)
    if x.ndim != 1 or not x.size or not x.shape == y.shape == weights.shape == strata.shape:
        raise ValueError(
            "gradient, diagonal, weights and strata must be alike, [coordinates ≥ 1], "
            f"got {x.shape}, {y.shape}, {weights.shape} and {strata.shape}"
        )
    if not np.all(weights > 0):
        raise ValueError(f"weights must be positive, got {weights[~(weights > 0)][0]}")
    check_count("resamples", resamples, 2)
    if np.isnan(x).any() or np.isnan(y).any():
        return ExactRankCorrelation(np.nan, np.nan, np.nan, x.size)
    ties = [np.unique(values, return_inverse=True)[1] for values in (x, y)]

    def correlation(weights):
        ranks = [_weighted_ranks(of, weights) for of in ties]
        a, b = (r - np.average(r, weights=weights) for r in ranks)
        scale = np.sqrt(np.sum(weights * a**2) * np.sum(weights * b**2))
        return np.sum(weights * a * b) / scale if scale > 0 else np.nan

    draw, groups = np.random.default_rng(seed), _group_positions(strata, x.size)

    def resampled():
        times = np.zeros(x.size)
        for at in groups:
            times[at] = draw.multinomial(len(at), np.full(len(at), 1 / len(at)))
        return correlation(weights * times)

    whole = correlation(weights)
    z = np.array([_fisher(resampled()) for _ in range(resamples)])
    z = z[np.isfinite(z)]  # A resample in which nothing varies has none.
    spread = 1.96 * np.std(z, ddof=1) if len(z) > 1 else np.nan
    low, high = np.tanh(_fisher(whole) - spread), np.tanh(_fisher(whole) + spread)
    return ExactRankCorrelation(float(whole), float(low), float(high), x.size)


def _weighted_ranks(ties, weights) -> np.ndarray:
    """Weight below each value and half of what ties with it; `ties` numbers the sorted values."""
    of_value = np.bincount(ties, weights)
    return (np.cumsum(of_value) - of_value / 2)[ties]


def _fisher(correlation) -> Any:
    return np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))


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


def _correlation(a, b) -> float:
    """The correlation of standardised ranks; groups in which nothing varies do not count."""
    product = a * b
    varies = np.isfinite(product)
    return float(np.mean(product[varies])) if varies.any() else float("nan")
