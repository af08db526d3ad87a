"""The gradient's noise against every example's gradient, a closed form, and repetition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.noise import gradient_noise
from tests.cases import network, random_like

KEY = jax.random.key(0)


def test_brute_force_over_examples(x64):
    """With micro-batches of one example, all of it is NumPy's."""
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: x[:, None], batch)
    update = random_like(KEY, params)
    found = gradient_noise(loss, params, {"u": update}, batches)
    check(found, gradients(loss, params, batches), flat(update), 1)


def test_brute_force_over_micro_batches(x64):
    loss, params, batch = network(KEY, jnp.float64)
    batches = jax.tree.map(lambda x: x.reshape(4, 2, -1), batch)
    update = random_like(KEY, params)
    scaled = lambda p, b, scale: (scale * loss(p, b), b)  # noqa: E731
    found = jax.jit(
        lambda p, s: gradient_noise(scaled, p, {"u": update}, batches, args=(s,), has_aux=True)
    )(params, 3.0)
    check(found, 3 * gradients(loss, params, batches), flat(update), 2)


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def gradients(loss, params, batches):
    found = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(params, batches)
    return np.concatenate([x.reshape(len(x), -1) for x in jax.tree.leaves(found)], 1)


def statistics(rows, update, size):
    count = len(rows)
    mean = rows.mean(0)
    trace = size * np.trace(np.atleast_2d(np.cov(rows.T)))
    squared = mean @ mean - trace / (size * count)
    slopes = rows @ update
    return np.array(
        [trace, squared, trace / squared, slopes.mean() / (size**0.5 * slopes.std(ddof=1))]
    )


def check(found, rows, update, size):
    estimates = found.trace, found.squared_norm, found.noise_scale, found.signal_to_noise["u"]
    errors = (
        *(found.trace_se, found.squared_norm_se, found.noise_scale_se),
        found.signal_to_noise_se["u"],
    )
    whole = statistics(rows, update, size)
    if whole[1] <= 0:
        whole[2] = np.nan
    np.testing.assert_allclose(estimates, whole, rtol=1e-9)
    left = np.stack([statistics(np.delete(rows, i, 0), update, size) for i in range(len(rows))])
    left[left[:, 1] <= 0, 2] = np.nan
    variance = (len(rows) - 1) / len(rows) * np.sum((left - left.mean(0)) ** 2, 0)
    np.testing.assert_allclose(errors, np.sqrt(variance), rtol=1e-7)


def regression(w, batch):
    return jnp.mean((batch["x"] @ w - batch["y"]) ** 2) / 2


def test_gaussian_regression_in_closed_form_and_its_errors_by_repetition(x64):
    """x ~ N(0, I), y = ε: at w the gradient is w, and trΣ = (d + 1)·‖w‖² + d·σ²."""
    w, sigma, repeats, count, size = jnp.array([0.6, -0.3, 0.2]), 0.7, 400, 24, 8
    keys = jax.random.split(KEY, 2)
    draws = {
        "x": jax.random.normal(keys[0], (repeats, count, size, 3)),
        "y": sigma * jax.random.normal(keys[1], (repeats, count, size)),
    }
    measure = lambda batches: gradient_noise(regression, w, {"w": -w}, batches)  # noqa: E731
    found = jax.jit(jax.vmap(measure))(draws)
    length = w @ w
    trace = 4 * length + 3 * sigma**2
    cases = (
        (found.trace, found.trace_se, trace),
        (found.squared_norm, found.squared_norm_se, length),
        (
            found.signal_to_noise["w"],
            found.signal_to_noise_se["w"],
            -jnp.sqrt(length / (2 * length + sigma**2)),
        ),
        (found.noise_scale, found.noise_scale_se, trace / length),
    )
    for i, (value, error, true) in enumerate(cases):
        spread = value.std(ddof=1)
        # A quotient is biased by its own square error.
        bias = (0, 0, 0.02, 0.05)[i] * abs(true)
        assert abs(value.mean() - true) < 4 * spread / repeats**0.5 + bias
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(error**2)), spread, rtol=0.2)


def test_what_cannot_be_had_is_nan():
    batches = jnp.array([[1.0, 2.0], [3.0, 5.0]])
    loss = lambda x, batch: jnp.mean((x - batch) ** 2) / 2  # noqa: E731
    x = jnp.array(0.0)
    updates = {"u": x + 1, "zero": x, "nan": x * jnp.nan}
    one = gradient_noise(loss, x, updates, batches[:1])
    assert all(np.isnan(leaf) for leaf in jax.tree.leaves(one))
    two = gradient_noise(loss, x, updates, batches)
    assert np.isfinite(two.trace) and np.isnan(two.trace_se) and np.isnan(two.noise_scale_se)
    assert two.signal_to_noise["u"] < 0
    assert np.isnan(two.signal_to_noise["zero"]) and np.isnan(two.signal_to_noise["nan"])
    drowned = gradient_noise(loss, x, updates, jnp.array([[-1.0], [1.0], [-1.0], [1.0]]))
    assert drowned.squared_norm < 0 and np.isnan(drowned.noise_scale)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sixteen_bits_and_a_small_spread(dtype):
    """Gradients of 1000 ± 1: the difference of sums of squares would be rounding."""
    data = np.random.default_rng(0).normal(1000, 1, (6, 4)).astype(np.float32)
    loss = lambda x, batch: jnp.mean(x["w"] * batch)  # noqa: E731
    params = {"w": jnp.ones((), dtype)}
    found = gradient_noise(loss, params, {"u": params}, jnp.asarray(data))
    assert found.trace.dtype == jnp.float32
    np.testing.assert_allclose(
        found.trace, 4 * np.var(data.mean(1, dtype=np.float64), ddof=1), rtol=1e-2
    )


def test_batches_must_say_how_many_examples():
    loss = lambda x, batch: jnp.mean(x * batch["a"])  # noqa: E731
    x = jnp.array(1.0)
    for batches in ({"a": jnp.ones(3)}, {"a": jnp.ones((3, 2)), "b": jnp.ones((3, 4))}):
        with pytest.raises(ValueError, match="second axis"):
            gradient_noise(loss, x, {"u": x}, batches)
    kept = gradient_noise(loss, x, {"u": x}, {"a": jnp.ones((3, 2)), "weight": jnp.ones(3)})
    assert kept.trace == 0
