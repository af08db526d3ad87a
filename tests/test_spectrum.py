"""Eigenvalues and vectors against NumPy; Lanczos's identity; moments; the adaptive edge."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sharpjax._lanczos import tridiagonalize
from sharpjax.objective import objective
from sharpjax.spectrum import Spectrum, adaptive_edge, lanczos_spectrum, spectral_density
from tests.cases import network, quadratic, random_like

KEY = jax.random.key(0)
ONE = jnp.ones((1, 1))


@pytest.fixture
def point(x64):
    loss, params, batch = network(KEY, jnp.float64, width=6)
    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), batch)
    return loss, params, batches, dense_hessian(loss, params, batches)


def dense_hessian(loss, params, batches):
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    def mean(x):
        return jnp.mean(jax.vmap(lambda b: loss(unravel(x), b))(batches))

    return np.asarray(jax.jit(jax.hessian(mean))(flat))


def flat(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def test_extreme_eigenvalues_are_numpys(point):
    loss, params, batches, hessian = point
    values = np.linalg.eigvalsh(hessian)
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
    loss, params, batches, hessian = point
    values = np.linalg.eigvalsh(hessian)
    spectrum = lanczos_spectrum(loss, params, batches, KEY, probes=1, steps=36)
    live = np.asarray(spectrum.weights[0]) > 1e-14
    near = np.abs(spectrum.eigenvalues[0, live][:, None] - values).min(1)
    np.testing.assert_allclose(near, 0, atol=1e-8)
    assert np.isnan(spectrum.mean(lambda x: x)[1])


def test_the_basis_satisfies_lanczoss_identity(point):
    loss, params, batches, hessian = point
    measured = objective(loss, params, batches)
    product = lambda v: measured.like_params(unravel(hessian @ ravel(v)))  # noqa: E731
    ravel = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]  # noqa: E731
    unravel = jax.flatten_util.ravel_pytree(params)[1]
    found = tridiagonalize(measured, product, random_like(KEY, params), 12)
    basis = np.stack([flat(jax.tree.map(lambda q, i=i: q[i], found.basis)) for i in range(12)])
    off = found.beside[:-1]
    tridiagonal = np.diag(found.diagonal) + np.diag(off, 1) + np.diag(off, -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(12), atol=1e-14)
    rest = hessian @ basis.T - basis.T @ tridiagonal
    np.testing.assert_allclose(rest[:, :-1], 0, atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(rest[:, -1]), found.beside[-1], rtol=1e-10)


def test_moments_lie_within_their_error(point):
    loss, params, batches, hessian = point
    values = np.linalg.eigvalsh(hessian)
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


def test_vectors_are_the_eigenvectors(point):
    loss, params, batches, hessian = point
    values, vectors = np.linalg.eigh(hessian)
    found = lanczos_spectrum(loss, params, batches, KEY, probes=2, steps=34, vectors=3)
    np.testing.assert_allclose(found.vector_values, values[-3:][::-1], rtol=1e-9)
    rows = np.stack([flat(jax.tree.map(lambda q, i=i: q[i], found.vectors)) for i in range(3)])
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(rows * vectors.T[-3:][::-1], 1)), 1, rtol=1e-9)
    # Early, when they have not converged, the residual is the true one.
    found = lanczos_spectrum(loss, params, batches, KEY, probes=1, steps=5, vectors=2)
    for i in range(2):
        x = flat(jax.tree.map(lambda q, i=i: q[i], found.vectors))
        true = np.linalg.norm(hessian @ x - found.vector_values[i] * x)
        np.testing.assert_allclose(found.vector_residuals[i], true, rtol=1e-8)


def test_preconditioned_eigenvalues_are_numpys(point):
    loss, params, batches, hessian = point
    scales = jax.tree.map(lambda x: jnp.exp(2 * x), random_like(jax.random.key(3), params))
    root = flat(scales) ** -0.5
    values, vectors = np.linalg.eigh(root[:, None] * hessian * root)
    options = {"probes": 1, "steps": 36, "preconditioner": scales, "vectors": 2}
    found = lanczos_spectrum(loss, params, batches, KEY, **options)
    np.testing.assert_allclose(found.largest[0], values[-1], rtol=1e-9)
    np.testing.assert_allclose(found.smallest[0], values[0], atol=1e-9 * values[-1])
    top = flat(jax.tree.map(lambda q: q[0], found.vectors))
    np.testing.assert_allclose(abs(top @ vectors[:, -1]), 1, rtol=1e-9)
    mean, _ = lanczos_spectrum(
        loss, params, batches, KEY, **options | {"probes": 60, "vectors": 0}
    ).mean(lambda x: x)
    np.testing.assert_allclose(mean, values.mean(), rtol=0.3)


def test_a_preconditioner_that_is_the_hessian_leaves_ones():
    diagonal = jnp.array([1e-3, 1.0, 7.0, 4e4, 5.0])
    loss = quadratic(jnp.diag(diagonal), jnp.zeros(5))
    params, scales = ({"a": x[:2], "b": x[2:]} for x in (jnp.ones(5), diagonal))
    found = lanczos_spectrum(loss, params, ONE, KEY, preconditioner=scales, steps=5)
    np.testing.assert_allclose(found.eigenvalues, 1, rtol=1e-6)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-5)


def test_an_exhausted_krylov_space_ends_in_weightless_values():
    # Two distinct eigenvalues: Lanczos is done after two steps, in float32.
    loss = quadratic(jnp.diag(jnp.array([1.0, 1.0, 1.0, 4.0, 4.0])), jnp.zeros(5))
    params = {"a": jnp.ones(2), "b": jnp.ones(3)}
    spectrum = lanczos_spectrum(loss, params, ONE, KEY, probes=3, steps=5, vectors=3)
    assert spectrum.eigenvalues.shape == (3, 5) and np.isfinite(spectrum.eigenvalues).all()
    np.testing.assert_allclose(spectrum.largest[0], 4, rtol=1e-5)
    np.testing.assert_allclose(spectrum.mean(lambda x: x)[0], 11 / 5, rtol=1e-5)
    assert (spectrum.weights[:, 2:] == 0).all()
    assert (spectrum.residuals < 1e-5).all()
    # A third vector cannot be had: NaN, and a vector that is nothing.
    assert np.isnan(spectrum.vector_values).tolist() == [False, False, True]
    np.testing.assert_array_equal(spectrum.vectors["b"][2], 0)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_residuals_are_zero_after_a_breakdown(size):
    a = jnp.array([1.0, 2.0, 3.0])
    for loss, top, live in (
        (lambda x, batch: size * batch.mean() * (a @ x) ** 2 / 2, 14, 2),
        (lambda x, batch: size * batch.mean() * 3.7 * (x @ x) / 2, 3.7, 1),
    ):
        found = lanczos_spectrum(loss, jnp.ones(3), ONE, KEY, probes=3, steps=3)
        np.testing.assert_allclose(found.eigenvalues[:, live - 1 :], size * top, rtol=1e-5)
        np.testing.assert_allclose(found.residuals, 0, atol=1e-5 * size)
        np.testing.assert_array_equal(found.weights[:, live:], 0)
    flat_loss = lanczos_spectrum(lambda x, batch: jnp.sum(x), jnp.ones(3), ONE, KEY, steps=2)
    np.testing.assert_array_equal(flat_loss.eigenvalues, 0)


def test_a_nan_hessian_is_nan_everywhere():
    loss = lambda x, batch: jnp.nan * jnp.sum(x**2)  # noqa: E731
    found = lanczos_spectrum(loss, jnp.ones(3), ONE, KEY, steps=3, vectors=1)
    for leaf in jax.tree.leaves(found):
        assert np.isnan(leaf).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sixteen_bit_parameters_and_losses(dtype):
    hessian = jnp.diag(jnp.array([1.0, 2.0, 3.0, 8.0]))
    loss = lambda p, batch: quadratic(hessian, jnp.zeros(4))(p, batch).astype(dtype)  # noqa: E731
    params = {"a": jnp.ones(2, dtype), "b": jnp.ones(2, dtype)}
    found = lanczos_spectrum(loss, params, ONE, KEY, steps=4, probes=1, vectors=1)
    assert found.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(found.eigenvalues[0], [1, 2, 3, 8], rtol=1e-2)


def test_mixed_precision_keeps_each_leafs_type(x64):
    loss = quadratic(jnp.diag(jnp.array([1.0, 2.0, 3.0, 8.0])), jnp.zeros(4))
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(2, jnp.float64)}
    scales = {"a": np.ones(2, np.float64), "b": np.ones(2, np.float32)}
    found = lanczos_spectrum(
        loss, params, ONE, KEY, steps=4, probes=1, vectors=1, preconditioner=scales
    )
    assert found.vectors["a"].dtype == jnp.float32 and found.vectors["b"].dtype == jnp.float64
    np.testing.assert_allclose(found.eigenvalues[0], [1, 2, 3, 8], rtol=1e-5)


def test_may_be_jitted_and_takes_arguments():
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)

    def scaled(params, batch, scale, name):
        assert name == "mean"
        return scale * loss(params, batch), {"aux": name}

    @jax.jit
    def top(params, scale):
        options = {"args": (scale, "mean"), "has_aux": True, "vectors": 2}
        return lanczos_spectrum(scaled, params, batches, KEY, probes=2, steps=6, **options)

    plain = lanczos_spectrum(loss, params, batches, KEY, probes=2, steps=6)
    found = top(params, 3.0)
    assert isinstance(found, Spectrum) and found.size == plain.size
    np.testing.assert_allclose(found.largest[0], 3 * plain.largest[0], rtol=1e-4)


def test_momentum_with_a_fixed_preconditioner_diverges_beyond_its_edge():
    rate, b1 = 0.1, 0.9
    for factor, stable in ((0.98, True), (1.02, False)):
        curvature = factor * adaptive_edge(rate, b1)
        tx = optax.chain(optax.ema(b1, debias=False), optax.scale(-rate))

        def step(carry, _, tx=tx, curvature=curvature):
            x, state = carry
            update, state = tx.update(curvature * x, state)
            return (x + update, state), None

        (x, _), _ = jax.lax.scan(step, (1.0, tx.init(jnp.array(1.0))), None, 600)
        assert (abs(x) < 1e-2) == stable and (abs(x) > 1e2) != stable
    assert adaptive_edge(0.5, 0.0) == 2 / 0.5


def test_a_quadratic_trained_by_adam_ends_at_its_edge(x64):
    rate = 3e-3
    hessian = jnp.diag(jnp.array([0.5, 2.0, 30.0, 100.0]))
    loss, params = quadratic(hessian, jnp.zeros(4)), {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = optax.adam(rate, b2=0.99, eps=1e-12)

    def step(carry, _):
        params, state = carry
        update, state = tx.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, update), state), state[0]

    _, states = jax.lax.scan(step, (params, tx.init(params)), None, 6000)
    edge = adaptive_edge(rate)
    found = []
    for i in range(5000, 6000, 100):
        scales = jax.tree.map(lambda v, i=i: jnp.sqrt(v[i]) + 1e-12, states.nu)
        options = {"preconditioner": scales, "probes": 1, "steps": 4}
        found.append(lanczos_spectrum(loss, params, ONE, KEY, **options).largest[0])
    np.testing.assert_allclose(np.mean(found), edge, rtol=0.1)


def test_arguments_are_checked():
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)
    for bad in ({"probes": 0}, {"steps": 0}, {"steps": 1000}, {"steps": 2.0}, {"vectors": 41}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            lanczos_spectrum(loss, params, batches, KEY, **{"steps": 10} | bad)
    for value in (0.0, -1.0, float("nan"), float("inf")):
        scales = jax.tree.map(jnp.ones_like, params)
        scales["first"]["bias"] = scales["first"]["bias"].at[2].set(value)
        with pytest.raises(ValueError, match=rf"'bias'\].*positive, got {value} at \(2,\)"):
            lanczos_spectrum(loss, params, batches, KEY, steps=2, preconditioner=scales)
    with pytest.raises(ValueError, match="preconditioner"):
        lanczos_spectrum(loss, params, batches, KEY, steps=2, preconditioner=jnp.ones(3))
    with pytest.raises(ValueError, match="learning_rate"):
        adaptive_edge(0.0)
    with pytest.raises(ValueError, match="b1"):
        adaptive_edge(0.1, 1.0)
    spectrum = Spectrum(np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 3)
    with pytest.raises(ValueError, match="width"):
        spectral_density(spectrum, np.zeros(2), 0.0)
