"""What every measurement shares: arguments, micro-batches, widening, and Hessian products."""

import functools
import gc
import weakref

import chex
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax
from sharpjax.objective import dot, magnitude, objective, standard_error
from tests.cases import network, network_loss, random_like

KEY = jax.random.key(0)


def split(batch, parts=4):
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)


def measure(loss, params, update, batches, **options):
    return sharpjax.measure_directions(loss, params, {"u": update}, batches, **options)["u"]


# ---- hessian_operator


def test_hessian_operator_is_the_dense_hessian_of_the_mean(x64):
    loss, params, batch = network(KEY, jnp.float64)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = jax.hessian(lambda x: loss(unravel(x), batch))(flat)
    v = random_like(jax.random.key(1), params)
    product = sharpjax.hessian_operator(loss, params, split(batch))
    for apply in (product, jax.jit(product)):
        found = jax.flatten_util.ravel_pytree(apply(v))[0]
        np.testing.assert_allclose(
            found, dense @ jax.flatten_util.ravel_pytree(v)[0], rtol=1e-11, atol=1e-12
        )
    stacked = jax.vmap(product)(jax.tree.map(lambda x: jnp.stack([x, 2 * x]), v))
    once = product(v)
    chex.assert_trees_all_close(
        stacked, jax.tree.map(lambda x: jnp.stack([x, 2 * x]), once), rtol=1e-12
    )
    with pytest.raises(ValueError, match="v has no leaf"):
        product({"first": v["first"]})


def test_reverse_over_reverse_where_a_custom_rule_has_no_forward_mode(x64):
    @jax.custom_vjp
    def sine(x):
        return jnp.sin(x)

    @jax.custom_vjp
    def curved(x):
        return jnp.sum(sine(x) ** 2)

    # The rule of one uses the other: what it leaves is differentiable in reverse mode alone.
    sine.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
    curved.defvjp(lambda x: (curved(x), x), lambda x, g: (g * 2 * sine(x) * jnp.cos(x),))
    loss = lambda x, batch: jnp.mean(batch) * curved(x)  # noqa: E731
    plain = lambda x, batch: jnp.mean(batch) * jnp.sum(jnp.sin(x) ** 2)  # noqa: E731
    x, v, batches = jnp.arange(3.0), jnp.array([1.0, -2.0, 0.5]), jnp.array([[1.0], [3.0]])
    with pytest.warns(UserWarning, match="reverse over reverse takes over"):
        product = sharpjax.hessian_operator(loss, x, batches)(v)
    np.testing.assert_allclose(product, 4 * jnp.cos(2 * x) * v)
    for method in ("auto", "adjoint", "reverse", "forward"):
        exact = measure(plain, x, v, batches, method=method)
        again = functools.partial(loss)  # Of its own: JAX warns where it compiles.
        with pytest.warns(UserWarning, match="takes over") as caught:
            found = measure(again, x, v, batches, method=method)
        assert len(caught) == 1
        chex.assert_trees_all_close(found, exact, rtol=1e-12)


# ---- extra arguments


def test_args_are_traced_and_cost_no_compilation_after_the_first():
    traces = []

    def loss(params, batch, statistics, weight):
        traces.append(None)
        return network_loss(params, batch) * weight + jnp.sum(statistics["mean"]) * jnp.sum(
            params["first"]["bias"] ** 2
        )

    _, params, batch = network(KEY)
    batches, update = split(batch), random_like(KEY, params)
    of = lambda s, w: measure(  # noqa: E731
        loss, params, update, batches, args=({"mean": jnp.full(2, s)}, w)
    )
    first = of(0.0, 1.0)
    count = len(traces)
    np.testing.assert_allclose(of(0.0, 3.0).sharpness, 3 * first.sharpness, rtol=1e-5)
    v = update["first"]["bias"] / first.update_norm
    np.testing.assert_allclose(
        of(0.5, 1.0).sharpness, first.sharpness + 2 * jnp.sum(v**2), rtol=1e-5
    )
    assert len(traces) == count


