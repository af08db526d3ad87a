"""The ends of the curve are known: the direction itself, and its signs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax.clip_curve import clip_curve
from tests.cases import network, random_like


@pytest.mark.parametrize("scope", ("global", "tensor"))
def test_ends_are_the_direction_and_its_signs(scope):
    loss, params, batch = network(jax.random.key(0))
    batches = jax.tree.map(lambda x: jnp.stack([x, x]), batch)
    downhill = jax.tree.map(jnp.negative, jax.grad(loss)(params, batch))
    points = list(clip_curve(loss, params, downhill, (0.0, 0.5, 1.0), batches, scope=scope))
    assert [p.fraction for p in points] == [0.0, 0.5, 1.0]
    smallest = min(jnp.abs(x).min() for x in jax.tree.leaves(downhill))
    ends = {
        "start": downhill,
        "global": jax.tree.map(jnp.sign, downhill),
        "tensor": jax.tree.map(lambda x: jnp.sign(x) * jnp.abs(x).min() / smallest, downhill),
    }
    stats = sharpjax.measure_directions(loss, params, ends, batches)
    for point, name in ((points[0], "start"), (points[2], scope)):
        np.testing.assert_allclose(point.stats.sharpness, stats[name].sharpness, rtol=1e-4)
        np.testing.assert_allclose(point.stats.slope, stats[name].slope, rtol=1e-4)
        assert point.search.best_decrease > 0


def test_zeros_leave_the_signs():
    loss, params, batch = network(jax.random.key(0))
    batches = jax.tree.map(lambda x: x[None], batch)
    direction = jax.tree.map(lambda x: jnp.where(x > 0, -x, 0.0), params)
    (point,) = clip_curve(loss, params, direction, [1.0], batches)
    signs = {"signs": jax.tree.map(jnp.sign, direction)}
    stats = sharpjax.measure_directions(loss, params, signs, batches)["signs"]
    np.testing.assert_allclose(point.stats.sharpness, stats.sharpness)


def test_arguments_and_an_auxiliary_output_reach_the_loss():
    def loss(x, batch, scale):
        return scale * jnp.sum(batch * x**2) / 2, {"unused": batch}

    x, batches = jnp.ones(2), jnp.array([[10.0, 1.0]])
    downhill = jnp.array([-10.0, -1.0])
    (point,) = clip_curve(loss, x, downhill, [1.0], batches, args=(2.0,), has_aux=True)
    np.testing.assert_allclose(point.stats.sharpness, 11, rtol=1e-6)
    np.testing.assert_allclose(point.search.best_step, np.sqrt(2), rtol=1e-2)
    np.testing.assert_allclose(point.search.best_decrease, 11, rtol=1e-4)
    assert jax.tree.map(lambda leaf: leaf, point).search.status == "minimum"


@pytest.mark.parametrize("types", [(np.float32, np.float64), (np.float64, np.float32)])
def test_types_may_be_mixed_under_x64(x64, types):
    loss = lambda x, batch: jnp.sum(batch * x**2) / 2  # noqa: E731
    x, batches = np.ones(2, types[0]), np.array([[10.0, 1.0]])
    (point,) = clip_curve(loss, x, np.array([-10.0, -1.0], types[1]), [1.0], batches)
    np.testing.assert_allclose(point.stats.sharpness, 5.5, rtol=1e-6)


def test_arguments_are_checked_at_the_call():
    loss, params, batch = network(jax.random.key(0))
    batches = jax.tree.map(lambda x: x[None], batch)
    direction = random_like(jax.random.key(1), params)
    bad: dict = {"scope": "row", "method": "other"}
    for name, value in bad.items():
        with pytest.raises(ValueError, match=f"{name} must be one of .* got '{value}'"):
            clip_curve(loss, params, direction, [0.1], batches, **{name: value})
    with pytest.raises(ValueError, match=r"fractions must be in \[0.0, 1.0\], got 2.0"):
        clip_curve(loss, params, direction, [0.1, 2.0], batches)
    with pytest.raises(ValueError, match="direction has no leaf"):
        clip_curve(loss, params, {}, [0.1], batches)
