"""Blocks' eigenvalues against NumPy's, their distance against SciPy's, and its error."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial.distance

from sharpjax.block_spectra import block_spectra, jensen_shannon
from sharpjax.spectrum import spectral_density
from tests.cases import network, quadratic

KEY = jax.random.key(0)
ONE = jnp.ones((1, 1))


def test_eigenvalues_are_those_of_the_dense_blocks(x64):
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), batch)
    groups = lambda path: "bias" if path.endswith("bias") else "kernels"  # noqa: E731
    # A block of 4 parameters ends after 4 steps; the other's 20 are all of its space.
    found = block_spectra(loss, params, batches, KEY, groups=groups, probes=2, steps=20)
    assert found.labels == ("bias", "kernels") and found.sizes == (4, 20)

    def mean(params):
        return jnp.mean(jax.vmap(lambda b: loss(params, b))(batches))

    hessian = jax.jit(jax.hessian(mean))(params)
    leaves = jax.tree.leaves(hessian)  # [3 · 3] blocks of leaf by leaf: bias, kernel, second.
    sizes = [4, 12, 8]
    tile = [
        [np.reshape(leaves[3 * i + j], (sizes[i], sizes[j])) for j in range(3)] for i in (0, 1, 2)
    ]
    dense = {"bias": tile[0][0], "kernels": np.block([row[1:] for row in tile[1:]])}
    for label, block in dense.items():
        values = np.linalg.eigvalsh(block)
        spectrum = found.spectrum(label)
        assert spectrum.size == len(values)
        np.testing.assert_allclose(spectrum.largest[0], values[-1], rtol=1e-9)
        np.testing.assert_allclose(spectrum.smallest[0], values[0], atol=1e-9 * values[-1])
        live = np.asarray(spectrum.weights) > 1e-12
        near = np.abs(np.asarray(spectrum.eigenvalues)[..., None] - values).min(-1)
        assert near[live].max() < 1e-8 and live.sum() >= len(values)
    assert (found.weights[0, :, 4:] == 0).all()
    with pytest.raises(KeyError, match="no block 'head'"):
        found.spectrum("head")

    # The distance is SciPy's, of the densities as `spectral_density` has them.
    low, high = found.eigenvalues.min(), found.eigenvalues.max()
    sigma = 0.01 * (high - low)
    grid = np.linspace(low - 4 * sigma, high + 4 * sigma, 1024)
    a, b = (spectral_density(found.spectrum(x), grid, sigma)[0] for x in found.labels)
    expected = scipy.spatial.distance.jensenshannon(a, b)
    assert 0.01 < expected < 0.8
    # The library sums each start's density to 1 before the mean, SciPy their mean.
    np.testing.assert_allclose(found.distance, expected, rtol=1e-4)
    np.testing.assert_allclose(found.distances, [[0, expected], [expected, 0]], rtol=1e-4)


def test_jensen_shannon_is_scipys():
    p, q = np.random.default_rng(0).dirichlet(np.ones(50), size=2)
    q[:20] = 0  # Where one of them is 0.
    q /= q.sum()
    expected = scipy.spatial.distance.jensenshannon(p, q)
    np.testing.assert_allclose(jensen_shannon(jnp.array(p), jnp.array(q)), expected, rtol=1e-5)
    assert jensen_shannon(jnp.array([0.0, 1e-39]), jnp.array([1.0, 0.0])) < np.log(2) ** 0.5


def blocks_loss(params, batch, hessians):
    terms = [x @ hessians[k] @ x / 2 for k, x in params.items()]
    return batch.mean() * sum(terms)


def test_equal_blocks_are_0_apart_and_others_are_not():
    draw = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)
    hessian = jnp.array(draw @ draw.T)
    params = {k: jnp.ones(6) for k in "abc"}

    def distance(*blocks, probes=3):
        hessians = dict(zip("abc", blocks, strict=True))
        return block_spectra(
            blocks_loss, params, ONE, KEY, probes=probes, steps=6, args=(hessians,)
        )

    equal = distance(hessian, hessian, hessian)
    np.testing.assert_allclose(equal.distances, 0, atol=1e-3)
    # Each far from the others: √ln 2, and two equal ones among three.
    eye = jnp.eye(6)
    apart = distance(eye, 5 * eye, 9 * eye)
    np.testing.assert_allclose(apart.distance, np.log(2) ** 0.5, rtol=1e-4)
    two = distance(hessian, hessian, 100 * eye)
    np.testing.assert_allclose(two.distance, two.distances[0, 2] * 2 / 3, rtol=1e-3)
    np.testing.assert_allclose(two.distances, two.distances.T, atol=1e-5)
    flat = distance(0 * eye, 0 * eye, 0 * eye)
    np.testing.assert_array_equal(flat.eigenvalues, 0)
    np.testing.assert_allclose(flat.distances, 0, atol=1e-3)
    broken = distance(eye, jnp.nan * eye, eye)
    assert np.isnan(broken.distance) and np.isnan(broken.eigenvalues[1]).all()


def test_the_distances_error_is_its_spread(x64):
    draw = np.random.default_rng(1).normal(size=(2, 30, 30))
    hessians = {k: jnp.array(x @ x.T) for k, x in zip("ab", draw, strict=True)}
    hessians["b"] = hessians["b"] + 20 * jnp.eye(30)
    params = {k: jnp.ones(30) for k in "ab"}

    @jax.jit
    def repeat(keys):
        measure = lambda key: block_spectra(  # noqa: E731
            blocks_loss, params, ONE, key, probes=6, steps=6, width=0.1, args=(hessians,)
        )
        found = jax.vmap(measure)(keys)
        return found.distance, found.distance_se

    distance, error = repeat(jax.random.split(KEY, 64))
    np.testing.assert_allclose(jnp.sqrt(jnp.mean(error**2)), distance.std(ddof=1), rtol=0.4)


def test_one_group_has_no_pair_and_arguments_are_checked():
    loss, params = quadratic(jnp.eye(4), jnp.zeros(4)), {"a": jnp.ones(2), "b": jnp.ones(2)}
    found = block_spectra(loss, params, ONE, KEY, groups=lambda path: 0, probes=1, steps=2)
    assert found.labels == (0,) and np.isnan(found.distance) and np.isnan(found.distance_se)
    for bad in ({"probes": 0}, {"steps": 0}, {"steps": 5}, {"width": 0.0}, {"width": 2.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            block_spectra(loss, params, ONE, KEY, **{"steps": 2} | bad)


def test_sixteen_bits():
    params = {"a": jnp.ones(3, jnp.float16), "b": jnp.ones(3, jnp.bfloat16)}

    def loss(p, batch):
        return (batch.mean() * (p["a"] @ p["a"] + 4 * p["b"] @ p["b"])).astype(jnp.float16)

    found = block_spectra(loss, params, ONE.astype(jnp.float16), KEY, probes=1, steps=2)
    assert found.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(found.eigenvalues[:, 0, -1], [2, 8], rtol=1e-2)
