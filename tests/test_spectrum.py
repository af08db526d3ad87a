"""Eigenvalues against NumPy; the density's integral and moments against the dense Hessian."""

import sys

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.spectrum import Spectrum, lanczos_spectrum, spectral_density
from tests.cases import network, quadratic

KEY = jax.random.key(0)


@pytest.fixture
def point(x64):
    loss, params, batch = network(KEY, jnp.float64, width=6)
    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), batch)
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def mean(x):
        return jnp.mean(jax.vmap(lambda b: loss(unravel(x), b))(batches))

    return loss, params, batches, np.linalg.eigvalsh(jax.jit(jax.hessian(mean))(flat))


def test_extreme_eigenvalues_are_numpys(point):
    loss, params, batches, values = point
    spectrum = lanczos_spectrum(loss, params, batches, KEY, probes=2, steps=18)
    assert spectrum.size == values.size == 36
    found, residual = spectrum.largest
    np.testing.assert_allclose(found, values[-1], rtol=1e-7)
    assert residual < 1e-2 * found
    assert abs(spectrum.smallest[0] - values[0]) <= max(spectrum.smallest[1], 1e-12)
    # Every Ritz value has an eigenvalue within its residual.
    near = np.abs(spectrum.eigenvalues[..., None] - values).min(-1)
    assert (near <= spectrum.residuals + 1e-10).all()


def test_a_whole_krylov_space_has_every_eigenvalue(point):
    loss, params, batches, values = point
    spectrum = lanczos_spectrum(loss, params, batches, KEY, probes=1, steps=36)
    live = spectrum.weights[0] > 1e-14
    near = np.abs(spectrum.eigenvalues[0, live][:, None] - values).min(1)
    np.testing.assert_allclose(near, 0, atol=1e-8)
    assert np.isnan(spectrum.mean(lambda x: x)[1])


def test_moments_lie_within_their_error(point):
    loss, params, batches, values = point
    spectrum = lanczos_spectrum(loss, params, batches, KEY, probes=40, steps=6)
    np.testing.assert_allclose(spectrum.weights.sum(1), 1, rtol=1e-12)
    for power in (1, 2, 3):
        mean, error = spectrum.mean(lambda x, k=power: x**k)
        assert abs(mean - np.mean(values**power)) < 4 * error
        assert error < 0.5 * np.mean(np.abs(values) ** power)


def test_density_integrates_to_one_and_keeps_the_moments(point):
    loss, params, batches, _ = point
    spectrum = lanczos_spectrum(loss, params, batches, KEY, probes=8, steps=10)
    low, high, width = spectrum.smallest[0], spectrum.largest[0], 0.05
    grid = np.linspace(low - 1, high + 1, 20001)
    density, error = spectral_density(spectrum, grid, width)
    np.testing.assert_allclose(np.trapezoid(density, grid), 1, rtol=1e-6)
    np.testing.assert_allclose(
        np.trapezoid(density * grid, grid), spectrum.mean(lambda x: x)[0], rtol=1e-6
    )
    second = spectrum.mean(np.square)[0] + width**2
    np.testing.assert_allclose(np.trapezoid(density * grid**2, grid), second, rtol=1e-6)
    assert (error >= 0).all() and error.max() > 0
    varying, _ = spectral_density(spectrum, grid, np.full(grid.shape, width))
    np.testing.assert_allclose(varying, density)


def test_an_exhausted_krylov_space_ends_in_weightless_values():
    # Two distinct eigenvalues: Lanczos is done after two steps, in float32.
    loss = quadratic(jnp.diag(jnp.array([1.0, 1.0, 1.0, 4.0, 4.0])), jnp.zeros(5))
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    spectrum = lanczos_spectrum(loss, params, jnp.ones((1, 1)), KEY, probes=3, steps=5)
    assert spectrum.eigenvalues.shape == (3, 5) and np.isfinite(spectrum.eigenvalues).all()
    np.testing.assert_allclose(spectrum.largest[0], 4, rtol=1e-5)
    np.testing.assert_allclose(spectrum.mean(lambda x: x)[0], 11 / 5, rtol=1e-5)
    assert (spectrum.weights[:, 2:] < 1e-6).all()


def test_arguments_are_checked(monkeypatch):
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)
    for bad in ({"probes": 0}, {"steps": 0}, {"steps": 1000}, {"steps": 2.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            lanczos_spectrum(loss, params, batches, KEY, **bad)
    spectrum = Spectrum(np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 3)
    with pytest.raises(ValueError, match="width"):
        spectral_density(spectrum, np.zeros(2), 0.0)
    monkeypatch.setitem(sys.modules, "matfree", None)
    with pytest.raises(ImportError, match=r"sharpjax\[anatomy\]"):
        lanczos_spectrum(loss, params, batches, KEY)