@pytest.mark.parametrize("value", (True, 2, 2.0, "two", None, np.float32(2), jnp.float32(2)))
def test_the_loss_takes_whatever_jax_grad_takes(value):
    def loss(params, batch, flag):
        if isinstance(flag, bool | str | None):
            return network_loss(params, batch) * (2 if flag else 1)
        if isinstance(flag, int | float) and flag > 1:  # Needs the value.
            return network_loss(params, batch) * flag
        return network_loss(params, batch) * jnp.asarray(flag)

    _, params, batch = network(KEY)
    v = random_like(KEY, params)
    grad = lambda p: jax.grad(loss)(p, batch, value)  # noqa: E731
    chex.assert_trees_all_close(
        sharpjax.hvp(loss, params, v, batch, value), jax.jvp(grad, (params,), (v,))[1], rtol=1e-4
    )
    scale = 1 if value is None else 2
    base = measure(network_loss, params, v, split(batch))
    found = measure(loss, params, v, split(batch), args=(value,))
    np.testing.assert_allclose(found.sharpness, scale * base.sharpness, rtol=1e-4)


def test_a_branch_on_a_number_makes_it_static():
    def loss(params, batch, beta):
        return network_loss(params, batch) * (beta if beta > 0 else 1.0)

    _, params, batch = network(KEY)
    base = measure(network_loss, params, params, split(batch))
    for beta, scale in ((2.0, 2), (-1.0, 1), (3, 3)):
        found = measure(loss, params, params, split(batch), args=(beta,))
        np.testing.assert_allclose(found.sharpness, scale * base.sharpness, rtol=1e-4)


def test_has_aux_takes_the_scalar_alone():
    _, params, batch = network(KEY)
    loss = lambda p, b: (network_loss(p, b), {"seen": b["x"], "note": "anything"})  # noqa: E731
    chex.assert_trees_all_close(
        measure(loss, params, params, split(batch), has_aux=True),
        measure(network_loss, params, params, split(batch)),
    )
    with pytest.raises(TypeError, match="has_aux=True is for"):
        measure(loss, params, params, split(batch))
    with pytest.raises(TypeError, match="with has_aux, loss_fn must return"):
        measure(network_loss, params, params, split(batch), has_aux=True)
    with pytest.raises(TypeError, match="args must be a tuple"):
        measure(network_loss, params, params, split(batch), args=KEY)


def test_what_a_loss_captures_is_frozen_everywhere_alike():
    class Model:
        beta = 1.0

        def loss(self, params, batch):
            return self.beta * network_loss(params, batch)

    model = Model()
    _, params, batch = network(KEY)
    one = jax.tree.map(lambda x: x[None], batch)

    def sharpnesses():
        return (
            sharpjax.directional_sharpness(model.loss, params, params, batch),
            measure(model.loss, params, params, one).sharpness,
            dot(params, sharpjax.hessian_operator(model.loss, params, one)(params))
            / dot(params, params),
        )

    before = sharpnesses()
    model.beta = 100.0
    np.testing.assert_allclose(sharpnesses(), before, rtol=1e-5)
    np.testing.assert_allclose(before, before[0], rtol=1e-4)


def test_fresh_losses_are_let_go():
    _, params, batch = network(KEY)
    batches, kept = split(batch), []
    for i in range(140):
        loss = lambda p, b, i=i: i * jnp.sum(p["first"]["bias"] ** 2)  # noqa: E731
        measured = objective(loss, params, batches)
        measured.run(_nothing)
        kept.append(weakref.ref(loss))
    del loss, measured
    gc.collect()
    assert sum(ref() is not None for ref in kept) <= 129


def _nothing(objective):
    return jnp.zeros(())


def test_a_loss_that_cannot_be_hashed():
    class Unhashable:
        __hash__ = None  # pyright: ignore

        def __call__(self, params, batch):
            return network_loss(params, batch)

    _, params, batch = network(KEY)
    chex.assert_trees_all_close(
        measure(Unhashable(), params, params, split(batch)),
        measure(network_loss, params, params, split(batch)),
    )


# ---- batches as users have them


