"""Many directions: in one program inside `jit`, by the same few programs for all outside."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpjax

X, U = jnp.array([0.3, -0.5, 0.2]), jnp.array([1.0, 2.0, -0.5])
BATCHES = jax.random.normal(jax.random.key(0), (2, 4, 3))


def loss(x, batch):
    return jnp.mean(jnp.tanh(batch @ x) ** 2)


@pytest.mark.parametrize("method, chunk", (("adjoint", 2), ("forward", None), ("reverse", 3)))
def test_the_same_inside_of_jit_at_any_length(method, chunk):
    scales = {"one": 1.0, "tiny": 1e-30, "huge": 1e30, "zero": 0.0, "nan": jnp.nan}
    updates = {name: scale * U for name, scale in scales.items()}

    def measure(updates):
        return sharpjax.measure_directions(loss, X, updates, BATCHES, method=method, chunk=chunk)

    outside = measure(updates)
    # Inside of `jit` constants are traced as well.
    inside = jax.jit(measure)(updates) if chunk else jax.jit(lambda: measure(updates))()
    assert [*outside] == [*updates]
    chex.assert_trees_all_close(outside, {name: inside[name] for name in updates}, rtol=1e-5)
    for name in ("tiny", "huge"):
        np.testing.assert_allclose(outside[name].slope, outside["one"].slope, rtol=1e-5)
        np.testing.assert_allclose(outside[name].sharpness, outside["one"].sharpness, rtol=1e-5)
    assert outside["zero"].slope == 0 and np.isnan(outside["zero"].sharpness)
    assert np.isnan(outside["nan"].slope) and np.isfinite(outside["nan"].loss)


def test_another_number_of_directions_traces_nothing():
    traces, seen = [], []

    def counted(x, batch):
        traces.append(None)
        return loss(x, batch)

    for count in (1, 3):
        updates = {str(i): (i + 1) * U for i in range(count)}
        sharpjax.measure_directions(counted, X, updates, BATCHES)
        seen.append(len(traces))
    assert seen[0] == seen[1] > 0


@pytest.mark.parametrize("method", ("adjoint", "reverse"))
def test_a_loss_in_float16_sees_unit_directions(method):
    """A derivative along 1e5·u leaves float16's range, though float32 would hold it."""
    narrow = lambda x, batch: jnp.sum(jnp.sin(x.astype(jnp.float16)))  # noqa: E731
    updates = {"one": U, "long": 1e5 * U}
    stats = sharpjax.measure_directions(narrow, X, updates, BATCHES, method=method)
    np.testing.assert_allclose(stats["long"].sharpness, stats["one"].sharpness, rtol=1e-2)
