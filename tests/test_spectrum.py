"""Eigenvalues and vectors against NumPy; Lanczos's identity; moments; the adaptive edge."""

from types import SimpleNamespace

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


WHOLE = {"probes": 2, "steps": 36, "vectors": 3}
SHORT = {"probes": 24, "steps": 6, "vectors": 3}


@pytest.fixture(scope="module")
def point():
    """A network in float64, its dense Hessian, and its spectrum by few and by n steps."""
    with jax.enable_x64(True):
        loss, params, batch = network(KEY, jnp.float64, width=6)
        batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), batch)
        flat, unravel = jax.flatten_util.ravel_pytree(params)

        def mean(x):
            return jnp.mean(jax.vmap(lambda b: loss(unravel(x), b))(batches))

        yield SimpleNamespace(
            problem=(loss, params, batches),
            unravel=unravel,
            hessian=np.asarray(jax.jit(jax.hessian(mean))(flat)),
            whole=lanczos_spectrum(loss, params, batches, KEY, **WHOLE),
            short=lanczos_spectrum(loss, params, batches, KEY, **SHORT),
        )


def flat(tree, row=None):
    tree = tree if row is None else jax.tree.map(lambda x: x[row], tree)
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def test_extreme_eigenvalues_are_numpys(point):
    values = np.linalg.eigvalsh(point.hessian)
    assert point.whole.size == values.size == 36
    np.testing.assert_allclose(point.whole.largest[0], values[-1], rtol=1e-12)
    np.testing.assert_allclose(point.whole.smallest[0], values[0], rtol=1e-10)
    assert point.whole.largest[1] < 1e-10
    for found in (point.whole, point.short):
        # Every Ritz value has an eigenvalue within its residual.
        near = np.abs(np.asarray(found.eigenvalues)[..., None] - values).min(-1)
        assert (near <= found.residuals + 1e-10).all()
    np.testing.assert_allclose(point.short.largest[0], values[-1], rtol=0.02)


def test_the_basis_satisfies_lanczoss_identity(point):
    measured = objective(*point.problem)
    hessian = jnp.asarray(point.hessian)
    product = lambda v: point.unravel(hessian @ jax.flatten_util.ravel_pytree(v)[0])  # noqa: E731
    found = tridiagonalize(measured, product, random_like(KEY, measured.params), 12)
    basis = np.stack([flat(found.basis, i) for i in range(12)])
    off = found.beside[:-1]
    tridiagonal = np.diag(found.diagonal) + np.diag(off, 1) + np.diag(off, -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(12), atol=1e-14)
    rest = point.hessian @ basis.T - basis.T @ tridiagonal
    np.testing.assert_allclose(rest[:, :-1], 0, atol=1e-13)
    np.testing.assert_allclose(np.linalg.norm(rest[:, -1]), found.beside[-1], rtol=1e-10)


def test_moments_lie_within_their_error(point):
    values = np.linalg.eigvalsh(point.hessian)
    np.testing.assert_allclose(point.short.weights.sum(1), 1, rtol=1e-12)
    for power in (1, 2, 3):
        mean, error = point.short.mean(lambda x, k=power: x**k)
        assert abs(mean - np.mean(values**power)) < 4 * error
        assert error < 0.5 * np.mean(np.abs(values) ** power)


def test_density_integrates_to_one_and_keeps_the_moments(point):
    spectrum = point.short
    low, high, width = spectrum.smallest[0], spectrum.largest[0], 0.05
    grid = np.linspace(low - 1, high + 1, 5001)
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
    values, vectors = np.linalg.eigh(point.hessian)
    found = point.whole
    np.testing.assert_allclose(found.vector_values, values[-3:][::-1], rtol=1e-9)
    rows = np.stack([flat(found.vectors, i) for i in range(3)])
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(rows * vectors.T[-3:][::-1], 1)), 1, rtol=1e-9)
    # Before they have converged, the residual is the true one.
    for i in range(3):
        x, value = flat(point.short.vectors, i), float(point.short.vector_values[i])
        true = np.linalg.norm(point.hessian @ x - value * x)
        np.testing.assert_allclose(point.short.vector_residuals[i], true, rtol=1e-8)


