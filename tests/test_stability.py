"""How far an update goes in Newton steps and critical steps, where the loss is known by heart."""

import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax

ONE = jnp.ones((1, 1))
HESSIAN = np.array([[3.0, 1.0, 0.0], [1.0, 2.0, -0.5], [0.0, -0.5, 0.7]])
GRADIENT = np.array([1.0, -2.0, 0.3])


def quadratic(x, batch):
    return jnp.mean(batch) * (x @ GRADIENT + x @ HESSIAN @ x / 2)


@pytest.mark.parametrize("ratio", (0.5, 1.0, 1.999, 2.001, 3.0))
def test_a_quadratic_rises_exactly_beyond_a_ratio_of_two(x64, ratio):
    x, u = np.array([0.2, -0.1, 0.4]), np.array([-1.0, 0.5, 0.25])
    slope, curvature = u @ (GRADIENT + HESSIAN @ x), u @ HESSIAN @ u
    assert slope < 0
    u = ratio * -slope / curvature * u
    stats = sharpjax.measure_directions(quadratic, x, {"u": u}, ONE)["u"]
    np.testing.assert_allclose(stats.step_ratio, ratio, rtol=1e-12)
    np.testing.assert_allclose(stats.update_norm / stats.newton_step, ratio, rtol=1e-12)
    change = quadratic(x + u, ONE) - quadratic(x, ONE)
    np.testing.assert_allclose(
        change, stats.predicted_decrease * ((ratio - 1) ** 2 - 1), rtol=1e-10, atol=1e-12
    )
    assert (change > 0) == (ratio > 2)
    found = sharpjax.search_along(quadratic, x, u, ONE)
    np.testing.assert_allclose(found.critical_step, 2 * stats.newton_step, rtol=1e-3)


def test_a_quartic_is_back_at_its_start_where_its_quadratic_is_not(x64):
    """x⁴/4 from 1 downhill: slope −1, sharpness 3, minimum at 1, back at its start at 2."""
    loss = lambda x, batch: jnp.mean(batch) * jnp.sum(x**4) / 4  # noqa: E731
    x, u = jnp.array([1.0]), jnp.array([-2.0])
    stats = sharpjax.measure_directions(loss, x, {"u": u}, ONE)["u"]
    np.testing.assert_allclose(stats.step_ratio, 6, rtol=1e-12)
    np.testing.assert_allclose(stats.newton_step, 1 / 3, rtol=1e-12)
    found = sharpjax.search_along(loss, x, u, ONE)
    np.testing.assert_allclose(found.critical_step, 2, rtol=1e-3)
    np.testing.assert_allclose(stats.update_norm / found.critical_step, 1, rtol=1e-3)


def test_a_ratio_is_negative_uphill_or_where_the_loss_is_concave():
    bowl = lambda x, batch: jnp.mean(batch) * jnp.sum(x**2) / 2  # noqa: E731
    x = jnp.array([1.0, 0.0])
    updates = {"up": x, "level": jnp.array([0.0, 1.0])}
    stats = sharpjax.measure_directions(bowl, x, updates, ONE)
    np.testing.assert_allclose(stats["up"].step_ratio, -1, rtol=1e-6)
    assert np.isnan(stats["level"].step_ratio)
    hill = lambda x, batch: -bowl(x, batch)  # noqa: E731
    stats = sharpjax.measure_directions(hill, x, {"down": x}, ONE)
    np.testing.assert_allclose(stats["down"].step_ratio, -1, rtol=1e-6)
