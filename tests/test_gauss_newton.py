"""The Gauss-Newton part against the dense JᵀHJ of a softmax classifier in float64."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax.gauss_newton import example_targets, gauss_newton_sharpness
from tests.cases import random_like

KEY = jax.random.key(0)


def logits_fn(params, batch):
    return jnp.tanh(batch["x"] @ params["in"]) @ params["out"]


def loss_fn(params, batch):
    labels, weights = example_targets(batch)
    logs = jax.nn.log_softmax(logits_fn(params, batch))
    picked = jnp.take_along_axis(logs, jnp.maximum(labels, 0)[..., None], -1)[..., 0]
    return -jnp.sum(weights * picked)


@pytest.fixture
def classifier(x64):
    """Three micro-batches of 2 examples of 3 positions, some not counted, one example without."""
    keys = jax.random.split(KEY, 5)
    params = {"in": jax.random.normal(keys[0], (4, 3)), "out": jax.random.normal(keys[1], (3, 5))}
    labels = jax.random.randint(keys[2], (3, 2, 3), 0, 5)
    labels = jnp.where(jax.random.uniform(keys[3], labels.shape) < 0.3, -100, labels)
    labels = labels.at[0, 1].set(-100)
    batches = {"x": jax.random.normal(keys[4], (3, 2, 3, 4)), "labels": labels}
    return params, batches


def dense_parts(params, batches):
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def one(batch):
        logits = lambda x: logits_fn(unravel(x), batch).reshape(-1, 5)  # noqa: E731
        jacobian, chance = jax.jacobian(logits)(flat), jax.nn.softmax(logits(flat))
        inner = jax.vmap(lambda p: jnp.diag(p) - jnp.outer(p, p))(chance)
        weights = example_targets(batch)[1].ravel()
        part = jnp.einsum("t,tka,tkl,tlb->ab", weights, jacobian, inner, jacobian)
        return jax.hessian(lambda x: loss_fn(unravel(x), batch))(flat), part

    pairs = [one(jax.tree.map(lambda x, i=i: x[i], batches)) for i in range(3)]
    return tuple(np.stack(ms) for ms in zip(*pairs, strict=True))


def test_parts_are_the_dense_ones_and_sum(classifier):
    params, batches = classifier
    wholes, parts = dense_parts(params, batches)
    updates = {"u": random_like(jax.random.key(5), params), "g": random_like(KEY, params)}
    found = gauss_newton_sharpness(loss_fn, logits_fn, params, updates, batches)
    assert list(found) == ["u", "g"]
    for name, update in updates.items():
        v = np.array(jax.flatten_util.ravel_pytree(update)[0])
        v /= np.linalg.norm(v)
        whole, part = (np.array([v @ m @ v for m in ms]) for ms in (wholes, parts))
        split = found[name]
        np.testing.assert_allclose(split.sharpness, whole.mean(), rtol=1e-11)
        np.testing.assert_allclose(split.gauss_newton, part.mean(), rtol=1e-11)
        np.testing.assert_allclose(split.residual, (whole - part).mean(), rtol=1e-9)
        error = (whole - part).std(ddof=1) / 3**0.5
        np.testing.assert_allclose(split.residual_se, error, rtol=1e-9)
        np.testing.assert_allclose(split.gauss_newton_se, part.std(ddof=1) / 3**0.5, rtol=1e-9)
        assert split.gauss_newton > 0


def test_linear_logits_have_no_residual(classifier):
    params, batches = classifier
    linear = {"in": 0 * params["in"], "out": params["out"]}
    along_out = {"v": {"in": jnp.zeros((4, 3)), "out": jnp.ones((3, 5)) * jnp.arange(5.0)[None]}}
    nudged = jax.tree.map(lambda x: x + 0.1, linear)
    split = gauss_newton_sharpness(loss_fn, logits_fn, nudged, along_out, batches)["v"]
    np.testing.assert_allclose(split.residual, 0, atol=1e-14)
    np.testing.assert_allclose(split.sharpness, split.gauss_newton, rtol=1e-11)


def test_sharpness_is_that_of_measure_directions(classifier):
    params, batches = classifier
    updates = {"u": random_like(KEY, params), "zero": jax.tree.map(jnp.zeros_like, params)}
    found = gauss_newton_sharpness(loss_fn, logits_fn, params, updates, batches)
    stats = sharpjax.measure_directions(loss_fn, params, updates, batches)
    np.testing.assert_allclose(found["u"].sharpness, stats["u"].sharpness, rtol=1e-12)
    np.testing.assert_allclose(found["u"].sharpness_se, stats["u"].sharpness_se, rtol=1e-12)
    assert np.isnan(found["zero"].gauss_newton)


def test_logits_of_another_loss_are_refused(classifier):
    params, batches = classifier
    twice = lambda p, b: 2 * logits_fn(p, b)  # noqa: E731
    with pytest.raises(ValueError, match="weighted cross-entropy"):
        gauss_newton_sharpness(loss_fn, twice, params, {"u": params}, batches)
    with pytest.raises(ValueError, match="updates"):
        gauss_newton_sharpness(loss_fn, logits_fn, params, {}, batches)


def test_default_targets_weigh_as_the_models_loss_does():
    losses = pytest.importorskip("sharpjax.models.losses")
    labels = jnp.array([[1, -100, 3], [-100, -100, -100], [4, 5, 6]])
    _, weights = example_targets({"labels": labels})
    np.testing.assert_array_equal(weights, losses._weights(labels, "example"))
