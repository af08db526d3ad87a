"""The model in a span against dense algebra in float64; its step against a direct minimiser."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax.subspace import combine_directions, measure_span, span_step
from tests.cases import network, quadratic, random_like

KEY = jax.random.key(0)


def ravel(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def matrix_like(key, count, tree):
    names = [f"u{i}" for i in range(count)]
    return {n: random_like(k, tree) for n, k in zip(names, jax.random.split(key, count))}  # noqa: B905


def test_model_is_the_dense_one(x64):
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: jnp.stack([x, 1.5 * x]), batch)
    updates = matrix_like(jax.random.key(3), 3, params)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    at = lambda i: lambda x: loss(unravel(x), jax.tree.map(lambda b: b[i], batches))  # noqa: E731
    dense = np.stack([jax.hessian(at(i))(flat) for i in (0, 1)])
    gradient = np.mean([jax.grad(at(i))(flat) for i in (0, 1)], axis=0)
    v = np.stack([ravel(u) / np.linalg.norm(ravel(u)) for u in updates.values()], axis=1)
    model = measure_span(loss, params, updates, batches)
    each = np.stack([v.T @ h @ v for h in dense])
    assert model.names == ("u0", "u1", "u2")
    np.testing.assert_allclose(model.curvature, each.mean(0), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(model.curvature_se, each.std(0, ddof=1) / 2**0.5, atol=1e-12)
    np.testing.assert_allclose(model.curvatures, each, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(model.slopes, v.T @ gradient, rtol=1e-11)
    np.testing.assert_allclose(model.gram, v.T @ v, atol=1e-13)
    stats = sharpjax.measure_directions(loss, params, updates, batches)
    np.testing.assert_allclose(np.diag(model.curvature), [s.sharpness for s in stats.values()])


def convex(seed=0, size=6, spectrum=None):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    values = np.arange(1.0, size + 1) if spectrum is None else np.asarray(spectrum)
    hessian, gradient = jnp.asarray((q * values) @ q.T), jnp.linspace(-1.0, 2.0, size)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(size - 2)}
    return quadratic(hessian, gradient), params, hessian, gradient


def test_full_span_of_a_convex_quadratic_is_solved(x64):
    loss, params, hessian, gradient = convex()
    updates = matrix_like(KEY, 6, params)
    step = span_step(measure_span(loss, params, updates, jnp.ones((1, 1))))
    whole = combine_directions(updates, step.coefficients)
    np.testing.assert_allclose(ravel(whole), -np.linalg.solve(hessian, gradient), rtol=1e-8)
    decrease = gradient @ np.linalg.solve(hessian, gradient) / 2
    np.testing.assert_allclose(step.predicted_decrease, decrease, rtol=1e-9)
    np.testing.assert_allclose(step.norm, np.linalg.norm(ravel(whole)), rtol=1e-9)
    np.testing.assert_allclose(step.eigenvalues, np.arange(6, 0, -1), rtol=1e-9)
    assert step.kept.all()
    search = sharpjax.search_along(loss, params, whole, jnp.ones((1, 1)), initial_step=step.norm)
    np.testing.assert_allclose(search.best_decrease, decrease, rtol=1e-5)


def test_the_span_is_at_least_as_good_as_each_of_its_directions(x64):
    loss, params, _, _ = convex()
    updates = matrix_like(KEY, 3, params)
    step = span_step(measure_span(loss, params, updates, jnp.ones((1, 1))))
    stats = sharpjax.measure_directions(loss, params, updates, jnp.ones((1, 1)))
    assert step.predicted_decrease > max(s.predicted_decrease for s in stats.values())


def test_parallel_and_zero_directions_add_nothing(x64):
    loss, params, _, _ = convex()
    updates = matrix_like(KEY, 2, params)
    plain = span_step(measure_span(loss, params, updates, jnp.ones((1, 1))))
    more = updates | {
        "parallel": jax.tree.map(lambda x: -3 * x, updates["u0"]),
        "zero": jax.tree.map(jnp.zeros_like, params),
    }
    step = span_step(measure_span(loss, params, more, jnp.ones((1, 1))))
    assert len(step.eigenvalues) == 2
    np.testing.assert_allclose(step.predicted_decrease, plain.predicted_decrease, rtol=1e-9)
    whole = combine_directions(more, step.coefficients)
    expected = combine_directions(updates, plain.coefficients)
    np.testing.assert_allclose(ravel(whole), ravel(expected), rtol=1e-8)


def test_an_indefinite_model_steps_along_positive_curvature_only(x64):
    loss, params, hessian, gradient = convex(spectrum=[-3.0, -1.0, 0.0, 1.0, 2.0, 5.0])
    updates = matrix_like(KEY, 6, params)
    step = span_step(measure_span(loss, params, updates, jnp.ones((1, 1))))
    np.testing.assert_array_equal(step.kept, [True, True, True, False, False, False])
    values, vectors = np.linalg.eigh(hessian)
    positive = vectors[:, 3:]
    expected = -positive @ (positive.T @ gradient / values[3:])
    whole = combine_directions(updates, step.coefficients)
    np.testing.assert_allclose(ravel(whole), expected, rtol=1e-8)


def test_curvature_within_its_error_is_not_trusted(x64):
    loss, params, _, _ = convex()
    updates = matrix_like(KEY, 6, params)
    # Micro-batches scale the whole Hessian by −0.5 … 2.5: its mean is 1 ± 0.9.
    noisy = measure_span(loss, params, updates, jnp.array([[-0.5], [2.5], [1.0]]))
    assert not span_step(noisy, deviations=2.0).kept.any()
    assert span_step(noisy, deviations=2.0).predicted_decrease == 0
    assert span_step(noisy, deviations=1.0).kept.all()


def test_model_can_be_jitted_with_arguments_and_auxiliaries(x64):
    loss, params, _, _ = convex()
    updates = matrix_like(KEY, 2, params)
    scaled = lambda p, b, scale: (scale * loss(p, b), p)  # noqa: E731
    measure = lambda u, s: measure_span(  # noqa: E731
        scaled, params, u, jnp.ones((2, 1)), args=(s,), has_aux=True
    )
    plain = measure_span(loss, params, updates, jnp.ones((2, 1)))
    model = jax.jit(measure)(updates, 3.0)
    assert model.names == ("u0", "u1")
    np.testing.assert_allclose(model.curvature, 3 * plain.curvature, rtol=1e-12)
    np.testing.assert_allclose(model.slopes, 3 * plain.slopes, rtol=1e-12)
    np.testing.assert_allclose(model.curvature_se, 0, atol=1e-12)


def test_a_nan_update_is_nan_in_the_model_and_refused_by_its_step(x64):
    loss, params, _, _ = convex()
    updates = matrix_like(KEY, 1, params)
    updates["broken"] = {**updates["u0"], "a": jnp.array([jnp.nan, 1.0])}
    model = measure_span(loss, params, updates, jnp.ones((1, 1)))
    assert np.isnan(model.curvature[1]).all() and np.isnan(model.slopes[1])
    assert np.isfinite(model.curvature[0, 0]) and np.isfinite(model.slopes[0])
    with pytest.raises(ValueError, match=r"along \['broken'\] is not"):
        span_step(model)


def test_arguments_are_checked():
    loss, params, batch = network(KEY)
    batches = jax.tree.map(lambda x: x[None], batch)
    with pytest.raises(ValueError, match="updates"):
        measure_span(loss, params, {}, batches)
    with pytest.raises(ValueError, match=r"updates\['a'\]"):
        measure_span(loss, params, {"a": {"first": 1.0}}, batches)
    with pytest.raises(TypeError, match="updates must be a mapping"):
        measure_span(loss, params, [params], batches)
    with pytest.raises(ValueError, match="coefficients"):
        combine_directions({"a": params}, [1.0, 2.0])
    with pytest.raises(ValueError, match=r"updates\['b'\].*updates\['a'\]"):
        combine_directions({"a": params, "b": params["first"]}, [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one direction"):
        combine_directions({}, [])
