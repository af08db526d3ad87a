import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from tests.cases import network, quadratic, random_like

KEY = jax.random.key(0)
BATCHES = {
    "x": jax.random.normal(jax.random.key(1), (3, 8, 3)),
    "y": jax.random.normal(jax.random.key(2), (3, 8, 2)),
}


def bowl(curvature, slope, dtype=jnp.float32):
    """A loss whose minimum along the first axis lies slope/curvature from 0."""
    hessian = np.diag([curvature, 1.0, 1.0]).astype(dtype)
    loss = quadratic(hessian, np.array([-slope, 0, 0], dtype), offset=3.0)
    params = {"a": jnp.zeros(1, dtype), "b": jnp.zeros(2, dtype)}
    direction = {"a": jnp.full(1, 7.0, dtype), "b": jnp.zeros(2, dtype)}
    return loss, params, direction


def test_loss_along_is_the_loss_at_the_displaced_parameters():
    loss, params, _ = network(KEY)
    direction = random_like(jax.random.key(4), params)
    norm = np.sqrt(sum(float(jnp.sum(x**2)) for x in jax.tree.leaves(direction)))
    steps = jnp.array([0.0, -0.5, 2.0])
    losses = sharpjax.loss_along(loss, params, direction, steps, BATCHES)
    assert losses.shape == (3,) and losses.dtype == jnp.float32
    for step, value in zip(steps, losses, strict=True):
        there = jax.tree.map(lambda p, d, s=step: p + s * d / norm, params, direction)
        each = [loss(there, jax.tree.map(lambda x, i=i: x[i], BATCHES)) for i in range(3)]
        np.testing.assert_allclose(value, np.mean(each), rtol=1e-6)


def test_loss_along_takes_a_dropout_key():
    loss, params, _ = network(KEY)
    one = jax.tree.map(lambda x: x[:1], BATCHES)
    key = jax.random.key(5)
    losses = sharpjax.loss_along(loss, params, params, [0.0], one, key=key)
    expected = loss(params, jax.tree.map(lambda x: x[0], one), key)
    np.testing.assert_allclose(losses[0], expected, rtol=1e-6)


@pytest.mark.parametrize("curvature", (1e-8, 1.0, 1e6))
@pytest.mark.parametrize("initial_step", (None, 1e-9, 1.0, 1e9))
def test_search_finds_a_parabolas_minimum_from_any_scale(x64, curvature, initial_step):
    loss, params, direction = bowl(curvature, slope=2.0, dtype=jnp.float64)
    found = sharpjax.search_along(
        loss, params, direction, jnp.ones((2, 1)), initial_step=initial_step
    )
    np.testing.assert_allclose(found.best_step, 2 / curvature, rtol=1e-4)
    np.testing.assert_allclose(found.best_decrease, 2 / curvature, rtol=1e-6)
    assert found.steps[0] == 0 and np.all(np.diff(found.steps) > 0)
    assert len(found.steps) == len(found.losses) < 60


def test_search_agrees_with_a_dense_grid_on_a_network():
    loss, params, _ = network(KEY)
    total = lambda p: sum(  # noqa: E731
        loss(p, jax.tree.map(lambda x, i=i: x[i], BATCHES)) for i in range(3)
    )
    descent = jax.tree.map(jnp.negative, jax.grad(total)(params))
    found = sharpjax.search_along(loss, params, descent, BATCHES)
    grid = jnp.linspace(0, 4 * found.best_step, 4001)
    losses = sharpjax.loss_along(loss, params, descent, grid, BATCHES)
    assert found.losses.min() <= losses.min() + 1e-6
    assert found.best_decrease == found.losses[0] - found.losses.min() > 0
    # What was plotted brackets the minimum on both sides and comes back up.
    assert found.losses[-1] > found.losses.min() and found.losses[0] > found.losses.min()


def test_an_ascent_direction_has_no_best_step():
    loss, params, direction = bowl(1.0, slope=-2.0)
    found = sharpjax.search_along(loss, params, direction, jnp.ones((1, 1)))
    assert found.best_step == 0 and found.best_decrease == 0


def test_a_zero_direction_has_no_best_step():
    loss, params, direction = bowl(1.0, slope=2.0)
    zero = jax.tree.map(jnp.zeros_like, direction)
    found = sharpjax.search_along(loss, params, zero, jnp.ones((1, 1)))
    assert found.best_step == 0 and found.best_decrease == 0


def test_an_overflowing_loss_counts_as_above_the_start():
    def loss(params, batch):
        return jnp.exp(params[0] * 50) - 2 * params[0]  # Overflows from a step of 1.8 on.

    found = sharpjax.search_along(
        loss, jnp.full(1, -1.0), jnp.ones(1), jnp.ones((1, 1)), initial_step=100.0
    )
    np.testing.assert_allclose(-1 + found.best_step, np.log(2 / 50) / 50, atol=1e-2)


def test_a_loss_without_a_floor_ends():
    found = sharpjax.search_along(
        lambda p, b: -p[0] * b.mean(), jnp.zeros(1), jnp.ones(1), jnp.ones((1, 1))
    )
    assert found.best_step > 1e20


def test_bad_input_names_the_argument_and_the_value():
    loss, params, direction = bowl(1.0, 1.0)
    batches = jnp.ones((1, 1))
    with pytest.raises(ValueError, match=r"steps must have one axis, got shape \(\)"):
        sharpjax.loss_along(loss, params, direction, 1.0, batches)
    with pytest.raises(ValueError, match="points must be at least 3, got 2"):
        sharpjax.search_along(loss, params, direction, batches, points=2)
    for step in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="initial_step must be positive and finite, got"):
            sharpjax.search_along(loss, params, direction, batches, initial_step=step)
    with pytest.raises(ValueError, match="the loss at params must be finite, got nan"):
        sharpjax.search_along(lambda p, b: jnp.nan * p["a"][0], params, direction, batches)
    with pytest.raises(ValueError, match=r"direction has no leaf \['a'\]"):
        sharpjax.loss_along(loss, params, {"b": params["b"]}, [1.0], batches)
    with pytest.raises(ValueError, match="batches must hold at least one array"):
        sharpjax.loss_along(loss, params, direction, [1.0], ())
    with pytest.raises(TypeError, match="loss_fn must return a real scalar"):
        sharpjax.loss_along(lambda p, b: p["b"], params, direction, [1.0], batches)
