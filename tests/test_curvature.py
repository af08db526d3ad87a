"""Oracles: closed forms, the dense Hessian in float64, finite differences, PyTorch."""

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpjax
from tests.cases import network, network_loss, quadratic, random_like

METHODS = ("reverse", "forward", "adjoint")
KEY = jax.random.key(0)


@pytest.fixture
def small(x64):
    """A small network in float64, a direction, and the dense Hessian and gradient in that order."""
    loss, params, batch = network(KEY, jnp.float64)
    direction = random_like(jax.random.key(7), params)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = jax.hessian(lambda x: loss(unravel(x), batch))(flat)
    gradient = jax.grad(lambda x: loss(unravel(x), batch))(flat)
    return loss, params, batch, direction, np.asarray(dense), np.asarray(gradient)


def ravel(tree):
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


def test_hvp_is_the_dense_hessian_times_the_direction(small):
    loss, params, batch, direction, dense, _ = small
    product = sharpjax.hvp(loss, params, direction, batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(product, params)
    np.testing.assert_allclose(ravel(product), dense @ ravel(direction), rtol=1e-12, atol=1e-13)


def test_hvp_is_linear_symmetric_and_vmaps(small):
    loss, params, batch, u, _, _ = small
    v = random_like(jax.random.key(8), params)
    h = lambda d: sharpjax.hvp(loss, params, d, batch)  # noqa: E731
    both = h(jax.tree.map(lambda x, y: 2 * x - 3 * y, u, v))
    apart = jax.tree.map(lambda x, y: 2 * x - 3 * y, h(u), h(v))
    chex.assert_trees_all_close(both, apart, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(optax.tree.vdot(u, h(v)), optax.tree.vdot(v, h(u)), rtol=1e-12)
    stacked = jax.vmap(h)(jax.tree.map(lambda x, y: jnp.stack([x, y]), u, v))
    expected = jax.tree.map(lambda x, y: jnp.stack([x, y]), h(u), h(v))
    chex.assert_trees_all_close(stacked, expected, rtol=1e-12)


def test_hvp_agrees_with_finite_differences_of_the_gradient(small):
    loss, params, batch, direction, _, _ = small
    # Central differences err by h²/6·f''' and by rounding/h: 1e-5 balances both near 1e-10.
    h = 1e-5
    gradient = lambda s: jax.grad(loss)(  # noqa: E731
        jax.tree.map(lambda p, d: p + s * d, params, direction), batch
    )
    difference = jax.tree.map(lambda a, b: (a - b) / (2 * h), gradient(h), gradient(-h))
    product = sharpjax.hvp(loss, params, direction, batch)
    chex.assert_trees_all_close(product, difference, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("jit", (False, True))
def test_taylor_is_the_dense_quadratic_form(small, method, jit):
    loss, params, batch, direction, dense, gradient = small
    v = ravel(direction) / np.linalg.norm(ravel(direction))
    taylor = lambda p, d, b: sharpjax.directional_taylor(loss, p, d, b, method=method)  # noqa: E731
    taylor = (jax.jit(taylor) if jit else taylor)(params, direction, batch)
    np.testing.assert_allclose(taylor.loss, loss(params, batch), rtol=1e-14)
    np.testing.assert_allclose(taylor.slope, gradient @ v, rtol=1e-12)
    np.testing.assert_allclose(taylor.sharpness, v @ dense @ v, rtol=1e-12)
    alone = sharpjax.directional_sharpness(loss, params, direction, batch, method=method)
    np.testing.assert_allclose(alone, taylor.sharpness, rtol=1e-13)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", (1e-36, 1e-12, 1.0, 1e12, 1e36))
def test_sharpness_is_invariant_to_scale_in_float32(method, scale):
    loss, params, batch = network(KEY)
    direction = random_like(jax.random.key(7), params)
    reference = sharpjax.directional_taylor(loss, params, direction, batch, method=method)
    scaled = jax.tree.map(lambda x: x * scale, direction)
    taylor = sharpjax.directional_taylor(loss, params, scaled, batch, method=method)
    chex.assert_trees_all_close(taylor, reference, rtol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_float32_stands_near_float64(method):
    loss, params, batch = network(KEY)
    direction = random_like(jax.random.key(7), params)
    narrow = sharpjax.directional_taylor(loss, params, direction, batch, method=method)
    with jax.enable_x64(True):
        wide = lambda t: jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), t)  # noqa: E731
        point = tuple(map(wide, (params, direction, batch)))
        exact = sharpjax.directional_taylor(loss, *point)
        # Relative to what is summed: the sharpness itself may be a small difference.
        terms = sharpjax.coordinate_sharpness(loss, *point)
        scale = float(optax.tree.norm(terms, ord=1))
        np.testing.assert_allclose(narrow.sharpness, exact.sharpness, atol=1e-6 * scale, rtol=0)
        np.testing.assert_allclose(narrow.slope, exact.slope, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_bfloat16_parameters_are_measured_in_float32(method):
    loss, params, batch = network(KEY)
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    direction = random_like(jax.random.key(7), low)
    taylor = sharpjax.directional_taylor(loss, low, direction, batch, method=method)
    assert taylor.sharpness.dtype == jnp.float32
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), (low, direction))
    reference = sharpjax.directional_taylor(loss, *widened, batch, method=method)
    chex.assert_trees_all_close(taylor, reference, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_zero_direction_has_slope_zero_and_no_sharpness(method):
    loss, params, batch = network(KEY)
    zero = optax.tree.zeros_like(params)
    taylor = sharpjax.directional_taylor(loss, params, zero, batch, method=method)
    assert taylor.slope == 0 and np.isnan(taylor.sharpness)
    stats = sharpjax.measure_directions(
        loss, params, {"zero": zero}, jax.tree.map(lambda x: x[None], batch), method=method
    )["zero"]
    assert stats.slope == 0 and stats.update_norm == 0
    assert np.isnan(stats.sharpness) and np.isnan(stats.newton_step)


def test_coordinate_sharpness_sums_to_the_sharpness(small):
    loss, params, batch, direction, dense, _ = small
    parts = sharpjax.coordinate_sharpness(loss, params, direction, batch)
    v = ravel(direction) / np.linalg.norm(ravel(direction))
    np.testing.assert_allclose(ravel(parts), v * (dense @ v), rtol=1e-10, atol=1e-13)
    total = sharpjax.directional_sharpness(loss, params, direction, batch)
    np.testing.assert_allclose(optax.tree.sum(parts), total, rtol=1e-12)


def test_pytorch_agrees(small):
    torch = pytest.importorskip("torch")
    loss, params, batch, direction, _, _ = small
    as_torch = lambda t: [torch.tensor(np.asarray(x)) for x in jax.tree.leaves(t)]  # noqa: E731
    x, y = torch.tensor(np.asarray(batch["x"])), torch.tensor(np.asarray(batch["y"]))

    def torch_loss(bias, kernel, second):
        return ((torch.tanh(x @ kernel + bias) @ second - y) ** 2).mean()

    _, products = torch.autograd.functional.vhp(
        torch_loss, tuple(as_torch(params)), tuple(as_torch(direction))
    )
    ours = jax.tree.leaves(sharpjax.hvp(loss, params, direction, batch))
    for product, our in zip(products, ours, strict=True):
        np.testing.assert_allclose(our, product.numpy(), rtol=1e-11, atol=1e-13)


def test_taylor_mode_gives_way_with_one_warning_where_it_has_no_rule(x64):
    def scanned(params):  # Neither `scan` nor `relu` has a rule.
        step = lambda h, w: (jax.nn.relu(jnp.tanh(w * h)) + h, None)  # noqa: E731
        return jnp.sum(jax.lax.scan(step, jnp.ones(()), params)[0] ** 2)

    params, direction = jnp.linspace(0.1, 1, 5), jnp.linspace(1, -1, 5)
    exact = sharpjax.directional_taylor(scanned, params, direction)
    with pytest.warns(UserWarning, match="jvp of jvp takes over") as caught:
        forward = sharpjax.directional_taylor(scanned, params, direction, method="forward")
    assert len(caught) == 1
    chex.assert_trees_all_close(forward, exact, rtol=1e-12)


@pytest.mark.parametrize("jit", (False, True))
def test_a_power_that_taylor_mode_cannot_take_is_handed_over(x64, jit):
    def powers(params):  # jet's rule for x**2.0 divides by log(x).
        return jnp.sum((params - 2.0) ** 2.0)

    params, direction = jnp.array([0.5, 2.0, 4.0]), jnp.array([1.0, -2.0, 0.5])
    measure = lambda p: sharpjax.directional_taylor(  # noqa: E731
        powers, p, direction, method="forward"
    )
    with pytest.warns(UserWarning, match="jvp of jvp takes over"):
        found = (jax.jit(measure) if jit else measure)(params)
    np.testing.assert_allclose(found.sharpness, 2, rtol=1e-12)
    unit = direction / jnp.linalg.norm(direction)
    np.testing.assert_allclose(found.slope, 2 * (params - 2) @ unit, rtol=1e-12)


def test_a_result_that_is_not_finite_where_the_loss_is_hands_over(monkeypatch):
    """Whatever rule of Taylor mode divides by zero: here one that is made to."""
    broken = lambda f, params: (f(params), lambda v: (jnp.nan * f(params),) * 2)  # noqa: E731
    monkeypatch.setattr("sharpjax.taylor.forward", broken)
    loss = lambda params: jnp.sum(params**4)  # noqa: E731
    params = jnp.array([1.0, 2.0])
    with pytest.warns(UserWarning, match='"forward" is not finite where the loss is'):
        found = sharpjax.directional_taylor(loss, params, params, method="forward")
    np.testing.assert_allclose(found.sharpness, 12 * (1 + 16) / 5, rtol=1e-5)
    zero = sharpjax.directional_taylor(loss, params, 0 * params, method="forward")
    assert np.isnan(zero.sharpness)


# ---- measure_directions


@pytest.fixture
def batches():
    keys = jax.random.split(jax.random.key(3), 2)
    return {
        "x": jax.random.normal(keys[0], (5, 8, 3)),
        "y": jax.random.normal(keys[1], (5, 8, 2)),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", (None, 1, 2, 3, 7))
def test_measure_directions_is_the_mean_over_micro_batches(batches, method, chunk):
    loss, params, _ = network(KEY)
    updates = {
        name: jax.tree.map(lambda x, s=scale: s * x, random_like(jax.random.key(i), params))
        for i, (name, scale) in enumerate({"b": 1.0, "a": 1e-9, "c": 100.0}.items())
    }
    measured = sharpjax.measure_directions(
        loss, params, updates, batches, method=method, chunk=chunk
    )
    assert list(measured) == ["b", "a", "c"]
    for name, update in updates.items():
        stats = measured[name]
        each = [
            sharpjax.directional_taylor(
                loss, params, update, jax.tree.map(lambda x, i=i: x[i], batches)
            )
            for i in range(5)
        ]
        sharpness = np.array([t.sharpness for t in each])
        np.testing.assert_allclose(stats.loss, np.mean([t.loss for t in each]), rtol=1e-5)
        np.testing.assert_allclose(stats.slope, np.mean([t.slope for t in each]), rtol=1e-4)
        np.testing.assert_allclose(stats.sharpness, sharpness.mean(), rtol=1e-4)
        np.testing.assert_allclose(
            stats.sharpness_se, sharpness.std(ddof=1) / np.sqrt(5), rtol=1e-4
        )
        np.testing.assert_allclose(stats.update_norm, np.linalg.norm(ravel(update)), rtol=1e-5)
        if stats.sharpness > 0:
            np.testing.assert_allclose(stats.newton_step, -stats.slope / stats.sharpness, rtol=1e-6)
            np.testing.assert_allclose(
                stats.predicted_decrease, stats.slope**2 / stats.sharpness / 2, rtol=1e-6
            )
        else:
            assert np.isnan(stats.newton_step) and np.isnan(stats.predicted_decrease)


@pytest.mark.parametrize("method", METHODS)
def test_closed_form_on_a_quadratic(x64, method):
    hessian = np.diag([4.0, -1.0, 0.5])
    loss = quadratic(hessian, np.array([1.0, 2.0, 3.0]), offset=5.0)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(2)}
    updates = {
        "convex": {"a": -jnp.ones(1) * 3, "b": jnp.zeros(2)},
        "concave": {"a": jnp.zeros(1), "b": jnp.array([-2.0, 0.0])},
    }
    batches = jnp.array([[1.0, 1.0], [3.0, 3.0]])  # The Hessian is doubled in the mean.
    out = sharpjax.measure_directions(loss, params, updates, batches, method=method)
    convex, concave = out["convex"], out["concave"]
    np.testing.assert_allclose([convex.loss, convex.slope, convex.sharpness], [5, -1, 8])
    np.testing.assert_allclose(convex.sharpness_se, np.std([4, 12], ddof=1) / np.sqrt(2))
    np.testing.assert_allclose([convex.newton_step, convex.predicted_decrease], [1 / 8, 1 / 16])
    np.testing.assert_allclose([concave.slope, concave.sharpness, concave.update_norm], [-2, -2, 2])
    assert np.isnan(concave.newton_step) and np.isnan(concave.predicted_decrease)


def test_one_micro_batch_has_no_standard_error(batches):
    loss, params, _ = network(KEY)
    first = jax.tree.map(lambda x: x[:1], batches)
    stats = sharpjax.measure_directions(loss, params, {"p": params}, first)["p"]
    assert np.isnan(stats.sharpness_se) and np.isfinite(stats.sharpness)


def test_a_dropout_key_in_args_is_one_fixed_function(batches):
    loss, params, _ = network(KEY)
    one = jax.tree.map(lambda x: x[:1], batches)
    measure = lambda *args: sharpjax.measure_directions(  # noqa: E731
        loss, params, {"p": params}, one, args=args
    )["p"]
    first = jax.tree.map(lambda x: x[0], one)
    key = jax.random.key(11)
    expected = sharpjax.directional_taylor(loss, params, params, first, key)
    np.testing.assert_allclose(measure(key).sharpness, expected.sharpness, rtol=1e-5)
    assert measure(key).loss == measure(key).loss
    assert measure(jax.random.key(12)).loss != measure(key).loss != measure().loss


def test_measuring_again_does_not_trace_again(batches):
    traces = []

    def counted(params, batch):
        traces.append(None)
        return network_loss(params, batch)

    _, params, _ = network(KEY)
    for scale in (1.0, 2.0, 3.0):
        update = jax.tree.map(lambda x, s=scale: s * x, params)
        sharpjax.measure_directions(counted, params, {"p": update}, batches)
        if scale == 1.0:
            first = len(traces)
    assert len(traces) == first


def temporaries(method, directions=1, micro_batches=1, chunk=1):
    """Bytes that a compiled measurement needs beside its arguments."""
    loss, params, _ = network(KEY, width=4096)
    batch = {"x": jnp.zeros((micro_batches, 16, 3)), "y": jnp.zeros((micro_batches, 16, 2))}
    updates = {str(i): params for i in range(directions)}

    def measure(params, updates, batch):
        return sharpjax.measure_directions(loss, params, updates, batch, method=method, chunk=chunk)

    compiled = jax.jit(measure).lower(params, updates, batch).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("method", METHODS)
def test_peak_memory_grows_neither_with_micro_batches_nor_with_directions(method):
    few = temporaries(method, directions=2, micro_batches=2)
    assert temporaries(method, directions=2, micro_batches=64) < 1.02 * few + 2**14
    assert temporaries(method, directions=16, micro_batches=2) < 1.02 * few + 2**14
    few = temporaries(method, directions=4, chunk=2)
    assert temporaries(method, directions=16, chunk=2) < 1.02 * few + 2**14


# ---- bad input


def test_bad_input_names_the_argument_and_the_value(batches):
    loss, params, batch = network(KEY)
    measure = sharpjax.measure_directions
    missing = {"first": params["first"]}
    with pytest.raises(ValueError, match=r"direction has no leaf \['second'\]\[0\]"):
        sharpjax.hvp(loss, params, missing, batch)
    reshaped = {**params, "second": (params["second"][0].T,)}
    with pytest.raises(ValueError, match=r"direction\['second'\]\[0\] has shape \(2, 4\)"):
        sharpjax.directional_taylor(loss, params, reshaped, batch)
    with pytest.raises(ValueError, match=r"updates\['sgd'\]\['second'\]\[0\] has shape"):
        measure(loss, params, {"sgd": reshaped}, batches)
    with pytest.raises(
        ValueError, match="method must be one of 'auto', 'reverse', 'forward', 'adjoint', got 'jet'"
    ):
        sharpjax.directional_sharpness(loss, params, params, batch, method="jet")
    integer = {**params, "second": (jnp.ones((4, 2), jnp.int32),)}
    with pytest.raises(TypeError, match=r"params\['second'\]\[0\] has dtype int32"):
        sharpjax.hvp(loss, integer, params, batch)
    complex_ = {**params, "second": (jnp.ones((4, 2), jnp.complex64),)}
    with pytest.raises(TypeError, match=r"direction\['second'\]\[0\] has dtype complex64"):
        sharpjax.hvp(loss, params, complex_, batch)
    with pytest.raises(TypeError, match=r"loss_fn must return a real scalar, got shape \(8, 3\)"):
        sharpjax.hvp(lambda p, b: b["x"] * p["first"]["bias"][0], params, params, batch)
    with pytest.raises(TypeError, match="loss_fn must return a scalar"):
        sharpjax.hvp(lambda p, b: (loss(p, b), 1.0), params, params, batch)
    with pytest.raises(ValueError, match=r"batches must hold at least one array, got \{\}"):
        measure(loss, params, {"p": params}, {})
    with pytest.raises(ValueError, match="agree on the first axis"):
        measure(loss, params, {"p": params}, {"x": jnp.zeros((0, 8, 3)), "y": jnp.zeros((0, 8, 2))})
    with pytest.raises(ValueError, match="agree on the first axis"):
        measure(loss, params, {"p": params}, {"x": batches["x"], "y": batches["y"][:2]})
    with pytest.raises(ValueError, match=r"updates must name at least one direction, got \{\}"):
        measure(loss, params, {}, batches)
    for chunk in (0, -1, 1.5, True):
        with pytest.raises(
            ValueError, match=f"chunk must be a positive integer or None, got {chunk}"
        ):
            measure(loss, params, {"p": params}, batches, chunk=chunk)
    with pytest.raises(ValueError, match="direction is a"):
        sharpjax.hvp(loss, params, {**params, "second": [params["second"][0]]}, batch)
