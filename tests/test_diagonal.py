"""The diagonal's estimate within its stated error of the dense one."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.coordinates import sample_coordinates
from sharpjax.diagonal import hessian_diagonal
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


def test_probes_are_those_of_the_key_leaf_by_leaf():
    """z ⊙ Hz of signs that are drawn here again, by the dense Hessian."""
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = np.asarray(jax.jit(jax.hessian(lambda x: loss(unravel(x), batch)))(flat))
    key = jax.random.key(1)
    everywhere = sample_coordinates(params, flat.size, 0)
    found = hessian_diagonal(loss, params, batches, key, probes=3, coordinates=everywhere)
    samples = np.concatenate([np.asarray(x) for x in jax.tree.leaves(found.samples)], axis=1)
    for probe, sample in zip(jax.random.split(key, 3), samples, strict=True):
        leaves = jax.tree.leaves(params)
        keys = jax.random.split(probe, len(leaves))
        # A bit a coordinate, so that float32 and float64 have the same signs.
        bits = [
            jax.random.bits(k, x.shape, jnp.uint8) % 2 for k, x in zip(keys, leaves, strict=True)
        ]
        signs = [2.0 * np.ravel(of_leaf) - 1 for of_leaf in bits]
        z = np.concatenate(signs)
        np.testing.assert_allclose(sample, z * (dense @ z), rtol=1e-4, atol=1e-4)


def test_can_be_jitted_with_arguments_and_auxiliaries():
    loss = quadratic(jnp.diag(jnp.arange(1.0, 6.0)), jnp.zeros(5))
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    scaled = lambda p, b, scale: (scale * loss(p, b), p)  # noqa: E731

    @jax.jit
    def diagonal(scale, at):
        options = {"probes": 2, "args": (scale,), "has_aux": True, "coordinates": at}
        return hessian_diagonal(scaled, params, jnp.ones((3, 1)), KEY, **options)

    found = diagonal(2.0, {"a": jnp.array([1]), "b": jnp.array([0, 2])})
    np.testing.assert_allclose(ravel(found.diagonal), 2 * np.arange(1, 6), rtol=1e-6)
    np.testing.assert_allclose(found.samples["b"], [[6, 10], [6, 10]], rtol=1e-6)


def test_arguments_are_checked():
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)
    with pytest.raises(ValueError, match="probes"):
        hessian_diagonal(loss, params, batches, KEY, probes=1)
    with pytest.raises(ValueError, match="coordinates is a"):
        hessian_diagonal(loss, params, batches, KEY, coordinates={"first": [1]})
    outside = jax.tree.map(lambda x: np.array([x.size]), params)
    with pytest.raises(ValueError, match=r"coordinates\['first'\].* in \[0, 4\), got 4"):
        hessian_diagonal(loss, params, batches, KEY, coordinates=outside)
    fractional = jax.tree.map(lambda x: np.array([0.5]), params)
    with pytest.raises(TypeError, match=r"must be integers .* dtype float"):
        hessian_diagonal(loss, params, batches, KEY, coordinates=fractional)
