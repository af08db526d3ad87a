"""Parts' slopes and sharpnesses: their sum, a linear softmax, dense Hessians of each."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.directions import measure_directions
from sharpjax.parts import measure_parts
from tests.cases import network, random_like

KEY = jax.random.key(0)


def outputs(params, batch):
    hidden = jnp.tanh(batch["x"] @ params["first"]["kernel"] + params["first"]["bias"][None])
    return hidden @ params["second"][0]


def of_examples(params, batch):
    """[8] parts: the loss of each example, which `network_loss` takes the mean of."""
    return jnp.mean(jnp.square(outputs(params, batch) - batch["y"]), axis=1) / 8


def test_parts_are_those_of_dense_hessians_and_sum_to_the_whole(x64):
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: jnp.stack([x, 2 * x, x + 1]), batch)
    updates = {
        "a": random_like(KEY, params),
        "b": random_like(jax.random.key(1), params),
        "zero": jax.tree.map(jnp.zeros_like, params),
        "nan": jax.tree.map(lambda x: x * jnp.nan, params),
    }
    found = measure_parts(of_examples, params, updates, batches)
    whole = measure_directions(loss, params, updates, batches)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    parts = lambda x, b: of_examples(unravel(x), b)  # noqa: E731
    gradients, hessians = (
        jax.jit(jax.vmap(d(parts), in_axes=(None, 0)))(flat, batches)
        for d in (jax.jacrev, jax.hessian)
    )
    for name in "ab":
        v = np.asarray(jax.flatten_util.ravel_pytree(updates[name])[0])
        v = v / np.linalg.norm(v)
        slopes, sharpnesses = gradients @ v, np.einsum("mpij,i,j->mp", hessians, v, v)
        stats = found[name]
        assert stats.slope.shape == (8,)
        error = lambda x: np.std(x, axis=0, ddof=1) / 3**0.5  # noqa: E731
        np.testing.assert_allclose(stats.slope, slopes.mean(0), rtol=1e-9)
        np.testing.assert_allclose(stats.sharpness, sharpnesses.mean(0), rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(stats.slope_se, error(slopes), rtol=1e-9)
        np.testing.assert_allclose(stats.sharpness_se, error(sharpnesses), rtol=1e-7)
        np.testing.assert_allclose(stats.slope.sum(), whole[name].slope, rtol=1e-12)
        np.testing.assert_allclose(stats.sharpness.sum(), whole[name].sharpness, rtol=1e-9)
    np.testing.assert_array_equal(found["zero"].slope, 0)
    assert np.isnan(found["zero"].sharpness).all()
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found["nan"]))


def by_label(w, batch, classes):
    """[P] parts: the cross-entropy of the examples of each label, over the batch's size."""
    logs = jax.nn.log_softmax(batch["x"] @ w)
    losses = -jnp.take_along_axis(logs, batch["y"][:, None], axis=1)[:, 0]
    return jax.ops.segment_sum(losses, batch["y"], classes) / batch["y"].size


def test_a_linear_softmax_in_closed_form(x64):
    keys = jax.random.split(KEY, 4)
    w, v = (jax.random.normal(k, (3, 5)) for k in keys[:2])
    batches = {
        "x": jax.random.normal(keys[2], (2, 16, 3)),
        "y": jax.random.randint(keys[3], (2, 16), 0, 5),
    }
    stats = measure_parts(by_label, w, {"v": 7 * v}, batches, args=(5,))["v"]
    x, y = np.asarray(batches["x"]), np.asarray(batches["y"])
    logits, along = x @ np.asarray(w), x @ np.asarray(v / jnp.linalg.norm(v))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mean = np.sum(p * along, -1)
    slope = mean - np.take_along_axis(along, y[..., None], -1)[..., 0]
    variance = np.sum(p * along**2, -1) - mean**2
    for found, each in ((stats.slope, slope), (stats.sharpness, variance)):
        expected = [np.where(y == c, each, 0).mean() for c in range(5)]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@jax.custom_vjp
def cube(x):
    return x**3


cube.defvjp(lambda x: (x**3, x), lambda x, g: (3 * x**2 * g,))


def test_other_routes_take_over_with_a_warning():
    x, v = jnp.array([0.0, 3.0, -2.0]), jnp.array([0.0, 1.0, 1.0])
    batches = jnp.ones((2, 1))
    unit = np.asarray(v) / 2**0.5
    with pytest.warns(UserWarning, match="part by part"):
        parts = lambda x, batch: batch.mean() * cube(x)  # noqa: E731
        found = measure_parts(parts, x, {"v": v}, batches)["v"]
    np.testing.assert_allclose(found.slope, 3 * x**2 * unit, rtol=1e-5)
    np.testing.assert_allclose(found.sharpness, 6 * x * unit**2, rtol=1e-5)
    with pytest.warns(UserWarning, match="jvp of jvp"):
        parts = lambda x, batch: batch.mean() * (x - 1) ** 2.0  # noqa: E731
        found = measure_parts(parts, x, {"v": v}, batches)["v"]
    np.testing.assert_allclose(found.sharpness, 2 * unit**2, rtol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sixteen_bits_are_accumulated_in_float32(dtype):
    x = jnp.array([1.0, 2.0], dtype)
    batches = jnp.ones((600, 1), dtype)
    parts = lambda x, batch: 100 * batch.mean() * x**2  # noqa: E731
    found = jax.jit(lambda x: measure_parts(parts, x, {"u": x}, batches))(x)["u"]
    assert found.slope.dtype == jnp.float32
    np.testing.assert_allclose(found.slope, 200 * np.array([1, 4]) / 5**0.5, rtol=1e-2)
    np.testing.assert_allclose(found.sharpness, 200 * np.array([1, 4]) / 5, rtol=1e-2)


def test_parts_must_be_one_real_array():
    x, batches = jnp.ones(2), jnp.ones((2, 1))
    for parts in (
        lambda x, b: jnp.sum(x),
        lambda x, b: x[None],
        lambda x, b: (x, x),
        lambda x, b: jnp.arange(2),
    ):
        with pytest.raises(TypeError, match=r"parts_fn must return one real array \[P\], got"):
            measure_parts(parts, x, {"u": x}, batches)
    with pytest.raises(ValueError, match="shape"):
        measure_parts(lambda x, b: x, x, {"u": jnp.ones(3)}, batches)
