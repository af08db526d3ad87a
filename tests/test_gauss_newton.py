"""The Gauss-Newton part against the dense Jᵀ(∇²ℓ)J in float64, and closed forms."""

import warnings

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from sharpjax.gauss_newton import gauss_newton_sharpness
from tests.cases import random_like

KEY = jax.random.key(0)


def logits_fn(params, batch, scale=1.0):
    return scale * jnp.tanh(batch["x"] @ params["in"]) @ params["out"]


def cross_entropy(logits, batch):
    each = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
    return jnp.mean(each)


def loss_fn(params, batch, scale=1.0):
    return cross_entropy(logits_fn(params, batch, scale), batch)


@pytest.fixture
def classifier(x64):
    """Three micro-batches of 6 examples of 5 classes."""
    keys = jax.random.split(KEY, 4)
    params = {"in": jax.random.normal(keys[0], (4, 3)), "out": jax.random.normal(keys[1], (3, 5))}
    labels = jax.random.randint(keys[2], (3, 6), 0, 5)
    return params, {"x": jax.random.normal(keys[3], (3, 6, 4)), "labels": labels}


def dense_parts(outputs_fn, loss_of_outputs, params, batches):
    """Hessians and Jᵀ(∇²ℓ)J of all micro-batches, from dense derivatives; outputs are one array."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)

    @jax.jit
    def one(batch):
        outputs = lambda x: outputs_fn(unravel(x), batch)  # noqa: E731
        z, back = jax.flatten_util.ravel_pytree(outputs(flat))
        jacobian = jax.jacobian(lambda x: jax.flatten_util.ravel_pytree(outputs(x))[0])(flat)
        inner = jax.hessian(lambda z: loss_of_outputs(back(z), batch))(z)
        whole = jax.hessian(lambda x: loss_of_outputs(outputs(x), batch))(flat)
        return whole, jacobian.T @ inner @ jacobian

    pairs = [one(jax.tree.map(lambda x, i=i: x[i], batches)) for i in range(3)]
    return tuple(np.stack(ms) for ms in zip(*pairs, strict=True))


def assert_split(split, update, wholes, parts):
    v = np.array(jax.flatten_util.ravel_pytree(update)[0])
    v /= np.linalg.norm(v)
    whole, part = (np.array([v @ m @ v for m in ms]) for ms in (wholes, parts))
    for name, samples in (("sharpness", whole), ("gauss_newton", part), ("residual", whole - part)):
        np.testing.assert_allclose(getattr(split, name), samples.mean(), rtol=1e-9)
        error = samples.std(ddof=1) / 3**0.5
        np.testing.assert_allclose(getattr(split, f"{name}_se"), error, rtol=1e-8)


def test_parts_of_a_softmax_are_the_dense_ones(classifier):
    params, batches = classifier
    wholes, parts = dense_parts(logits_fn, cross_entropy, params, batches)
    updates = {"u": random_like(jax.random.key(5), params), "g": random_like(KEY, params)}
    found = gauss_newton_sharpness(logits_fn, cross_entropy, params, updates, batches)
    assert list(found) == ["u", "g"]
    for name, update in updates.items():
        assert_split(found[name], update, wholes, parts)
        assert found[name].gauss_newton > 0


def test_a_softmaxs_part_is_the_variance_of_the_logits_change(classifier):
    params, batches = classifier
    update = random_like(jax.random.key(5), params)
    split = gauss_newton_sharpness(logits_fn, cross_entropy, params, {"u": update}, batches)["u"]
    v = jax.tree.map(lambda x: x / optax.tree.norm(update), update)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batches)
    logits, change = jax.jvp(lambda p: logits_fn(p, flat), (params,), (v,))
    chance = np.asarray(jax.nn.softmax(logits))
    centred = change - np.sum(chance * change, axis=1, keepdims=True)
    np.testing.assert_allclose(
        split.gauss_newton, np.mean(np.sum(chance * centred**2, axis=1)), rtol=1e-12
    )


def test_any_pytree_of_outputs_and_a_loss_that_is_not_convex(classifier):
    params, batches = classifier
    outputs_fn = lambda p, b: {"h": jnp.tanh(b["x"] @ p["in"]), "scale": jnp.sum(p["out"] ** 2)}  # noqa: E731
    loss = lambda z, b: jnp.mean(jnp.sin(z["h"])) * z["scale"] + jnp.mean(z["h"] ** 4)  # noqa: E731
    wholes, parts = dense_parts(outputs_fn, loss, params, batches)
    update = random_like(KEY, params)
    split = gauss_newton_sharpness(outputs_fn, loss, params, {"u": update}, batches)["u"]
    assert_split(split, update, wholes, parts)


def test_linear_outputs_have_no_residual_and_a_linear_loss_has_nothing_else(classifier):
    params, batches = classifier
    linear = lambda p, b: b["x"] @ p["in"]  # noqa: E731
    squared = lambda z, b: jnp.mean(jnp.sum((z - b["x"][:, :3]) ** 2, axis=1))  # noqa: E731
    update = {"u": random_like(KEY, params)}
    split = gauss_newton_sharpness(linear, squared, params, update, batches)["u"]
    v = np.asarray(update["u"]["in"] / optax.tree.norm(update["u"]))
    expected = np.mean(2 * np.sum((np.asarray(batches["x"]) @ v) ** 2, axis=2))
    np.testing.assert_allclose(split.gauss_newton, expected, rtol=1e-12)
    np.testing.assert_allclose(split.residual, 0, atol=1e-14)
    total = lambda z, b: jnp.sum(z)  # noqa: E731
    split = gauss_newton_sharpness(logits_fn, total, params, update, batches)["u"]
    np.testing.assert_allclose(split.gauss_newton, 0, atol=1e-14)
    assert abs(split.residual) > 0.01


def test_sharpness_is_that_of_measure_directions(classifier):
    params, batches = classifier
    updates = {"u": random_like(KEY, params), "zero": jax.tree.map(jnp.zeros_like, params)}
    updates["nan"] = {**updates["u"], "in": updates["u"]["in"].at[0, 0].set(jnp.nan)}
    found = gauss_newton_sharpness(logits_fn, cross_entropy, params, updates, batches, args=(2.0,))
    stats = sharpjax.measure_directions(loss_fn, params, updates, batches, args=(2.0,))
    np.testing.assert_allclose(found["u"].sharpness, stats["u"].sharpness, rtol=1e-12)
    np.testing.assert_allclose(found["u"].sharpness_se, stats["u"].sharpness_se, rtol=1e-12)
    assert np.isnan(jax.tree.leaves((found["zero"], found["nan"]))).all()


def test_can_be_jitted_and_the_same_functions_compile_once(classifier):
    params, batches = classifier
    traces = []

    def outputs_fn(params, batch):
        traces.append(1)
        return logits_fn(params, batch)

    split = lambda u: gauss_newton_sharpness(outputs_fn, cross_entropy, params, u, batches)  # noqa: E731
    update = {"u": random_like(KEY, params)}
    plain = split(update)["u"]
    before = len(traces)
    split({"u": jax.tree.map(lambda x: -x, update["u"])})
    assert len(traces) == before
    jitted = jax.jit(split)(update)["u"]
    np.testing.assert_allclose(jitted.residual, plain.residual, rtol=1e-11)


def test_custom_vjp_outputs_and_losses_hand_over(classifier):
    params, batches = classifier

    @jax.custom_vjp
    def tanh(x):
        return jnp.tanh(x)

    tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))

    @jax.custom_vjp
    def entropy(z, labels):
        return cross_entropy(z, {"labels": labels})

    def entropy_bwd(saved, g):
        z, labels = saved
        chance = jax.nn.softmax(z) - jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)
        return g * chance / len(labels), None

    entropy.defvjp(lambda z, labels: (entropy(z, labels), (z, labels)), entropy_bwd)
    custom = lambda p, b: tanh(b["x"] @ p["in"]) @ p["out"]  # noqa: E731
    custom_loss = lambda z, b: entropy(z, b["labels"])  # noqa: E731
    update = {"u": random_like(KEY, params)}
    plain = gauss_newton_sharpness(logits_fn, cross_entropy, params, update, batches)["u"]
    split = lambda *of: gauss_newton_sharpness(*of, params, update, batches)["u"]  # noqa: E731
    with pytest.warns(UserWarning, match="custom_vjp.*reverse over reverse takes over"):
        found = split(custom, cross_entropy)
    with warnings.catch_warnings():  # The gradient of either may have a forward mode.
        warnings.simplefilter("ignore")
        found = [found, split(logits_fn, custom_loss), split(custom, custom_loss)]
    for one in found:
        for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(plain), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10)


@pytest.mark.parametrize("dtype", ("bfloat16", "float16"))
def test_outputs_of_16_bits_are_widened_before_the_loss(classifier, dtype):
    """The model may compute in 16 bits; the softmax and all sums are in float32."""
    params, batches = jax.tree.map(
        lambda x: x.astype(jnp.float32) if x.dtype == jnp.float64 else x, classifier
    )
    seen = []

    def narrow(p, b):
        return logits_fn(p, b).astype(dtype)

    def loss(z, b):
        seen.append(z.dtype)
        return cross_entropy(z, b)

    update = {"u": random_like(KEY, params)}
    found = gauss_newton_sharpness(narrow, loss, params, update, batches)["u"]
    assert set(seen) == {jnp.dtype("float32")}
    assert found.gauss_newton.dtype == jnp.float32
    plain = gauss_newton_sharpness(logits_fn, cross_entropy, params, update, batches)["u"]
    np.testing.assert_allclose(found.gauss_newton, plain.gauss_newton, rtol=0.02)


def test_arguments_are_checked(classifier):
    params, batches = classifier
    with pytest.raises(ValueError, match="updates"):
        gauss_newton_sharpness(logits_fn, cross_entropy, params, {}, batches)
    with pytest.raises(TypeError, match="updates must be a mapping"):
        gauss_newton_sharpness(logits_fn, cross_entropy, params, [params], batches)
    whole = lambda p, b: {"z": logits_fn(p, b), "count": jnp.arange(3)}  # noqa: E731
    with pytest.raises(TypeError, match=r"outputs\['count'\] has dtype int"):
        gauss_newton_sharpness(whole, lambda z, b: z["z"].sum(), params, {"u": params}, batches)
    with pytest.raises(TypeError, match="scalar"):
        gauss_newton_sharpness(logits_fn, lambda z, b: z, params, {"u": params}, batches)
