"""Coordinates and blocks against the dense Hessian in float64."""

import functools

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
    """A network on two micro-batches, two updates, and the dense Hessian of each micro-batch."""
    return made()


@functools.cache
def made():
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: jnp.stack([x, x[::-1] * 1.5]), batch)
    updates = {"u": random_like(jax.random.key(7), params), "w": random_like(KEY, params)}
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    one = jax.jit(lambda b: jax.hessian(lambda x: loss(unravel(x), b))(flat))
    dense = np.stack([one(jax.tree.map(lambda x, i=i: x[i], batches)) for i in range(2)])
    return loss, params, batches, updates, dense


def unit(update):
    return ravel(update) / np.linalg.norm(ravel(update))


def test_top_coordinates_hold_what_a_sort_says(point):
    loss, params, batches, updates, dense = point
    ranking = random_like(jax.random.key(3), params)
    fractions = (0.0, 0.1, 0.37, 0.5, 1.0)
    found = sharpness_by_rank(loss, params, updates, ranking, fractions, batches)
    assert list(found) == ["u", "w"]
    order = np.argsort(-np.abs(ravel(ranking)))
    for name, update in updates.items():
        v, parts = unit(update), found[name]
        each = np.stack([v * (h @ v) for h in dense])
        counts = [int(np.floor(f * v.size)) for f in fractions]
        tops = np.stack([each[:, order[:c]].sum(1) for c in counts], axis=1)
        np.testing.assert_allclose(parts.sharpness, tops.mean(0), rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(parts.sharpness_se, tops.std(0, ddof=1) / 2**0.5, atol=1e-12)
        np.testing.assert_allclose(parts.share, tops.mean(0) / each.sum(1).mean(), atol=1e-12)
        squares = [np.sum(v[order[:c]] ** 2) for c in counts]
        np.testing.assert_allclose(parts.squared_norm, squares, atol=1e-13)


def test_ties_count_alike(point):
    loss, params, batches, updates, dense = point
    v = unit(updates["u"])
    # Two magnitudes only: within each, the curve is a straight line.
    ranking = jax.tree.map(lambda x: jnp.where(x > 0, 2.0, -1.0), updates["u"])
    fractions = [*(np.arange(v.size) + 0.5) / v.size, 1.0]  # No rank is a matter of rounding.
    (found,) = sharpness_by_rank(
        loss, params, {"u": updates["u"]}, ranking, fractions, batches
    ).values()
    high = int(np.sum(ravel(ranking) > 0))
    steps = np.diff(np.asarray(found.sharpness))
    np.testing.assert_allclose(steps[: high - 1], steps[0], atol=1e-12)
    np.testing.assert_allclose(steps[high:], steps[-1], atol=1e-12)
    whole = v @ dense.mean(0) @ v
    np.testing.assert_allclose(found.sharpness[-1], whole, rtol=1e-11)
    np.testing.assert_allclose(found.share[-1], 1)


def test_counts_of_ties_carry_past_a_word():
    from sharpjax.anatomy import _number

    for a, b in ((3, 70_000), (2**32 + 5, 2**32 - 1), (5 * 2**33, 2**31), (0, 9)):
        # As leaves give them: low words that are not carried, high words of either sign.
        words = [jnp.int32(a // 2**16 - b // 2**16), jnp.int32(a % 2**16 - b % 2**16)]
        assert float(_number(words)) == np.float32(a - b)


def test_block_matrix_is_the_dense_one_and_sums_to_the_sharpness(point):
    loss, params, batches, updates, dense = point
    found = block_sharpness(loss, params, updates, batches)
    stats = sharpjax.measure_directions(loss, params, updates, batches)
    cut = params["first"]["kernel"].size + params["first"]["bias"].size
    for name, update in updates.items():
        v, blocks = unit(update), found[name]
        assert blocks.labels == ("first", "second")
        parts = [np.where(np.arange(v.size) < cut, v, 0), np.where(np.arange(v.size) < cut, 0, v)]
        expected = np.array([[[a @ h @ b for a in parts] for b in parts] for h in dense])
        np.testing.assert_allclose(blocks.matrix, expected.mean(0), rtol=1e-11, atol=1e-12)
        error = expected.std(0, ddof=1) / 2**0.5
        np.testing.assert_allclose(blocks.matrix_se, error, atol=1e-12)
        np.testing.assert_allclose(blocks.squared_norms, [p @ p for p in parts], rtol=1e-13)
        np.testing.assert_allclose(blocks.matrix.sum(), stats[name].sharpness, rtol=1e-11)


def test_groups_are_top_level_keys_tensors_or_labels(point):
    loss, params, batches, updates, _ = point
    found = block_sharpness(loss, params, updates, batches, groups="tensor")["u"]
    assert found.labels == ("first/bias", "first/kernel", "second/0")
    batch = lambda i: jax.tree.map(lambda x: x[i], batches)  # noqa: E731
    of = lambda i: sharpjax.coordinate_sharpness(loss, params, updates["u"], batch(i))  # noqa: E731
    pairs = zip(*map(jax.tree.leaves, (of(0), of(1))), strict=True)
    sums = [np.mean([np.sum(x) for x in pair]) for pair in pairs]
    np.testing.assert_allclose(found.matrix.sum(1), sums, rtol=1e-11, atol=1e-12)
    labels = block_sharpness(loss, params, updates, batches, groups=lambda path: (len(path),))
    assert labels["u"].labels == ((10,), (12,), (8,))
    # Groups whose tensors are not neighbours, and a tree without any key.
    apart = block_sharpness(loss, params, updates, batches, groups=lambda path: path[-1] == "l")
    kernel = found.labels.index("first/kernel")
    np.testing.assert_allclose(apart["u"].matrix[1, 1], found.matrix[kernel, kernel], rtol=1e-12)
    np.testing.assert_allclose(apart["u"].matrix.sum(), found.matrix.sum(), rtol=1e-11)
    bare = block_sharpness(lambda x, b: b.sum() * x**2, 1.0, {"x": 1.0}, jnp.ones((1, 1)))["x"]
    assert bare.labels == ("",) and float(bare.matrix[0, 0]) == 2


def test_both_can_be_jitted(point):
    loss, params, batches, updates, _ = point
    ranking = random_like(jax.random.key(3), params)

    @jax.jit
    def both(params, updates, ranking, batches):
        by_rank = sharpness_by_rank(loss, params, updates, ranking, (0.1, 0.5), batches)
        return by_rank, block_sharpness(loss, params, updates, batches)

    by_rank, blocks = both(params, updates, ranking, batches)
    assert blocks["u"].labels == ("first", "second")
    plain = sharpness_by_rank(loss, params, updates, ranking, (0.1, 0.5), batches)
    np.testing.assert_allclose(by_rank["w"].sharpness, plain["w"].sharpness, rtol=1e-12)
    plain = block_sharpness(loss, params, updates, batches)
    np.testing.assert_allclose(blocks["w"].matrix, plain["w"].matrix, rtol=1e-12)
    with pytest.raises(TypeError, match="fractions must be numbers that are not traced"):
        jax.jit(lambda f: sharpness_by_rank(loss, params, updates, ranking, f, batches))(
            jnp.array([0.5])
        )


def test_arguments_and_auxiliaries_of_the_loss(point):
    loss, params, batches, updates, _ = point
    scaled = lambda p, b, scale: (scale * loss(p, b), {"aside": p})  # noqa: E731
    extra = {"args": (3.0,), "has_aux": True}
    plain = block_sharpness(loss, params, updates, batches)["u"].matrix
    found = block_sharpness(scaled, params, updates, batches, **extra)["u"].matrix
    np.testing.assert_allclose(found, 3 * plain, rtol=1e-11)
    plain = sharpness_by_rank(loss, params, updates, params, [0.5], batches)["u"].sharpness
    found = sharpness_by_rank(scaled, params, updates, params, [0.5], batches, **extra)["u"]
    np.testing.assert_allclose(found.sharpness, 3 * plain, rtol=1e-11)


def test_zero_and_nan_directions_have_no_sharpness(point):
    loss, params, batches, updates, _ = point
    broken = {
        "zero": jax.tree.map(jnp.zeros_like, params),
        "nan": {**updates["u"], "second": (updates["u"]["second"][0].at[0, 0].set(jnp.nan),)},
    }
    blocks = block_sharpness(loss, params, broken | updates, batches)
    by_rank = sharpness_by_rank(loss, params, broken | updates, params, [0.0, 0.5], batches)
    for name in broken:
        assert all(np.isnan(x).all() for x in jax.tree.leaves((blocks[name], by_rank[name])))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((blocks["u"], by_rank["u"])))
    unknown = sharpness_by_rank(loss, params, updates, broken["nan"], [0.5], batches)["u"]
    assert all(np.isnan(x).all() for x in jax.tree.leaves(unknown))


def test_arguments_are_checked(point):
    loss, params, batches, updates, _ = point
    with pytest.raises(ValueError, match="fractions"):
        sharpness_by_rank(loss, params, updates, params, [], batches)
    with pytest.raises(ValueError, match=r"fractions.*1\.5"):
        sharpness_by_rank(loss, params, updates, params, [1.5], batches)
    with pytest.raises(ValueError, match="magnitudes has no leaf"):
        sharpness_by_rank(loss, params, updates, {"first": 1.0}, [0.5], batches)
    with pytest.raises(ValueError, match=r"updates\['u'\]"):
        block_sharpness(loss, params, {"u": {"first": 1.0}}, batches)
    with pytest.raises(TypeError, match="updates must be a mapping"):
        block_sharpness(loss, (params,), (params,), batches)
    with pytest.raises(
        ValueError, match=r"updates\['first'\]"
    ):  # A bare tree is no mapping of any.
        block_sharpness(loss, params, updates["u"], batches)
    with pytest.raises(ValueError, match="groups must be one of 'tensor', got 'layer'"):
        block_sharpness(loss, params, updates, batches, groups="layer")
