"""Every measurement of the anatomy over meshes and mixes of dtypes, against float64 in one place.

The oracles of each are in its own test file; here only the arrays differ.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpjax.anatomy import block_sharpness, sharpness_by_rank
from sharpjax.diagonal import hessian_diagonal
from sharpjax.exact_diagonal import exact_diagonal
from sharpjax.gauss_newton import gauss_newton_sharpness
from sharpjax.subspace import measure_span
from tests.devices import on_eight_devices

COORDINATES = {"w": np.array([3, 31, 8]), "v": np.array([0, 7]), "b": np.zeros(0, int)}


def point(dtype=np.float64):
    """Parameters whose axes split over (4, 2) devices, updates, a ranking with ties, batches."""
    draw = np.random.default_rng(0)
    tree = lambda: {  # noqa: E731
        "w": draw.normal(size=(4, 8)).astype(dtype),
        "v": draw.normal(size=8).astype(dtype),
        "b": np.asarray(draw.normal(), dtype),
    }
    ranking = jax.tree.map(lambda x: np.round(x).astype(dtype), tree())
    params, updates = tree(), {"u": tree(), "zero": jax.tree.map(np.zeros_like, tree())}
    return params, updates, ranking, draw.normal(size=(2, 6, 4)).astype(dtype)


def outputs_fn(params, batch):
    hidden = jnp.tanh(jnp.sum(batch[:, :, None] * params["w"][None], axis=1))
    return jnp.sum(hidden * params["v"][None], axis=1) * params["b"]


def loss_of_outputs(outputs, batch):
    return jnp.mean(jnp.square(outputs - batch[:, 0].astype(outputs.dtype)))


def loss_fn(params, batch):
    return loss_of_outputs(outputs_fn(params, batch), batch)


def everything(params, updates, ranking, batches):
    """Every result, as a tree of arrays."""
    key = jax.random.key(0, impl="threefry2x32")
    return {
        "span": measure_span(loss_fn, params, updates, batches),
        "blocks": block_sharpness(loss_fn, params, updates, batches, groups="tensor"),
        "rank": sharpness_by_rank(loss_fn, params, updates, ranking, (0.0, 0.2, 1.0), batches),
        "parts": gauss_newton_sharpness(outputs_fn, loss_of_outputs, params, updates, batches),
        "exact": exact_diagonal(loss_fn, params, batches, COORDINATES, chunk=2),
        "probes": hessian_diagonal(
            loss_fn, params, batches, key, probes=3, coordinates=COORDINATES
        ),
    }


def assert_close(found, expected, tolerance):
    found, expected = (jax.tree_util.tree_leaves_with_path(x) for x in (found, expected))
    for (path, x), (_, y) in zip(found, expected, strict=True):
        scale = np.max(np.abs(np.nan_to_num(np.asarray(y, np.float64))), initial=1e-3)
        np.testing.assert_allclose(
            np.asarray(x, np.float64), y, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize(("of_params", "of_rest"), (("float32", "float64"), ("float64", "float32")))
def test_mixes_of_dtypes(x64, of_params, of_rest):
    """As NumPy has them: float32 parameters with float64 directions, and the reverse."""
    params, updates, ranking, batches = point(np.float32)
    cast = lambda tree, dtype: jax.tree.map(lambda x: np.asarray(x, dtype), tree)  # noqa: E731
    exact = everything(*cast((params, updates, ranking, batches), "float64"))
    mixed = cast(params, of_params), cast(updates, of_rest), cast(ranking, of_rest)
    found = everything(*mixed, cast(batches, of_params))
    assert all(x.dtype in (np.float32, np.float64) for x in jax.tree.leaves(found))
    assert_close(found, exact, 1e-4)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tests.test_anatomy_sharded import COORDINATES, assert_close, everything, point
from sharpjax import exact_diagonal, hessian_diagonal

jax.config.update("jax_enable_x64", True)
params, updates, ranking, batches = point()
expected = jax.device_get(everything(params, updates, ranking, batches))
specs = {"w": P("x", "y"), "v": P("y"), "b": P()}
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    put = lambda t: {k: jax.device_put(x, NamedSharding(mesh, specs[k])) for k, x in t.items()}
    sharded = put(params), {k: put(u) for k, u in updates.items()}, put(ranking)
    whole = jax.device_put(batches, NamedSharding(mesh, P()))
    found = everything(*sharded, whole)
    assert_close(found, expected, 1e-11)
    diagonal = found["probes"].diagonal
    for name, x in diagonal.items():
        assert x.sharding.is_equivalent_to(sharded[0][name].sharding, x.ndim), (kind, name)
    # Of a loss that needs no other device's parameters, neither diagonal gathers any.
    apart = lambda p, b: b.sum() * sum(jnp.sum(x**4) for x in jax.tree.leaves(p))
    both = lambda p: (exact_diagonal(apart, p, whole, COORDINATES), hessian_diagonal(
        apart, p, whole, jax.random.key(0), probes=2, coordinates=COORDINATES))
    hlo = jax.jit(both).lower(sharded[0]).compile().as_text()
    for gather in ("all-gather", "all-to-all", "collective-permute"):
        assert gather not in hlo, gather
    if kind == AxisType.Explicit:  # Directions as NumPy has them.
        assert_close(everything(sharded[0], updates, ranking, whole), expected, 1e-11)
print("passed")
"""


def test_meshes_with_automatic_and_explicit_axes():
    assert on_eight_devices(SHARDED) == "passed"