def test_preconditioned_eigenvalues_are_numpys(point, x64):
    scales = jax.tree.map(lambda x: jnp.exp(2 * x), random_like(KEY, point.problem[1]))
    root = flat(scales) ** -0.5
    values, vectors = np.linalg.eigh(root[:, None] * point.hessian * root)
    found = lanczos_spectrum(*point.problem, KEY, preconditioner=scales, **WHOLE)
    np.testing.assert_allclose(found.largest[0], values[-1], rtol=1e-9)
    np.testing.assert_allclose(found.smallest[0], values[0], atol=1e-9 * values[-1])
    np.testing.assert_allclose(abs(flat(found.vectors, 0) @ vectors[:, -1]), 1, rtol=1e-9)


def test_a_preconditioner_that_is_the_hessian_leaves_ones(x64):
    """With leaves of two precisions, each of which stays as it is, and P of the other."""
    diagonal = np.array([1e-3, 1.0, 7.0, 4e4, 5.0])
    loss = quadratic(jnp.diag(jnp.array(diagonal)), jnp.zeros(5))
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.ones(3, jnp.float64)}
    scales = {"a": diagonal[:2], "b": diagonal[2:].astype(np.float32)}
    options = {"preconditioner": scales, "vectors": 1, "steps": 5}
    found = lanczos_spectrum(loss, params, ONE, KEY, **options)
    np.testing.assert_allclose(found.eigenvalues, 1, rtol=1e-6)
    np.testing.assert_allclose(found.residuals, 0, atol=1e-5)
    assert found.vectors["a"].dtype == jnp.float32 and found.vectors["b"].dtype == jnp.float64


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


def test_residuals_are_zero_after_a_breakdown_whatever_the_scale():
    a = jnp.array([1.0, 2.0, 3.0])
    rank_one = lambda x, batch, size: size * batch.mean() * (a @ x) ** 2 / 2  # noqa: E731
    identity = lambda x, batch, size: size * batch.mean() * 3.7 * (x @ x) / 2  # noqa: E731

    def measure(loss, size):
        options = {"probes": 3, "steps": 3, "vectors": 1, "args": (jnp.float32(size),)}
        return lanczos_spectrum(loss, jnp.ones(3), ONE, KEY, **options)

    for loss, top, live in ((rank_one, 14, 2), (identity, 3.7, 1)):
        for size in (1e-12, 1.0, 1e12, 1e25):
            found = measure(loss, size)
            np.testing.assert_allclose(found.eigenvalues[:, live - 1 :], size * top, rtol=1e-5)
            np.testing.assert_allclose(found.residuals, 0, atol=1e-5 * size)
            np.testing.assert_array_equal(found.weights[:, live:], 0)
    np.testing.assert_array_equal(measure(rank_one, 0.0).eigenvalues, 0)
    for leaf in jax.tree.leaves(measure(rank_one, jnp.nan)):
        assert np.isnan(leaf).all()


def test_sixteen_bit_parameters_and_losses():
    hessian = jnp.diag(jnp.array([1.0, 2.0, 3.0, 8.0]))
    whole = quadratic(hessian, jnp.zeros(4))
    loss = lambda p, batch: whole(p, batch).astype(jnp.bfloat16)  # noqa: E731
    params = {"a": jnp.ones(2, jnp.float16), "b": jnp.ones(2, jnp.bfloat16)}
    found = lanczos_spectrum(loss, params, ONE, KEY, steps=4, probes=1)
    assert found.eigenvalues.dtype == jnp.float32
    np.testing.assert_allclose(found.eigenvalues[0], [1, 2, 3, 8], rtol=1e-2)


def test_may_be_jitted_and_takes_arguments():
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)

    def scaled(params, batch, scale, name):
        assert name == "mean"
        return scale * loss(params, batch), {"aux": loss(params, batch)}

    @jax.jit
    def top(params, scale):
        options = {"args": (scale, "mean"), "has_aux": True, "vectors": 2}
        return lanczos_spectrum(scaled, params, batches, KEY, probes=2, steps=6, **options)

    once, found = top(params, 1.0), top(params, 3.0)
    assert isinstance(found, Spectrum) and found.size == 24
    np.testing.assert_allclose(found.largest[0], 3 * once.largest[0], rtol=1e-4)


def test_momentum_with_a_fixed_preconditioner_diverges_beyond_its_edge():
    rate, b1 = 0.1, 0.9
    for factor, stable in ((0.98, True), (1.02, False)):
        curvature = factor * adaptive_edge(rate, b1)
        tx = optax.chain(optax.ema(b1, debias=False), optax.scale(-rate))

        def step(carry, _, tx=tx, curvature=curvature):
            x, state = carry
            update, state = tx.update(curvature * x, state)
            return (x + update, state), None

        (x, _), _ = jax.lax.scan(step, (jnp.array(1.0), tx.init(jnp.array(1.0))), None, 400)
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
