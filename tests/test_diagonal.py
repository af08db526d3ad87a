"""The diagonal's estimate within its stated error of the dense one; ranks against SciPy."""

import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from sharpjax.diagonal import (
    hessian_diagonal,
    rank_correlation,
    sample_coordinates,
    take_coordinates,
)
from tests.cases import network, quadratic

KEY = jax.random.key(0)


def ravel(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def test_estimate_lies_within_its_stated_error_of_the_diagonal(x64):
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), batch)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def mean(x):
        return jnp.mean(jax.vmap(lambda b: loss(unravel(x), b))(batches))

    dense = np.asarray(jax.jit(jax.hessian(mean))(flat))
    everywhere = sample_coordinates(params, flat.size, 0)
    found = hessian_diagonal(
        loss, params, batches, jax.random.key(1), probes=400, coordinates=everywhere
    )
    error, stated = ravel(found.diagonal) - np.diag(dense), ravel(found.standard_error)
    # The stated error is right: it is that of the formula, Σ_{j≠i} Hᵢⱼ²/probes …
    exact = np.sqrt((np.sum(dense**2, axis=1) - np.diag(dense) ** 2) / 400)
    np.testing.assert_allclose(stated, exact, rtol=0.2)
    # … and the estimate lies within it: 400 probes, 24 coordinates, a z-score each.
    assert np.max(np.abs(error / stated)) < 4
    assert 0.5 < np.sqrt(np.mean((error / stated) ** 2)) < 1.5
    samples = np.concatenate([np.asarray(x) for x in jax.tree.leaves(found.samples)], axis=1)
    assert samples.shape == (400, flat.size)
    np.testing.assert_allclose(samples.mean(0), ravel(found.diagonal), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(samples.std(0, ddof=1) / 20, stated, rtol=1e-9)


def test_a_diagonal_hessian_is_exact_from_the_first_probe():
    loss = quadratic(jnp.diag(jnp.arange(1.0, 6.0)), jnp.zeros(5))
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    found = hessian_diagonal(loss, params, jnp.ones((3, 1)), KEY, probes=2)
    np.testing.assert_allclose(ravel(found.diagonal), np.arange(1, 6), rtol=1e-6)
    np.testing.assert_allclose(ravel(found.standard_error), 0, atol=1e-6)
    assert found.samples is None


def test_coordinates_are_a_uniform_sample_and_all_when_few():
    tree = {"a": np.zeros((3, 4)), "b": np.zeros(0), "c": np.zeros(500)}
    assert [list(x) for x in jax.tree.leaves(sample_coordinates(tree, 512, 1))] == [
        list(range(12)),
        [],
        list(range(500)),
    ]
    drawn = jax.tree.leaves(sample_coordinates(tree, 100, 1))
    assert sum(map(len, drawn)) == 100
    assert all((np.diff(x) > 0).all() for x in drawn)
    assert drawn[0].max(initial=0) < 12 and drawn[2].max() < 500
    again = jax.tree.leaves(sample_coordinates(tree, 100, 1))
    assert all((x == y).all() for x, y in zip(drawn, again, strict=True))
    values = {"a": jnp.arange(12.0).reshape(3, 4), "b": jnp.zeros(0), "c": jnp.arange(500.0)}
    at = sample_coordinates(values, 512, 0)
    np.testing.assert_array_equal(take_coordinates(values, at), [*range(12), *range(500)])


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
    assert np.isnan(found[:-1]).all()


def test_arguments_are_checked(monkeypatch):
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)
    with pytest.raises(ValueError, match="probes"):
        hessian_diagonal(loss, params, batches, KEY, probes=1)
    with pytest.raises(ValueError, match="samples"):
        rank_correlation(np.ones(3), np.ones((4, 4)))
    monkeypatch.setitem(sys.modules, "matfree", None)
    with pytest.raises(ImportError, match=r"sharpjax\[anatomy\]"):
        hessian_diagonal(loss, params, batches, KEY)
