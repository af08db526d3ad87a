"""What `measure_point` takes from where: one program for slopes, sharpnesses and the span."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax import landscape
from sharpjax.point import measure_point
from tests.cases import network, random_like

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def case():
    loss, params, batch = network(KEY, jnp.float32)
    batches = jax.tree.map(lambda x: jnp.stack([x, 1.5 * x, 0.7 * x]), batch)
    keys = jax.random.split(jax.random.key(3), 4)
    # Of lengths whose squares are nothing or too much in float32, and one that is nothing itself.
    lengths = {"usual": 1.0, "tiny": 1e-25, "huge": 1e25, "zero": 0.0}
    updates = {
        name: jax.tree.map(lambda x, length=length: length * x, random_like(key, params))
        for key, (name, length) in zip(keys, lengths.items(), strict=True)
    }
    return loss, params, updates, batches


@pytest.mark.parametrize("span", [True, False])
def test_its_directions_are_those_of_measure_directions(case, span):
    loss, params, updates, batches = case
    point = measure_point(loss, params, updates, batches, landscape=False, span=span)
    expected = sharpjax.measure_directions(loss, params, updates, batches)
    for name, stats in expected.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7),
            point.directions[name],
            stats,
        )


def test_its_span_is_the_jitted_one(case):
    loss, params, updates, batches = case
    span = measure_point(loss, params, updates, batches, landscape=False).span
    jitted = jax.jit(lambda u: sharpjax.measure_span(loss, params, u, batches))(updates)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)  # noqa: E731
    # Dicts that pass through JAX come back sorted.
    order = [span.names.index(name) for name in jitted.names]
    square = np.ix_(order, order)
    close(span.loss, jitted.loss)
    close(span.slopes[np.array(order)], jitted.slopes)
    for field in ("gram", "curvature", "curvature_se"):
        close(np.asarray(getattr(span, field))[square], getattr(jitted, field))
    close(np.asarray(span.curvatures)[:, square[0], square[1]], jitted.curvatures)


def test_a_search_does_not_look_again_for_a_step_that_is_not_there(case, monkeypatch):
    loss, params, updates, batches = case
    gradient = jax.grad(lambda p: loss(p, jax.tree.map(lambda x: x[0], batches)))(params)
    uphill = {"uphill": gradient, "zero": updates["zero"]}
    expected = sharpjax.search_along(loss, params, gradient, batches)
    monkeypatch.setattr(landscape, "newton_step", None)
    found = measure_point(loss, params, uphill, batches).searches
    np.testing.assert_allclose(found["uphill"].steps, expected.steps, rtol=1e-5)
    assert found["uphill"].status == expected.status
    assert found["zero"].status == "no decrease"


def test_a_chunk_that_is_none_is_refused_on_either_way(case):
    loss, params, updates, batches = case
    for span in (True, False):
        with pytest.raises(ValueError, match="chunk must be a positive integer or None, got 0"):
            measure_point(loss, params, updates, batches, span=span, chunk=0)
