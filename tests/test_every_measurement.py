"""Every public measurement in every dtype and on every mesh, against float64 on one device."""

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import measurements
from tests.measurements import MEASUREMENTS, close, loss, loss_and_aux, numbers

ARGS = (1.5,)
each = pytest.mark.parametrize("measurement", MEASUREMENTS, ids=lambda m: m.name)


@functools.cache
def exact(measurement):
    with jax.enable_x64(True):
        return jax.device_get(measure(measurement, *measurements.point(np.float64)))


def measure(measurement, params, update, batches, loss_fn=loss, **options):
    return measurement.run(loss_fn, params, update, batches, args=ARGS, **options)


@each
def test_float32(measurement):
    close(measure(measurement, *measurements.point(np.float32)), exact(measurement), 1e-3)


@pytest.mark.parametrize("dtype", (jnp.bfloat16, jnp.float16))
@each
def test_parameters_and_losses_of_sixteen_bits(measurement, dtype):
    """The numbers are those of float64 up to the rounding of the loss that is returned."""

    def narrow(params, batch, weight):
        return loss(params, batch, weight).astype(dtype)

    params, update, batches = measurements.point(np.float32)
    low = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    found = measure(measurement, low(params), low(update), batches, narrow)
    room = 0.03 if dtype == jnp.bfloat16 else 0.01
    if measurement.name in ("search_along",):  # Its steps hang on what the loss resolves.
        assert np.isfinite(numbers(found[:2])).all()
        return
    close(found, exact(measurement), room)
    assert all(x.dtype.itemsize >= 4 for x in jax.tree.leaves(found) if hasattr(x, "dtype"))


@pytest.mark.parametrize("dtypes", ((np.float32, np.float64), (np.float64, np.float32)))
@each
def test_mixed_precisions_under_x64(measurement, dtypes, x64):
    params, update, batches = measurements.point()
    params = jax.tree.map(lambda x: x.astype(dtypes[0]), params)
    update = jax.tree.map(lambda x: x.astype(dtypes[1]), update)
    close(measure(measurement, params, update, batches), exact(measurement), 1e-3)


@pytest.mark.parametrize("measurement", [m for m in MEASUREMENTS if m.jit], ids=lambda m: m.name)
def test_jit(measurement):
    inner = lambda p, u, b, w: measurement.run(loss, p, u, b, args=(w,))  # noqa: E731
    found = jax.jit(inner)(*measurements.point(np.float32), *ARGS)
    close(found, exact(measurement), 1e-3)


@pytest.mark.parametrize("measurement", [m for m in MEASUREMENTS if m.loss], ids=lambda m: m.name)
def test_has_aux(measurement):
    if measurement.name in ("hvp", "coordinate_sharpness") or "directional_" in measurement.name:
        pytest.skip("takes a scalar loss of any arguments")
    at = measurements.point(np.float32)
    close(measure(measurement, *at, loss_and_aux, has_aux=True), exact(measurement), 1e-3)


@pytest.mark.parametrize("measurement", [m for m in MEASUREMENTS if m.update], ids=lambda m: m.name)
def test_an_update_that_is_nan_or_zero(measurement):
    params, update, batches = measurements.point(np.float32)
    fill = lambda value: jax.tree.map(lambda x: np.full_like(x, value), update)  # noqa: E731
    if measurement.name == "loss_plane":
        with pytest.raises(ValueError):
            measure(measurement, params, fill(0), batches)
        return
    found = numbers(measure(measurement, params, fill(np.nan), batches))
    assert np.isnan(found).any()
    zero = numbers(measure(measurement, params, fill(0), batches))
    if measurement.zero is not None:
        np.testing.assert_equal(
            zero[np.isnan(zero)] if np.isnan(measurement.zero) else zero, measurement.zero
        )
        assert zero.size and (np.isnan(measurement.zero) <= np.isnan(zero).any())


# What needs eight devices runs in a process of its own: devices are made when JAX starts.
_MESHES = """
import sys
import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tests import measurements
from tests.measurements import MEASUREMENTS, close, loss

params, update, batches = measurements.point(np.float32)
with jax.enable_x64(True):
    at = measurements.point()
    exact = {m.name: jax.device_get(m.run(loss, *at, args=(1.5,))) for m in MEASUREMENTS}
bad = []
for kind, sizes in (
    (AxisType.Explicit, (4, 2)),
    (AxisType.Auto, (4, 2)),
    (AxisType.Explicit, (1, 1)),
):
    few = jax.devices()[: sizes[0] * sizes[1]]
    mesh = jax.make_mesh(sizes, ("data", "fsdp"), axis_types=(kind,) * 2, devices=few)
    put = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, P(*spec)))
    place = lambda t: {
        "first": {
            "kernel": put(t["first"]["kernel"], None, "fsdp"),
            "bias": put(t["first"]["bias"]),
        },
        "second": put(t["second"], "fsdp", None),
    }
    split = jax.tree.map(lambda x: put(x, None, "data"), batches)
    with jax.set_mesh(mesh):
        for m in MEASUREMENTS:
            try:
                found = m.run(loss, place(params), place(update), split, args=(1.5,))
                close(found, exact[m.name], 1e-3)
            except Exception as error:
                bad.append(f"{kind} {sizes} {m.name}: {type(error).__name__} {error}"[:600])
print("\\n".join(bad))
sys.exit(bool(bad))
"""


def test_meshes_with_explicit_and_auto_axes():
    env = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", _MESHES], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
