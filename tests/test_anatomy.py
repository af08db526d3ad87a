"""Coordinates and blocks against the dense Hessian in float64."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax.anatomy import block_sharpness, sharpness_by_rank
from tests.cases import network, random_like

KEY = jax.random.key(0)


def ravel(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@pytest.fixture
def point(x64):
    """A network on two micro-batches, a unit direction, and the dense Hessian of each of them."""
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: jnp.stack([x, x[::-1] * 1.5]), batch)
    direction = random_like(jax.random.key(7), params)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    one = jax.jit(lambda b: jax.hessian(lambda x: loss(unravel(x), b))(flat))
    dense = np.stack([one(jax.tree.map(lambda x, i=i: x[i], batches)) for i in range(2)])
    v = ravel(direction) / np.linalg.norm(ravel(direction))
    return loss, params, batches, direction, v, dense


def test_top_coordinates_hold_what_a_sort_says(point):
    loss, params, batches, direction, v, dense = point
    ranking = random_like(jax.random.key(3), params)
    fractions = (0.0, 0.1, 0.37, 0.5, 1.0)
    found = sharpness_by_rank(loss, params, direction, ranking, fractions, batches)
    order = np.argsort(-np.abs(ravel(ranking)))
    each = np.stack([v * (h @ v) for h in dense])
    counts = [int(np.floor(f * v.size)) for f in fractions]
    tops = np.stack([each[:, order[:c]].sum(1) for c in counts], axis=1)
    np.testing.assert_allclose(found.sharpness, tops.mean(0), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.sharpness_se, tops.std(0, ddof=1) / 2**0.5, atol=1e-12)
    np.testing.assert_allclose(found.share, tops.mean(0) / each.sum(1).mean(), atol=1e-12)
    squares = [np.sum(v[order[:c]] ** 2) for c in counts]
    np.testing.assert_allclose(found.squared_norm, squares, atol=1e-13)


def test_ties_count_alike(point):
    loss, params, batches, direction, v, dense = point
    # Two magnitudes only: within each, the curve is a straight line.
    ranking = jax.tree.map(lambda x: jnp.where(x > 0, 2.0, -1.0), direction)
    fractions = [*(np.arange(v.size) + 0.5) / v.size, 1.0]  # No rank is a matter of rounding.
    found = sharpness_by_rank(loss, params, direction, ranking, fractions, batches)
    high = int(np.sum(ravel(ranking) > 0))
    steps = np.diff(np.asarray(found.sharpness))
    np.testing.assert_allclose(steps[: high - 1], steps[0], atol=1e-12)
    np.testing.assert_allclose(steps[high:], steps[-1], atol=1e-12)
    whole = v @ dense.mean(0) @ v
    np.testing.assert_allclose(found.sharpness[-1], whole, rtol=1e-11)
    np.testing.assert_allclose(found.share[-1], 1)


def test_block_matrix_is_the_dense_one_and_sums_to_the_sharpness(point):
    loss, params, batches, direction, v, dense = point
    groups = lambda path: path.split("/")[0]  # noqa: E731
    found = block_sharpness(loss, params, direction, batches, groups=groups)
    assert found.labels == ("first", "second")
    cut = params["first"]["kernel"].size + params["first"]["bias"].size
    parts = [np.where(np.arange(v.size) < cut, v, 0), np.where(np.arange(v.size) < cut, 0, v)]
    expected = np.array([[[a @ h @ b for a in parts] for b in parts] for h in dense])
    np.testing.assert_allclose(found.matrix, expected.mean(0), rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found.matrix_se, expected.std(0, ddof=1) / 2**0.5, atol=1e-12)
    np.testing.assert_allclose(found.squared_norms, [p @ p for p in parts], rtol=1e-13)
    stats = sharpjax.measure_directions(loss, params, {"v": direction}, batches)["v"]
    np.testing.assert_allclose(found.matrix.sum(), stats.sharpness, rtol=1e-11)


def test_without_labels_each_tensor_is_a_block(point):
    loss, params, batches, direction, _, _ = point
    found = block_sharpness(loss, params, direction, batches)
    assert found.labels == ("first/bias", "first/kernel", "second/0")
    batch = lambda i: jax.tree.map(lambda x: x[i], batches)  # noqa: E731
    each = [sharpjax.coordinate_sharpness(loss, params, direction, batch(i)) for i in range(2)]
    sums = [np.mean([np.sum(x) for x in pair]) for pair in zip(*map(jax.tree.leaves, each))]  # noqa: B905
    np.testing.assert_allclose(found.matrix.sum(1), sums, rtol=1e-11, atol=1e-12)


def test_a_zero_direction_has_no_sharpness(point):
    loss, params, batches, direction, _, _ = point
    zero = jax.tree.map(jnp.zeros_like, direction)
    assert np.isnan(block_sharpness(loss, params, zero, batches).matrix).all()
    found = sharpness_by_rank(loss, params, zero, params, [0.5], batches)
    assert np.isnan(found.sharpness).all()


def test_arguments_are_checked(point):
    loss, params, batches, direction, _, _ = point
    with pytest.raises(ValueError, match="fractions"):
        sharpness_by_rank(loss, params, direction, params, [], batches)
    with pytest.raises(ValueError, match=r"fractions.*1\.5"):
        sharpness_by_rank(loss, params, direction, params, [1.5], batches)
    with pytest.raises(ValueError, match="magnitudes has no leaf"):
        sharpness_by_rank(loss, params, direction, {"first": 1.0}, [0.5], batches)
    with pytest.raises(ValueError, match="direction"):
        block_sharpness(loss, params, {"first": 1.0}, batches)