def test_lists_tensors_and_encodings_are_batches():
    torch = pytest.importorskip("torch")
    from transformers import BatchEncoding

    _, params, batch = network(KEY)
    whole = split(batch)
    expected = measure(network_loss, params, params, whole)
    host = jax.tree.map(np.asarray, whole)
    each = [jax.tree.map(lambda x, i=i: x[i], host) for i in range(4)]
    as_torch = {k: torch.tensor(v) for k, v in host.items()}
    for batches in (
        each,
        BatchEncoding(host),
        [BatchEncoding(one) for one in each],
        as_torch,
        [{k: v[i] for k, v in as_torch.items()} for i in range(4)],
    ):
        chex.assert_trees_all_close(measure(network_loss, params, params, batches), expected)


def test_a_list_of_arrays_is_one_pytree_or_as_many_batches():
    x, y = jnp.ones((2, 3)), jnp.full((2, 3), 2.0)
    both = lambda w, batch: jnp.sum(batch[0] * batch[1]) * jnp.sum(w**2)  # noqa: E731
    single = lambda w, batch: jnp.sum(batch.reshape(6)) * jnp.sum(w**2)  # noqa: E731
    w = jnp.ones(2)
    np.testing.assert_allclose(measure(both, w, w, [x, y]).loss, 12)
    np.testing.assert_allclose(measure(single, w, w, [x, y]).loss, (6 + 12) / 2 * 2)


def test_ragged_and_unlike_batches_are_named():
    _, params, batch = network(KEY)
    each = [jax.tree.map(lambda x: x[:3], batch), jax.tree.map(lambda x: x[3:8], batch)]
    with pytest.raises(ValueError, match=r"batches\[1\] has shapes .*\(5, 3\)"):
        measure(network_loss, params, params, each)
    with pytest.raises(ValueError, match=r"batches\[1\] is a .*but batches\[0\] is a"):
        measure(network_loss, params, params, [each[0], {"x": each[1]["x"]}])
    with pytest.raises(TypeError, match=r"batches\['x'\] must be an array, got str"):
        measure(network_loss, params, params, {"x": "text"})


# ---- numbers


def test_magnitude_at_any_scale_of_zero_and_of_nan():
    x = jnp.array([3.0, -4.0])
    for scale in (1e-30, 1e-20, 1.0, 1e30):
        np.testing.assert_allclose(magnitude({"x": scale * x})[2], 5 * scale, rtol=1e-6)
    assert magnitude(jnp.zeros(3))[2] == 0
    for bad in (jnp.nan, jnp.inf):
        assert np.isnan(magnitude({"a": x, "b": jnp.array([bad])})[2])


def test_standard_error_is_the_sample_deviation():
    samples = jnp.array([[1.0, 2.0], [3.0, 2.0], [8.0, 2.0]])
    np.testing.assert_allclose(
        standard_error(samples), np.std(samples, axis=0, ddof=1) / np.sqrt(3), rtol=1e-6
    )
    assert np.isnan(standard_error(samples[:1])).all()


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16))
def test_losses_of_sixteen_bits_are_averaged_in_float32(dtype):
    loss = lambda w, batch: (jnp.sum(w**2) * jnp.mean(batch)).astype(dtype)  # noqa: E731
    w = jnp.ones(4, dtype)
    stats = measure(loss, w, w, jnp.full((1024, 1), 25.0))
    np.testing.assert_allclose(stats.loss, 100, rtol=1e-6)
    np.testing.assert_allclose(stats.slope, 2 * 25 * 2, rtol=1e-6)
    assert stats.loss.dtype == stats.slope.dtype == stats.sharpness.dtype == jnp.float32


@pytest.mark.parametrize("params_dtype", (np.float32, np.float64))
@pytest.mark.parametrize("update_dtype", (np.float32, np.float64))
def test_mixed_precisions_under_x64(x64, params_dtype, update_dtype):
    loss, params, batch = network(KEY, jnp.float64)
    batches = split(batch)
    update = random_like(jax.random.key(1), params)
    exact = measure(loss, params, update, batches)
    low = jax.tree.map(lambda x: np.asarray(x, params_dtype), params)
    found = measure(loss, low, jax.tree.map(lambda x: np.asarray(x, update_dtype), update), batches)
    chex.assert_trees_all_close(found, exact, rtol=1e-4)
