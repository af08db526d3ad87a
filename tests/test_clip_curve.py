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


def test_arguments_are_checked():
    loss, params, batch = network(jax.random.key(0))
    batches = jax.tree.map(lambda x: x[None], batch)
    direction = random_like(jax.random.key(1), params)
    with pytest.raises(ValueError, match="scope"):
        list(clip_curve(loss, params, direction, [0.1], batches, scope="row"))  # type: ignore
    with pytest.raises(ValueError, match="fractions"):
        list(clip_curve(loss, params, direction, [0.1, 2.0], batches))
