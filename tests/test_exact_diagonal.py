"""Elements of the diagonal against the dense Hessian in float64."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.coordinates import sample_coordinates
from sharpjax.exact_diagonal import exact_diagonal
from tests.cases import network

KEY = jax.random.key(0)


@pytest.fixture
def point(x64):
    """A network with a scalar, two micro-batches, and the diagonal of each dense Hessian."""
    inner, params, batch = network(KEY, jnp.float64)
    params = {"net": params, "scale": jnp.array(1.5)}

    def loss(params, batch, power=2.0):
        return params["scale"] ** power * inner(params["net"], batch)

    batches = jax.tree.map(lambda x: jnp.stack([x, 1.5 * x]), batch)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    one = jax.jit(lambda b: jnp.diag(jax.hessian(lambda x: loss(unravel(x), b))(flat)))
    dense = np.stack([one(jax.tree.map(lambda x, i=i: x[i], batches)) for i in range(2)])
    return loss, params, batches, dense


@pytest.mark.parametrize("chunk", (1, 4, 100))
def test_all_coordinates_are_the_dense_diagonal(point, chunk):
    loss, params, batches, dense = point
    everywhere = sample_coordinates(params, dense.shape[1], 0)
    found = exact_diagonal(loss, params, batches, everywhere, chunk=chunk)
    assert jax.tree.map(len, found.value) == jax.tree.map(jnp.size, params)
    values, errors = (
        np.concatenate(jax.tree.leaves(x)) for x in (found.value, found.standard_error)
    )
    np.testing.assert_allclose(values, dense.mean(0), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(errors, dense.std(0, ddof=1) / 2**0.5, rtol=1e-9, atol=1e-12)


def test_some_coordinates_in_any_order_jitted(point):
    loss, params, batches, dense = point
    flat = jax.flatten_util.ravel_pytree(jax.tree.map(lambda x: jnp.zeros(x.shape), params))[1](
        jnp.asarray(dense.mean(0))
    )
    at = jax.tree.map(lambda x: np.zeros(0, np.int64), params)
    at["net"]["first"]["kernel"], at["scale"] = np.array([7, 0, 7]), np.array([0])
    measure = lambda at: exact_diagonal(  # noqa: E731
        lambda p, b, scale: (scale * loss(p, b), b), params, batches, at, args=(2.0,), has_aux=True
    )
    for found in (measure(at), jax.jit(measure)(jax.tree.map(jnp.asarray, at))):
        kernel = np.ravel(flat["net"]["first"]["kernel"])
        expected = 2 * kernel[[7, 0, 7]]
        np.testing.assert_allclose(found.value["net"]["first"]["kernel"], expected, rtol=1e-10)
        np.testing.assert_allclose(found.value["scale"], 2 * flat["scale"][None], rtol=1e-10)
        assert found.value["net"]["second"][0].shape == (0,)


def test_one_micro_batch_has_no_error_and_16_bits_are_widened():
    loss, params, batch = network(KEY, jnp.bfloat16)
    batches = jax.tree.map(lambda x: x[None], batch)
    at = jax.tree.map(lambda x: np.array([x.size - 1]), params)
    found = exact_diagonal(loss, params, batches, at)
    wide = jax.tree.map(lambda x: x.astype(jnp.float32), (params, batches))
    expected = exact_diagonal(loss, *wide, at)
    for ours, theirs in zip(*map(jax.tree.leaves, (found.value, expected.value)), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert np.isnan(jax.tree.leaves(found.standard_error)).all()


def test_a_loss_without_forward_mode_hands_over():
    @jax.custom_vjp
    def exp(x):
        return jnp.exp(x)

    def forward(x):
        y = exp(x)
        return y, y

    exp.defvjp(forward, lambda y, g: (g * y,))
    x = jnp.arange(3.0)
    with pytest.warns(UserWarning, match="takes over"):
        found = exact_diagonal(lambda p, b: b[0] * exp(p).sum(), x, jnp.ones((1, 1)), jnp.arange(3))
    np.testing.assert_allclose(found.value, np.exp(x), rtol=1e-6)


def test_arguments_are_checked(point):
    loss, params, batches, _ = point
    none = jax.tree.map(lambda x: np.zeros(0, int), params)
    with pytest.raises(ValueError, match="coordinates must hold at least one position"):
        exact_diagonal(loss, params, batches, none)
    with pytest.raises(ValueError, match=r"\['scale'\] must be positions in \[0, 1\), got 1"):
        exact_diagonal(loss, params, batches, none | {"scale": np.array([1])})
    with pytest.raises(ValueError, match="got -1"):
        exact_diagonal(loss, params, batches, none | {"scale": np.array([-1, 0])})
    with pytest.raises(ValueError, match="chunk must be a positive integer, got 0"):
        exact_diagonal(loss, params, batches, none, chunk=0)
