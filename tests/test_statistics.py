"""Rank correlations against SciPy; their intervals by repetition."""

import jax
import numpy as np
import pytest
import scipy.stats

from sharpjax.coordinates import stratified_coordinates
from sharpjax.statistics import exact_rank_correlation, rank_correlation


def test_correlation_is_spearmans_and_its_interval_covers():
    draw = np.random.default_rng(0)
    size, probes, inside = 400, 32, 0
    for _ in range(20):
        true = np.exp(draw.normal(size=size))
        gradient = np.exp(0.8 * np.log(true) + 0.6 * draw.normal(size=size))
        samples = true + 0.5 * draw.normal(size=(probes, size))
        found = rank_correlation(gradient, samples)
        estimate = np.abs(samples.mean(0))
        expected = scipy.stats.spearmanr(gradient, estimate).statistic
        np.testing.assert_allclose(found.correlation, expected, atol=1e-12)
        # Of the population: ρ_S = 6/π·asin(ρ/2) of normal variables with ρ = 0.8.
        inside += found.low <= 6 / np.pi * np.arcsin(0.4) <= found.high
        assert found.low < found.correlation < found.high
        assert found.unbiased_low < found.unbiased < found.unbiased_high
        assert 0.9 < found.reliability <= 1 and abs(found.control) < 0.25
    assert inside >= 17


def test_noise_that_grows_with_the_gradient_is_no_diagonal():
    draw = np.random.default_rng(1)
    gradient = np.exp(draw.normal(size=20000))
    noise = gradient * draw.normal(size=(16, gradient.size))
    empty = rank_correlation(gradient, noise)
    assert empty.correlation > 0.4
    assert abs(empty.control - empty.correlation) < 0.03
    assert empty.unbiased_low < 0 < empty.unbiased_high
    assert empty.reliability < 0.05
    real = rank_correlation(gradient, noise + 0.5 * gradient)
    assert real.correlation > real.control + 0.1
    assert real.unbiased_low > 0.2
    assert real.reliability > 0.5


def test_within_groups_only_order_inside_counts():
    draw = np.random.default_rng(2)
    groups = np.repeat([0, 1], 300)
    scale = np.where(groups == 0, 1.0, 1000.0)
    true, gradient = np.exp(draw.normal(size=(2, 600))) * scale
    samples = np.stack([true, true, true, true])
    overall = rank_correlation(gradient, samples)
    within = rank_correlation(gradient, samples, groups)
    each = [
        scipy.stats.spearmanr(gradient[groups == g], true[groups == g]).statistic for g in (0, 1)
    ]
    assert overall.correlation > 0.6
    np.testing.assert_allclose(within.correlation, np.mean(each), atol=1e-12)


def test_nothing_varies():
    found = rank_correlation(np.ones(5), np.ones((4, 5)))
    assert np.isnan(jax.tree.leaves(found)).all() and found.coordinates == 5


def test_exact_correlation_is_spearmans_and_weights_are_copies():
    draw = np.random.default_rng(0)
    x = np.round(np.exp(draw.normal(size=300)), 1)  # With ties.
    y = np.round(x * np.exp(draw.normal(size=300)), 1) * draw.choice([-1, 1], 300)
    found = exact_rank_correlation(-x, y, resamples=2)
    expected = scipy.stats.spearmanr(x, np.abs(y)).statistic
    np.testing.assert_allclose(found.correlation, expected, rtol=1e-12)
    weights = draw.integers(1, 5, 300)
    found = exact_rank_correlation(x, y, weights, resamples=2)
    copies = scipy.stats.spearmanr(np.repeat(x, weights), np.repeat(np.abs(y), weights)).statistic
    np.testing.assert_allclose(found.correlation, copies, rtol=1e-12)
    assert found.coordinates == 300


@pytest.mark.parametrize("stratified", (False, True))
def test_exact_interval_covers_the_populations_correlation(stratified):
    draw = np.random.default_rng(1)
    population = np.exp(2 * draw.normal(size=20_000))
    diagonal = np.exp(0.5 * np.log(population) + draw.normal(size=population.size))
    true = scipy.stats.spearmanr(population, diagonal).statistic
    found = []
    for seed in range(60):
        if stratified:
            sample = stratified_coordinates(
                {"w": population}, 100, seed, fractions=(1e-3, 1e-2, 1e-1)
            )
            at, weights, strata = sample.coordinates["w"], sample.weights["w"], sample.strata["w"]
        else:
            at, weights, strata = draw.choice(population.size, 300, replace=False), None, None
        values = (population[at], diagonal[at], weights, strata)
        found.append(exact_rank_correlation(*values, resamples=100, seed=seed))
    inside = sum(one.low <= true <= one.high for one in found)
    assert inside >= 52  # Of 60 by chance with probability 0.99.
    spread = np.std([one.correlation for one in found])
    stated = np.mean([(one.high - one.low) / (2 * 1.96) for one in found])
    np.testing.assert_allclose(stated, spread, rtol=0.35)
    assert abs(np.mean([one.correlation for one in found]) - true) < 4 * spread / 60**0.5


def test_exact_correlation_of_nothing_and_of_nan():
    assert np.isnan(exact_rank_correlation([1.0, 1.0], [1.0, 2.0]).correlation)
    assert np.isnan(exact_rank_correlation([1.0, 2.0], [1.0, np.nan]).correlation)
    with pytest.raises(ValueError, match=r"must be alike.*\(2,\), \(3,\)"):
        exact_rank_correlation([1.0, 2.0], [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match=r"weights must be positive, got 0\.0"):
        exact_rank_correlation([1.0, 2.0], [1.0, 2.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="resamples"):
        exact_rank_correlation([1.0, 2.0], [1.0, 2.0], resamples=1)
    with pytest.raises(ValueError, match="samples"):
        rank_correlation(np.ones(3), np.ones((4, 4)))
